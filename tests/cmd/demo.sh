#!/usr/bin/env bash
# gmm-dedup demo: saves nearly all that can be saved, the kernel agrees, every byte is right;
# bad input is refused.
# BIN is the folder of the programs.

set -u
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

fail() {
	echo "FAIL: $*"
	failures=$((failures + 1))
}

# check NAME FILTER: a jq condition on the demo's object.
check() {
	jq -e "$2" "$work/out" >/dev/null || fail "$1: $2"
}

demo_json() {
	"$BIN/gmm-dedup" demo --json "$@" >"$work/out" 2>"$work/err"
}

# refused TEXT ARGUMENT...: exit status 2, nothing on stdout, and a message that has TEXT.
refused() {
	local text=$1 status=0
	shift
	"$BIN/gmm-dedup" "$@" >"$work/out" 2>"$work/err" || status=$?
	[ "$status" -eq 2 ] || fail "$*: exit status $status, not 2"
	[ ! -s "$work/out" ] || fail "$*: wrote to stdout"
	grep -qF -- "$text" "$work/err" || fail "$*: no '$text' in: $(cat "$work/err")"
}

# ---- the default guests

# What the kernel says is about the whole host, so that other programs which start meanwhile disturb it.
kernel_agrees='.kernel_freed_bytes >= 0.95 * .saved_pages * 4096'
for _ in 1 2 3; do
	demo_json || fail "demo --json: exit status $?: $(cat "$work/err")"
	jq -e "$kernel_agrees" "$work/out" >/dev/null && break
done
cat "$work/out"
[ "$(jq -s 'map(type) == ["object"]' "$work/out")" = true ] || fail "stdout is not exactly one JSON object"
check "kernel" "$kernel_agrees"
check "saved" '.saved_pages >= 0.99 * .oracle_pages'
check "no more than possible" '.saved_pages <= .oracle_pages'
check "sum" '.saved_pages == .zero_pages + .sharing_pages - .pool_pages'
check "traces" '.vms == 3 and .pages == 3 * 98304 and .oracle_pages == 176200'
check "writes" '.cow_breaks > 0'
check "freezes" '.longest_freeze_ns > 0 and .freezes > 0 and .freezes_over_200us <= .freezes'
check "verified" '.verified == true'

# ---- other traces

# Two pages of zeros, three equal ones, two that repeat the byte 0xCC, one unique.
trace() {
	local word
	for word in "$@"; do
		printf '%b' "$(printf '%016x\n' "$word" | fold -w2 | tac | sed 's/^/\\x/' | tr -d '\n')"
	done
}
trace 0 7 2207495626618058349 0 7 9 2207495626618058349 7 >"$work/small.u64"
demo_json --trace "$work/small.u64" --vms 2 || fail "small trace: exit status $?: $(cat "$work/err")"
check "small trace" '.vms == 2 and .pages == 16 and .oracle_pages == 13 and .verified'

"$BIN/gmm-dedup" demo --trace "$work/small.u64" >"$work/out" || fail "table: exit status $?"
last_line=$(tail -n 1 "$work/out")
[ "$last_line" = "verified: every byte of 8 pages" ] || fail "last line: $last_line"
[ "$(wc -L <"$work/out")" -le 80 ] || fail "the table is wider than 80 columns"

# ---- bad input

: >"$work/empty.u64"
printf '123456789' >"$work/odd.u64"
refused "$work/missing.u64" demo --trace "$work/missing.u64"
refused "$work/empty.u64: the file is empty" demo --trace "$work/empty.u64"
refused "$work/odd.u64: the size is not a multiple of 8" demo --trace "$work/odd.u64"
refused "$work: not a regular file" demo --trace "$work"
refused "--vms: '0'" demo --vms 0
refused "--vms: 'two'" demo --vms two
refused "--max-mappings: '-1'" demo --max-mappings=-1
refused "unexpected argument 'more'" demo more
refused "--nonsense" demo --nonsense
refused "unknown verb 'nonsense'" nonsense
refused "Usage: gmm-dedup VERB"

"$BIN/gmm-dedup" --help | grep -q '^  demo ' || fail "--help does not list demo"
"$BIN/gmm-dedup" --version | grep -qx 'gmm-dedup [0-9.]*' || fail "--version"
"$BIN/gmm-dedup" --version 2>/dev/null >/dev/full && fail "a full disk passes for success"

[ "$failures" -eq 0 ]
