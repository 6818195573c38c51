#!/usr/bin/env bash
# Builds the guest's vmlinux: Debian's kernel source, or KERNEL_SRC, plus patches/ and config/.
# The result is cached by what went into it; the path of the cached file is printed on standard output.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
readonly tarball=/usr/src/linux-source-6.1.tar.xz
readonly cache=${XDG_CACHE_HOME:-$HOME/.cache}/bulkhead/kernel
# Part of the cache key: raised when this script builds something else from the same inputs.
readonly recipe=1
# Lines that make prints for this configuration; only the progress display depends on it.
readonly expected_steps=1475

output=
keep=0
force=0
print_key=0
work=

usage() {
    cat <<USAGE
Usage: build.sh [--output FILE] [--keep] [--force] [--print-key]

Builds the guest kernel, an ELF vmlinux, or takes it from the cache, and prints its path.

  --output FILE  also put a copy at FILE, atomically
  --keep         keep the build tree and say where it is
  --force        build although the cache has the result
  --print-key    print the cache key and stop
  --help         this text

Environment:
  KERNEL_SRC      directory of a kernel source tree to use instead of $tarball
  XDG_CACHE_HOME  where bulkhead/kernel/<key>/vmlinux goes (default: ~/.cache)
  JOBS            parallel compilations (default: number of processors)
USAGE
}

die() {
    echo "build.sh: $*" >&2
    exit 1
}

say() {
    echo "guest kernel: $*" >&2
}

parse_arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
        --output)
            [ $# -ge 2 ] || die "--output needs a file name"
            output=$2
            shift
            ;;
        --output=*) output=${1#*=} ;;
        --keep) keep=1 ;;
        --force) force=1 ;;
        --print-key) print_key=1 ;;
        --help | -h)
            usage
            exit 0
            ;;
        *) die "unknown argument '$1'; see --help" ;;
        esac
        shift
    done
}

# Installs the missing build tools, or names them.
need_packages() {
    local missing=() tool
    for tool in flex bison bc make gcc patch; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    command -v xz >/dev/null || missing+=(xz-utils)
    [ -e /usr/include/libelf.h ] || missing+=(libelf-dev)
    [ -n "${KERNEL_SRC:-}" ] || [ -e "$tarball" ] || missing+=(linux-source-6.1)
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        die "missing packages: ${missing[*]}; as root: apt-get install ${missing[*]}"
    fi
    say "installing ${missing[*]}"
    mkdir -p "$cache"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } \
        >"$cache/apt.log" 2>&1 || die "cannot install ${missing[*]}; see $cache/apt.log"
}

# What identifies the source: a package's tarball by size and time, a directory by every file's.
source_identity() {
    if [ -n "${KERNEL_SRC:-}" ]; then
        [ -e "$KERNEL_SRC/Kconfig" ] || die "KERNEL_SRC=$KERNEL_SRC is not a kernel source tree"
        (cd "$KERNEL_SRC" && find . -name .git -prune -o -type f -printf '%p %s %T@\n' | LC_ALL=C sort)
    else
        stat -L -c '%s %Y' "$tarball"
        dpkg-query -W -f '${Version}\n' linux-source-6.1 2>/dev/null || true
    fi
}

cache_key() {
    {
        source_identity
        cat "$here"/config/*.config "$here"/patches/*.patch
        echo "$recipe"
        gcc --version | head -n 1
        ld --version | head -n 1
    } | sha256sum | cut -c 1-24
}

unpack_source() {
    if [ -n "${KERNEL_SRC:-}" ]; then
        say "copying $KERNEL_SRC"
        mkdir "$work/source"
        tar -C "$KERNEL_SRC" --exclude=.git --exclude='*.o' -cf - . | tar -C "$work/source" -xf -
        make -C "$work/source" mrproper >>"$log" 2>&1 || die "cannot clean the copy of $KERNEL_SRC; see $log"
    else
        say "unpacking $tarball"
        tar -C "$work" -xf "$tarball" || die "cannot unpack $tarball"
        mv "$work"/linux-source-* "$work/source"
    fi
    local patch
    for patch in "$here"/patches/*.patch; do
        patch -d "$work/source" -p1 --fuzz=0 --forward --batch <"$patch" >>"$log" 2>&1 \
            || die "$(basename "$patch") does not apply to $(make -s -C "$work/source" kernelversion); see $log"
    done
}

# allnoconfig plus the fragments. An option that the kernel's own rules overruled is an error.
configure() {
    local lost=0 line
    cat "$here"/config/*.config >"$work/all.config"
    "${make[@]}" KCONFIG_ALLCONFIG="$work/all.config" allnoconfig >>"$log" 2>&1 \
        || die "cannot configure; see $log"
    while read -r line; do
        if ! grep -qxF -- "$line" "$work/build/.config"; then
            echo "build.sh: the kernel's configuration refused '$line'" >&2
            lost=1
        fi
    done < <(grep -hE '^CONFIG_[A-Z0-9_]+=.*[^n]$' "$work/all.config")
    while read -r line; do
        if grep -q -- "^$line=" "$work/build/.config"; then
            echo "build.sh: the kernel's configuration insists on '$line'" >&2
            lost=1
        fi
    done < <(sed -nE 's/^(CONFIG_[A-Z0-9_]+)=n$/\1/p' "$work/all.config")
    [ "$lost" -eq 0 ] || die "options were lost; name what they depend on in $here/config"
}

# Reads make's output into the log and shows how far it is.
show_progress() {
    local steps=0 percent=0 shown=-1 line
    while IFS= read -r line; do
        printf '%s\n' "$line" >>"$log"
        case $line in
        "  "[A-Z]*) steps=$((steps + 1)) ;;
        *) continue ;;
        esac
        percent=$((steps * 100 / expected_steps))
        [ "$percent" -lt 100 ] || percent=99
        if [ -t 2 ]; then
            printf '\rguest kernel: compiling %3d%% (%d of about %d steps)' "$percent" "$steps" "$expected_steps" >&2
        elif [ $((percent / 10)) -ne $((shown / 10)) ] || [ "$shown" -lt 0 ]; then
            say "compiling ${percent}%"
            shown=$percent
        fi
    done
    [ ! -t 2 ] || printf '\r\033[K' >&2
}

compile() {
    "${make[@]}" -j"${JOBS:-$(nproc)}" vmlinux 2>&1 | show_progress || die "the build failed; see $log"
    mkdir "$work/result"
    objcopy --strip-all --remove-section=.comment "$work/build/vmlinux" "$work/result/vmlinux"
    cp "$work/build/System.map" "$work/build/.config" "$work/result/"
}

cleanup() {
    [ -n "$work" ] || return 0
    if [ "$keep" -eq 1 ]; then
        say "the build tree is $work"
    else
        rm -rf "$work"
    fi
}

build() {
    work=$cache/$key.build
    trap cleanup EXIT
    : >"$log"
    rm -rf "$work"
    mkdir -p "$work/build"
    make=(env KBUILD_BUILD_USER=bulkhead KBUILD_BUILD_HOST=bulkhead KBUILD_BUILD_VERSION=1 LOCALVERSION=
        "KBUILD_BUILD_TIMESTAMP=1970-01-01" make -C "$work/source" "O=$work/build" ARCH=x86)
    unpack_source
    configure
    compile
    rm -rf "${cache:?}/$key"
    mv -T "$work/result" "$cache/$key"
}

deliver() {
    local directory
    directory=$(dirname "$output")
    mkdir -p "$directory"
    if ! { cp "$cache/$key/vmlinux" "$output.$$" && mv -f "$output.$$" "$output"; }; then
        rm -f "$output.$$"
        die "cannot write $output"
    fi
}

parse_arguments "$@"
need_packages
key=$(cache_key)
if [ "$print_key" -eq 1 ]; then
    echo "$key"
    exit 0
fi
log=$cache/$key.log
mkdir -p "$cache"
if [ "$force" -eq 1 ] || [ ! -e "$cache/$key/vmlinux" ]; then
    # One build of a key at a time: the second finds the first's result.
    exec 9>"$cache/$key.lock"
    flock 9
    if [ "$force" -eq 1 ] || [ ! -e "$cache/$key/vmlinux" ]; then
        build
        say "built in ${SECONDS} s, $(($(stat -c %s "$cache/$key/vmlinux") / 1024)) KiB"
    fi
fi
if [ -n "$output" ]; then
    deliver
    echo "$output"
else
    echo "$cache/$key/vmlinux"
fi
