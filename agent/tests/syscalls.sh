#!/bin/sh
# Counts the agent's system calls from the request for a container to the execve of its program, with strace, on the host's
# kernel. As in a guest, there is a hierarchy of cgroup v2 and no other. Usage: syscalls.sh [-l] (as root); -l lists them.
set -eu
cd "$(dirname "$0")/.."
trace=$(mktemp)
trap 'rm -f "$trace"' EXIT
AGENT_TRACE=$trace unshare --mount sh -ec '
    umount --recursive /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    exec cargo test --quiet -p bulkhead-agent --test control a_container_as_docker_makes_it -- --exact' >&2
# F_GETFD: only the debug build asks whether what it closes is open.
awk -v list="${1:-}" '
    !counting && /read\(.*create/ { counting = 1 }
    !counting || /resumed/ || /F_GETFD/ { next }
    { name = $0; sub(/^[0-9]+ +/, "", name); sub(/\(.*/, "", name) }
    list == "-l" { print substr($0, 1, 160) }
    name == "execve" { exit }
    { count++; names[name]++ }
    END {
        print "system calls from the request to the program:", count
        for (name in names) printf "%5d %s\n", names[name], name | "sort -rn"
    }
' "$trace"
