#!/usr/bin/env bash
# Programs that know nothing of the library and close every descriptor they have not opened, sharing through the service: the
# connection, the pool's files and all that was written survive.

PRELOADED=$(dirname "$GUEST")/../tests/preload/closes
# shellcheck source=tests/service/lib.sh
. "$SRC/tests/service/lib.sh"
runtime=$work/gmm # by which the programs know mappings of the pool
printf '[domain guests]\nuser = root\n' >"$work/config"
start_service
pids=()
for _ in 1 2; do
	timeout 250 "$BIN/gmm-dedup" exec --log --socket "$socket" --cpu-percent 0 --window-ms 50 -- "$PRELOADED" >>"$work/out" 2>&1 &
	pids+=($!)
done
eventually '.service.promoted_pages > 500'
for pid in "${pids[@]}"; do
	wait "$pid" || fail "a program ended with status $?: $(cat "$work/out")"
done
! grep -E 'not shared|connection .* ended' "$work/out" || fail "they lost the service"
kill_service TERM || fail "the service ended with status $?"
finish
