#!/usr/bin/env bash
# Guests under fire (storm.c) while they and the service are killed at random, stopped and started: no byte is lost, and when
# all are gone nothing is left. GMM_STRESS_SECONDS: how long (10); GMM_STRESS_SEED repeats a run's choices.
. "$(dirname "$0")/lib.sh"

seconds=${GMM_STRESS_SECONDS:-10}
RANDOM=${GMM_STRESS_SEED:=$(date +%N | sed 's/^0*//')}
echo "seed $GMM_STRESS_SEED, $seconds s"
names=(a b c)

start_storm() {
	"$STORM" "$socket" "$RANDOM" 2>>"$work/log" &
	guest_pid[$1]=$!
}

# end_storm NAME: all its bytes were right. Before it runs SIGTERM would just kill it.
end_storm() {
	try_for grep -qx "storm ${guest_pid[$1]} runs" "$work/log" || fail "guest $1 does not begin"
	kill -TERM "${guest_pid[$1]}"
	wait "${guest_pid[$1]}" || fail "guest $1 ended with $?"
	unset "guest_pid[$1]"
}

kill_storm() {
	kill -KILL "${guest_pid[$1]}"
	wait "${guest_pid[$1]}" 2>/dev/null
	unset "guest_pid[$1]"
}

hold_storm() {
	kill -STOP "${guest_pid[$1]}"
	sleep 0.4
	kill -CONT "${guest_pid[$1]}"
}

printf '[domain test]\nuser = root\n[domain other]\nuser = root\nask = yes\n' >"$work/config"
start_service
for name in "${names[@]}"; do
	start_storm "$name"
done
end=$((SECONDS + seconds))
while [ "$SECONDS" -lt "$end" ] && [ "$failures" -eq 0 ]; do
	sleep "0.$((RANDOM % 9 + 1))"
	name=${names[RANDOM % 3]}
	case $((RANDOM % 8)) in
	0 | 1 | 2)
		kill_service KILL
		[ $((RANDOM % 2)) = 0 ] || sleep 1
		start_service
		;;
	3) kill_storm "$name" && start_storm "$name" ;;
	4) end_storm "$name" && start_storm "$name" ;;
	5) hold_storm "$name" ;;
	6) # twice in a row, the second before all have come back
		kill_service KILL
		start_service
		sleep "2.$((RANDOM % 9))"
		kill_service KILL
		start_service
		;;
	*) "$BIN/gmm-dedup" unshare all --socket "$socket" >/dev/null 2>&1 && "$BIN/gmm-dedup" resume all --socket "$socket" >/dev/null ;;
	esac
done
eventually '.domains | length > 0 and all(.[]; (.recovering | not) and .saved_pages >= 100)'
"$BIN/gmm-dedup" status --check --socket "$socket" >"$work/text" || fail "accounts: $(cat "$work/text")"
for name in "${names[@]}"; do
	end_storm "$name"
done
eventually '(.clients | length == 0) and (.domains | length == 0)'
grep LOST "$work/log" && fail "bytes were lost"
finish
