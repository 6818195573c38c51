#!/bin/sh
# Counts guest-kernel instructions by step, from a machine's first instruction to the first one of a container's program: of
# machines that boot and of clones, with a root from disks and one from a directory of the host.
# Usage: steps.sh (with BULKHEAD_VMM, BULKHEAD_KERNEL and BULKHEAD_INITRD, on a software KVM: elsewhere nobody counts).
set -eu
cd "$(dirname "$0")/.."
for test in clones::containers_of_machines_that_boot clones::clones; do
    cargo test --quiet -p bulkhead-agent --test guest $test -- --exact --nocapture
done | sed -n 's/^.*guest-kernel instructions, /guest-kernel instructions, /p'
