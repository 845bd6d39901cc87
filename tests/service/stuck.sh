#!/usr/bin/env bash
# A service that does not move (here it is stopped) holds nobody up: guests run on, and a VM that ends does not wait for it. It
# learns of that when it moves again.
. "$(dirname "$0")/lib.sh"

printf '[domain test]\nuser = root\n' >"$work/config"
start_service
for name in a b; do
	start_guest "$name" 1000
	tell "$name" fill 1
done
for name in a b; do
	tell "$name" until 1000
done
kill -STOP "$service"
tell a write 500
sleep 0.3 # until the engines wait for an answer
start=${EPOCHREALTIME/./}
tell b unmap
took_ms=$(((${EPOCHREALTIME/./} - start) / 1000))
# An engine that somebody waits for gives up after 1 s, others after 10 s.
[ "$took_ms" -lt 8000 ] || fail "a VM took $took_ms ms to end"
wait "${guest_pid[b]}"
unset "guest_pid[b]"
tell a check
kill -CONT "$service"
eventually '(.clients | length == 1) and .domains[0].vms == 1 and .domains[0].references <= 500'
"$BIN/gmm-dedup" status --check --socket "$socket" >"$work/status" || fail "$(tail -2 "$work/status")"
tell a fill 1
tell a check
finish
