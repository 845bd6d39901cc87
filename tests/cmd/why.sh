#!/usr/bin/env bash
# gmm-dedup why: every page of the VMs, or of the range that was asked for, is in exactly one state, and each
# state that has pages is explained; bad input is refused.
# BIN is the folder of the programs.

set -u
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

fail() {
	echo "FAIL: $*"
	failures=$((failures + 1))
}

# check NAME FILTER: a jq condition on the object.
check() {
	jq -e "$2" "$work/out" >/dev/null || fail "$1: $2 in $(jq -c . "$work/out")"
}

why_json() {
	"$BIN/gmm-dedup" why --json "$@" >"$work/out" 2>"$work/err" ||
		fail "why --json $*: exit status $?: $(cat "$work/err")"
}

# refused TEXT ARGUMENT...: exit status 2, nothing on stdout, and a message that has TEXT.
refused() {
	local text=$1 status=0
	shift
	"$BIN/gmm-dedup" why "$@" >"$work/out" 2>"$work/err" || status=$?
	[ "$status" -eq 2 ] || fail "$*: exit status $status, not 2"
	[ ! -s "$work/out" ] || fail "$*: wrote to stdout"
	grep -qF -- "$text" "$work/err" || fail "$*: no '$text' in: $(cat "$work/err")"
}

trace() {
	local word
	for word in "$@"; do
		printf '%b' "$(printf '%016x\n' "$word" | fold -w2 | tac | sed 's/^/\\x/' | tr -d '\n')"
	done
}

# ---- two VMs: zero pages, a page that is alone in each, and 16 pages they have in common

common=$(seq 101 116)
# shellcheck disable=SC2086
trace 0 0 7 $common 0 >"$work/a.u64"
# shellcheck disable=SC2086
trace 0 8 $common 9 10 >"$work/b.u64"
both=(--trace "$work/a.u64" --trace "$work/b.u64")

why_json "${both[@]}"
[ "$(jq -s 'map(type) == ["object"]' "$work/out")" = true ] || fail "stdout is not exactly one JSON object"
check "all" '. == (map_values(0) + { zero: 4, shared: 32, unique: 4 })'
check "every state is there" 'length == 16 and has("budget") and has("absent")'

why_json "${both[@]}" --vm 2
check "one VM" '[.zero, .shared, .unique, add] == [1, 16, 3, 20]'
why_json "${both[@]}" --vm 1 --first-page 1 --pages 4
check "a range" '[.zero, .shared, .unique, add] == [1, 2, 1, 4]'
why_json "${both[@]}" --vm 1 --first-page 19
check "up to the end" '[.zero, add] == [1, 1]'
why_json --vms 3 "${both[@]}" --vm 3
check "traces in turn" '[.zero, .shared, add] == [3, 17, 20]'

"$BIN/gmm-dedup" why "${both[@]}" --vm 2 >"$work/out" || fail "table: exit status $?"
grep -qF 'VM 2 (b), pages 0 to 19' "$work/out" || fail "no title: $(cat "$work/out")"
grep -qE '^shared +16 +80\.0 %  Shared; ' "$work/out" || fail "no shared pages: $(cat "$work/out")"
grep -qE '^unique +3 +15\.0 %  No equal page' "$work/out" || fail "no unique pages: $(cat "$work/out")"
grep -qE '^total +20$' "$work/out" || fail "no total: $(cat "$work/out")"
grep -q '^budget' "$work/out" && fail "a state without pages is in the table"
[ "$(wc -L <"$work/out")" -le 80 ] || fail "the table is wider than 80 columns"

# ---- without mappings

# shellcheck disable=SC2046
trace $(for i in $(seq 1 40); do echo "$((1000 + i)) $((2000 + i))"; done) >"$work/c.u64"
# shellcheck disable=SC2046
trace $(for i in $(seq 1 40); do echo "$((1000 + i)) $((3000 + i))"; done) >"$work/d.u64"
why_json --trace "$work/c.u64" --trace "$work/d.u64" --max-mappings 20
check "budget" '.budget > 0 and .shared > 0 and .unique >= 80 and add == 160'

# ---- bad input

refused "no VM 3, only 2" "${both[@]}" --vm 3
refused "only pages 0 to 19" "${both[@]}" --vm 1 --first-page 20
refused "only pages 0 to 19" "${both[@]}" --vm 1 --first-page 10 --pages 11
refused "name it with --vm" "${both[@]}" --pages 1
refused "--vm: '0'" --vm 0
refused "--pages: '0'" --vm 1 --pages 0
refused "$work/missing.u64" --trace "$work/missing.u64"
refused "PID: 'more' is not a number" more
refused "unexpected argument '2'" 1 2

"$BIN/gmm-dedup" --help | grep -q '^  why ' || fail "--help does not list why"

[ "$failures" -eq 0 ]
