#!/bin/sh
# Counts the agent's system calls from the request for a container, or for an exec in one, to the execve of its program, with
# strace, on the host's kernel. As in a guest, there is a hierarchy of cgroup v2 and no other.
# Usage: syscalls.sh [-l] [create|exec] (as root); -l lists them.
set -eu
list=
if [ "${1:-}" = -l ]; then list=1; shift; fi
request=${1:-create}
case $request in
    create) test=a_container_as_docker_makes_it ;;
    exec) test=an_exec_as_docker_makes_it ;;
    *) echo "syscalls.sh: $request: it counts for create or exec" >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."
trace=$(mktemp)
trap 'rm -f "$trace"' EXIT
AGENT_TRACE=$trace unshare --mount sh -ec '
    umount --recursive /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    exec cargo test --quiet -p bulkhead-agent --test control "$0" -- --exact' $test >&2
# F_GETFD: only the debug build asks whether what it closes is open. What a program in the container does is not the agent's.
awk -v list="$list" -v request="read\\(.*\"$request" '
    !counting && /execve\(/ { program[$1] = 1 }
    !counting && $0 ~ request { counting = 1; delete program[$1] }
    !counting || program[$1] || /resumed/ || /F_GETFD/ { next }
    { name = $0; sub(/^[0-9]+ +/, "", name); sub(/\(.*/, "", name) }
    list { print substr($0, 1, 160) }
    name == "execve" { ended = 1; exit }
    { count++; names[name]++ }
    END {
        if (!ended) { print "syscalls.sh: the trace has no " request " that an execve follows" | "cat >&2"; exit 1 }
        print "system calls from the request to the program:", count
        for (name in names) printf "%5d %s\n", names[name], name | "sort -rn"
    }
' "$trace"
