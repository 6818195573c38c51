#!/bin/sh
# Counts the agent's system calls from the request for a container to the execve of its program, with strace, in the host
# isolation. Usage: syscalls.sh (as root)
set -eu
cd "$(dirname "$0")/.."
trace=$(mktemp)
trap 'rm -f "$trace"' EXIT
AGENT_TRACE=$trace cargo test --quiet -p bulkhead-agent --test control a_container_as_docker_makes_it -- --exact >&2
# F_GETFD: only the debug build asks whether what it closes is open.
awk '
    !counting && /read\(.*create/ { counting = 1 }
    !counting || /resumed/ || /F_GETFD/ { next }
    { name = $0; sub(/^[0-9]+ +/, "", name); sub(/\(.*/, "", name) }
    name == "execve" { exit }
    { count++; names[name]++ }
    END {
        print "system calls from the request to the program:", count
        for (name in names) printf "%5d %s\n", names[name], name | "sort -rn"
    }
' "$trace"
