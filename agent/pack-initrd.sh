#!/bin/sh
# Packs the agent into a guest's initial RAM disk, uncompressed: a guest would have to unpack it.
# Usage: pack-initrd.sh AGENT OUTPUT      (as root: the archive has a device node)
set -eu

if [ $# -ne 2 ] || [ ! -f "$1" ]; then
    echo "usage: $0 AGENT OUTPUT, where AGENT is the static bulkhead-agent" >&2
    exit 2
fi
agent=$1
output=$2

tree=$(mktemp -d)
trap 'rm -rf "$tree" "$output.new.$$"' EXIT

install -m 0755 "$agent" "$tree/init"
# Every directory that the agent mounts on, so that it need not make them.
mkdir -p "$tree/dev" "$tree/proc" "$tree/sys/fs/cgroup" \
    "$tree/run/bulkhead/lower" "$tree/run/bulkhead/upper" "$tree/run/bulkhead/root"
# The kernel opens this as the agent's standard streams. It is the null device: a guest need not have a console.
mknod -m 0600 "$tree/dev/console" c 1 3
find "$tree" -exec touch -h -d @0 {} +

mkdir -p "$(dirname "$output")"
(cd "$tree" && find . -mindepth 1 | LC_ALL=C sort | cpio -o -H newc --reproducible --owner=0:0 --quiet) >"$output.new.$$"
mv -f "$output.new.$$" "$output"
