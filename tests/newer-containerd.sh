#!/usr/bin/env bash
# newer-containerd.sh [SUITE [ARGUMENT...]]: the tests of containerd with the containerd of another suite of the distribution
# (default: trixie). Its package is unpacked below target/, nothing is installed. Without arguments for the test program, plain
# containers only (`host::`); `newer-containerd.sh forky snapshots::` runs what its ARGUMENTs name.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly suite=${1:-trixie}
shift || true
readonly place=$PWD/target/containerd/$suite
readonly keys=/usr/share/keyrings/debian-archive-keyring.gpg

die() {
    echo "newer-containerd: $1" >&2
    exit 1
}

fetch() {
    local mirror
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v -- -security | head -n 1)
    [ -n "$mirror" ] || die "apt has no mirror: see /etc/apt/sources.list.d"
    rm -rf "$place" && mkdir -p "$place/lists/partial" "$place/cache/archives/partial"
    echo "deb [signed-by=$keys] $mirror $suite main" >"$place/sources.list"
    local options=(-qq -o Dir::Etc::SourceList="$place/sources.list" -o Dir::Etc::SourceParts=-
        -o Dir::State::Lists="$place/lists" -o Dir::Cache="$place/cache" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update || die "cannot read the packages of $suite at $mirror"
    (cd "$place" && apt-get "${options[@]}" download containerd) || die "$suite has no package containerd"
    rm -rf "$place/lists" "$place/cache"
    dpkg-deb --extract "$place"/containerd_*.deb "$place/new"
    rm "$place"/containerd_*.deb
    mv "$place/new" "$place/root"
}

[ -x "$place/root/usr/bin/containerd" ] || fetch
export PATH=$place/root/usr/bin:$PATH
version=$(containerd --version) || die "containerd of $suite does not run here"
echo "containerd of $suite: $version"
[ $# -gt 0 ] || set -- host::
cargo test --locked -p bulkhead-tests --test containerd -- "$@"
