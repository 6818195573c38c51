#!/usr/bin/env bash
# `make demo`: a Debian image made from the distribution's packages, and a program of it in a microVM.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PWD/target/release:$PATH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export BULKHEAD_DATA=$work/data BULKHEAD_RUN=$work/run

show() {
    printf '\n$ %s\n' "$*"
    "$@"
}

"${CARGO:-cargo}" run --quiet --locked --release -p bulkhead-tests --bin mkimage -- debian "$work/debian"
show bulkhead image import --name debian "oci:$work/debian"
show bulkhead image ls
printf '\nThe host runs Linux %s.\n' "$(uname -r)"
# shellcheck disable=SC2016 # the guest's shell expands it
show bulkhead run --rm --timeline debian sh -c \
    'echo "This is $(. /etc/os-release && echo "$PRETTY_NAME") in a microVM of its own. The guest runs Linux $(uname -r)."'
printf '\nThe timeline above counts from the request. On a KVM without VT-x or AMD-V the guest kernel is interpreted,\n'
printf 'and "kernel insns" are the instructions that it took; on hardware that column is empty.\n'
