#!/usr/bin/env bash
# Runs each fuzz target, or those that are named, for FUZZ_RUNS inputs (100000; of layers, which go to the disk, a fiftieth), beginning with what is in seeds/.
# An input that fails stays in the directory that the line about it names: run the target's program with it.
set -euo pipefail
cd "$(dirname "$0")"
all=${FUZZ_RUNS:-100000}
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(saved-machine agent-messages layer specification network)
out=../../target/fuzz
# What `cargo fuzz` says, without a sanitizer: counters of edges for libFuzzer.
export RUSTFLAGS='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1'
# The versions are those of everything else; only what the targets themselves need is added.
cp ../../Cargo.lock Cargo.lock
# With a target, programs of the build are not instrumented.
triple=x86_64-unknown-linux-gnu
cargo build --quiet --release --target "$triple" --target-dir "$out"
for target in "${targets[@]}"; do
	mkdir -p "$out/corpus/$target" "$out/failed"
	seeds=()
	[ ! -d "seeds/$target" ] || seeds=("seeds/$target")
	runs=$all
	[ "$target" != layer ] || runs=$((all / 50))
	echo "fuzz: $target, $runs inputs" >&2
	"$out/$triple/release/$target" -runs="$runs" -max_len=65536 -timeout=60 -use_value_profile=1 -rss_limit_mb=1024 -malloc_limit_mb=256 \
		-print_final_stats=1 -artifact_prefix="$out/failed/$target-" "$out/corpus/$target" "${seeds[@]}" 2>"$out/$target.log" ||
		{ tail -40 "$out/$target.log" >&2; exit 1; }
	grep -E '^#[0-9]+.*DONE' "$out/$target.log" >&2
done
