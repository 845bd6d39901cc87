#!/usr/bin/env bash
# The service is killed again and again while guests share through it: they lose no byte and go on sharing with the next
# one, and new guests share with those from before.
. "$(dirname "$0")/lib.sh"

# refill GUEST SEED: with no page of it broken in the end. While the others of a mapping are shared, broken pages are nobody's
# twins.
refill() {
	tell "$1" fill "$2"
	tell "$1" unshare
}

printf '[domain test]\nuser = root\n' >"$work/config"
start_service
start_guest a 2000
start_guest b 2000
tell a fill 1
tell b fill 1
tell a until 1900
tell b until 1900
for round in 1 2 3; do
	kill_service KILL
	tell a check
	tell a write $((round * 100))
	start_service
	eventually '[.clients[] | select(.state == "connected")] | length == 2'
	eventually '.domains | length == 1 and (.[0].recovering | not) and .[0].saved_pages >= 1500'
	tell a check
	tell b check
done
start_guest c 2000
tell c fill 1
tell c until 1900
tell c check
eventually '.domains[0].pool_pages <= 2400 and .domains[0].saved_pages >= 3400'

# A service that has started again has asked nobody to unshare: who once did goes on sharing.
"$BIN/gmm-dedup" unshare all --socket "$socket" >/dev/null || fail "unshare all"
eventually '.domains[0].saved_pages == 0 and ([.clients[].unshare] | all(. == "done"))'
"$BIN/gmm-dedup" resume all --socket "$socket" >/dev/null || fail "resume all"
tell a until 1600
kill_service KILL
start_service
refill a 2
refill b 2
tell a until 1900
tell a check
tell c check

# A guest that ends while there is no service is not waited for, and what only it used is given back.
tell c fill 9
kill_service TERM || fail "SIGTERM: exit status $?"
end_guest c
start_service
eventually '(.domains[0].recovering | not) and ([.clients[]] | length == 2)'
tell a check
tell b check

# Killed at random moments while much is going on.
for _ in $(seq 4); do
	tell a fill "$RANDOM"
	tell b fill 5
	sleep "0.$((RANDOM % 3))"
	kill_service KILL
	start_service
done
refill a 5
refill b 5
tell a until 1900
tell b until 1900
tell a check
tell b check
eventually '.domains[0].recovering | not'
finish
