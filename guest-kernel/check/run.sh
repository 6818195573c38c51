#!/usr/bin/env bash
# Boots VMLINUX with check/init.c and says what a container would miss. Usage: run.sh VMLINUX BULKHEAD_VMM [VCPUS]
set -euo pipefail

[ $# -ge 2 ] || {
    echo "usage: run.sh VMLINUX BULKHEAD_VMM [VCPUS]" >&2
    exit 2
}
kernel=$(realpath "$1")
vmm=$(realpath "$2")
vcpus=${3:-1}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir -p "$work/root/dev" "$work/lower"
gcc -O1 -static -Wno-unused-result -o "$work/root/init" "$here/init.c" -lrt
mknod "$work/root/dev/console" c 5 1
(cd "$work/root" && find . | cpio --quiet -o -H newc) >"$work/initrd"

echo "a file" >"$work/lower/file"
setfattr -n user.check -v value "$work/lower/file" 2>/dev/null ||
    python3 -c 'import os, sys; os.setxattr(sys.argv[1], "user.check", b"value")' "$work/lower/file"
mkfs.erofs "$work/lower.img" "$work/lower" >/dev/null
truncate -s 8M "$work/disk.img"
mkfs.ext4 -q "$work/disk.img"

cat >"$work/config.json" <<CONFIG
{"kernel": "$kernel", "initrd": "$work/initrd", "cmdline": "loglevel=4 CHECK_CPUS=$vcpus",
 "vcpus": $vcpus, "memory_mib": 256, "serial": {"file": "$work/serial"},
 "disks": [{"id": "lower", "files": ["$work/lower.img"], "read_only": true},
           {"id": "disk", "files": ["$work/disk.img"], "read_only": false}],
 "vsock": {"cid": 3, "path": "$work/vsock"}}
CONFIG
"$vmm" --config "$work/config.json" || true
tr -d '\r' <"$work/serial" | grep -aE '^(missing|guest kernel check)|anic' || cat "$work/serial"
grep -aq 'guest kernel check: 0 of' "$work/serial"
