#!/usr/bin/env bash
# gmm-dedup modules --demo: rows of pages that all VMs have are modules, their pages are shared without scanning, and what they
# save is listed; bad input is refused.
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

trace() {
	local word
	for word in "$@"; do
		printf '%b' "$(printf '%016x\n' "$word" | fold -w2 | tac | sed 's/^/\\x/' | tr -d '\n')"
	done
}

# Two modules, of 16 and 9 pages, in another order and broken up in b; 7 pages in a row are too few.
first=$(seq 101 116)
second=$(seq 201 209)
few=$(seq 301 307)
# shellcheck disable=SC2086
trace 0 7 $first 8 $second 9 $few >"$work/a.u64"
# shellcheck disable=SC2086
trace $second 10 $(seq 105 116) $few $(seq 101 104) 0 >"$work/b.u64"
both=(--demo --trace "$work/a.u64" --trace "$work/b.u64")

"$BIN/gmm-dedup" modules --json "${both[@]}" >"$work/out" 2>"$work/err" ||
	fail "exit status $?: $(cat "$work/err")"
check "what is saved" '.saved_pages == 25 and .promoted_pages == 25 and .joined_pages == 25'
check "two modules" '[.modules[] | [.name, .users, .pages, .shared_pages, .saved_pages]] ==
	[["a@2", 2, 16, 16, 16], ["a@19", 2, 9, 9, 9]]'
check "their origin" 'all(.modules[]; .domain == "default" and .os == "linux" and .variants == 0)'

"$BIN/gmm-dedup" modules "${both[@]}" >"$work/out" 2>"$work/err" || fail "exit status $?: $(cat "$work/err")"
grep -q '^  *2  *16  *16  *0  *0.1  default  *a@2$' "$work/out" || fail "no line for a@2: $(cat "$work/out")"
grep -q '^2 modules save 0.1 MiB; 25 pages were joined, 25 put into the pool$' "$work/out" ||
	fail "no sum: $(cat "$work/out")"

# Nothing in common: an empty list is no failure.
trace 1 2 3 >"$work/c.u64"
"$BIN/gmm-dedup" modules --demo --json --trace "$work/a.u64" --trace "$work/c.u64" >"$work/out" 2>"$work/err" ||
	fail "nothing in common: exit status $?: $(cat "$work/err")"
check "nothing in common" '.modules == [] and .saved_pages == 0'

status=0
"$BIN/gmm-dedup" modules --demo --trace "$work/none.u64" >"$work/out" 2>"$work/err" || status=$?
[ "$status" -eq 2 ] || fail "a trace that is not there: exit status $status, not 2"
status=0
"$BIN/gmm-dedup" modules word >"$work/out" 2>"$work/err" || status=$?
[ "$status" -eq 2 ] || fail "an argument: exit status $status, not 2"
status=0
"$BIN/gmm-dedup" modules --trace "$work/a.u64" >"$work/out" 2>"$work/err" || status=$?
[ "$status" -eq 2 ] || fail "a trace without --demo: exit status $status, not 2"
status=0
"$BIN/gmm-dedup" modules --demo --socket "$work/none" >"$work/out" 2>"$work/err" || status=$?
[ "$status" -eq 2 ] || fail "a socket for --demo: exit status $status, not 2"
status=0
"$BIN/gmm-dedup" modules --socket "$work/none" >"$work/out" 2>"$work/err" || status=$?
[ "$status" -eq 1 ] || fail "no service: exit status $status, not 1"

[ "$failures" -eq 0 ]
