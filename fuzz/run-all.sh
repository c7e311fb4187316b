#!/usr/bin/env bash
# Runs every fuzz target for the given number of seconds, one after the other, and says what came of each.
# Needs `cargo install cargo-fuzz`; works with a stable compiler, without a sanitizer.
set -uo pipefail
# A target that writes to a socket nobody reads any more is told so, as the gateway is, and not ended.
trap "" PIPE
cd "$(dirname "$0")/.."
seconds="${1:-60}"
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(ls fuzz/fuzz_targets | sed 's/\.rs$//')
# Each target is linked on its own: without what makes a release small, that takes seconds.
export RUSTC_BOOTSTRAP=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_DEBUG=0
cargo fuzz build --sanitizer none || exit 1
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
failed=0
for target in "${targets[@]}"; do
    work="$(mktemp -d)"
    words=()
    [ -f "fuzz/$target.dict" ] && words=(-dict="fuzz/$target.dict")
    # New inputs go to a folder of their own: the corpus of the project is what somebody chose.
    cargo fuzz run --sanitizer none "$target" "$work" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -print_final_stats=1 -timeout=20 -rss_limit_mb=4096 -max_len=4096 \
        "${words[@]}" >"$log" 2>&1
    status=$?
    executed="$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")"
    coverage="$(grep -o 'cov: [0-9]*' "$log" | tail -1)"
    if [ "$status" -eq 0 ]; then
        printf '%-18s %12s executions  %-12s no finding\n' "$target" "$executed" "$coverage"
    else
        failed=1
        printf '%-18s FAILED\n' "$target"
        tail -40 "$log"
    fi
    rm -rf "$work"
done
exit "$failed"
