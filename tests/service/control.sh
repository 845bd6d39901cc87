#!/usr/bin/env bash
# The commands against a running service: who may ask, what they say, pause, resume and unshare, and metrics over HTTP.
. "$(dirname "$0")/lib.sh"

port=$(free_port)
printf '[service]\nmetrics_ksm = yes\nmetrics_domains = yes\n[domain test]\nuser = root\n' >"$work/config"
start_service --metrics "$port"
start_guest a 1000
start_guest b 1000
tell a fill 1
tell b fill 1
tell a until 1000
tell b until 1000

gmm() {
	"$BIN/gmm-dedup" "$@" --socket "$socket"
}

eventually '.domains[0].saved_pages == 1000'
gmm status >"$work/text" || fail "status: exit status $?"
grep -q '^test ' "$work/text" || fail "status names no domain: $(cat "$work/text")"
grep -q "^${guest_pid[a]} " "$work/text" || fail "status names no process"
gmm dump "${guest_pid[a]}" | jq -e '[.slots[0].runs[][1]] | add == 1000' >/dev/null || fail "dump"
# More than one answer holds: every other page is of another kind.
start_guest many 20000
tell many stripes
eventually '[.clients[].vms[] | select(.pages == 20000) | .states.zero] == [10000]'
gmm dump "${guest_pid[many]}" | jq -e '(.slots | length == 1) and (.slots[0].runs | length >= 20000) and
	([.slots[0].runs[][1]] | add == 20000)' >/dev/null || fail "a long dump"
end_guest many
eventually '.clients | length == 2'
gmm dump 1 >/dev/null 2>"$work/err" && fail "dump of a process that is no client"
grep -q "no such client" "$work/err" || fail "dump says: $(cat "$work/err")"

gmm why "${guest_pid[a]}" >"$work/text" || fail "why: exit status $?"
grep -q "^shared  *1000 100.0 %  Shared; an equal page exists" "$work/text" || fail "why: $(cat "$work/text")"
grep -q '^total  *1000$' "$work/text" || fail "why: $(cat "$work/text")"
tell a write 300
# Broken pages, or private ones by now: a mapping of which all is broken is given up.
eventually '([.clients[].vms[].private_pages] | add) + .domains[0].references == 2000 and .domains[0].references < 2000'
gmm why "${guest_pid[a]}" --json --vm 1 | jq -e 'add == 1000 and .shared < 1000 and length == 16' >/dev/null ||
	fail "why --json: $(gmm why "${guest_pid[a]}" --json)"
gmm why "${guest_pid[a]}" --vm 2 >/dev/null 2>&1
[ $? -eq 2 ] || fail "why of a VM that is not there"
gmm why 1 >/dev/null 2>"$work/err" && fail "why of a process that is no client"
grep -q "no such client" "$work/err" || fail "why says: $(cat "$work/err")"
gmm why >/dev/null 2>&1 && fail "why of no process at a socket"
"$BIN/gmm-dedup" why 1 --vms 2 >/dev/null 2>&1
[ $? -eq 2 ] || fail "why of a process with options for made VMs"
tell a fill 1
tell a until 1000

# What has no VM, and why.
start_guest refused 100 no-such-domain
eventually '[.clients[] | select((.note // "") | startswith("its VM was refused: no trust domain"))] | length == 1'
gmm why "${guest_pid[refused]}" | grep -q "its VM was refused" || fail "why says nothing of a VM that was refused"
end_guest refused

# All of a's pages were written a moment ago. Until the engine has seen that of the last one, fewer are shared now and then.
metrics_tell() {
	fetch_metrics "$port"
	grep -q 'gmm_dedup_saved_pages{domain="test"} 1000' "$work/metrics" &&
		grep -q 'node_ksmd_pages_sharing 1000' "$work/metrics"
}
try_for metrics_tell || fail "metrics: $(cat "$work/metrics")"

gmm unshare "${guest_pid[a]}" >/dev/null || fail "unshare"
eventually '[.clients[] | select(.unshare == "done")] | length == 1'
tell a check
[ "$reply" = 0 ] || fail "after unshare $reply pages are shared"
gmm resume all >/dev/null || fail "resume"
tell a until 1000
gmm pause all >/dev/null || fail "pause"
eventually '[.clients[] | select(.paused)] | length == 2'
gmm resume all >/dev/null

# Another user sees nothing of this, and cannot command it.
if command -v setpriv >/dev/null; then
	as_nobody() {
		setpriv --reuid 65534 --regid 65534 --clear-groups "$BIN/gmm-dedup" "$@" --socket "$socket"
	}
	as_nobody status --json >"$work/status" 2>"$work/err" || fail "nobody may not ask: $(cat "$work/err")"
	jq -e '.clients == [] and .domains == [] and (has("service") | not)' "$work/status" >/dev/null ||
		fail "nobody sees: $(cat "$work/status")"
	as_nobody unshare "${guest_pid[a]}" >/dev/null 2>&1 && fail "nobody commands root's process"
	as_nobody pause all >/dev/null 2>&1
	status '[.clients[] | select(.paused)] | length == 0' || fail "nobody paused root's processes"
	setpriv --reuid 65534 --regid 65534 --clear-groups cat "$runtime/pool/next" 2>/dev/null && fail "nobody reads the pool"
fi

# SIGHUP: a mistake changes nothing, a good file counts.
echo nonsense >"$work/config"
kill -HUP "$service"
try_for grep -q "stays as it was" "$work/log" || fail "a wrong file is not complained about"
status '.clients | length == 2' || fail "gone after SIGHUP"
"$BIN/gmm-dedup" serve --socket "$socket" --runtime-dir "$work/none" >/dev/null 2>&1 && fail "two services on one socket"
umount "$work/none/pool-ro" "$work/none/pool" 2>/dev/null
kill_service TERM || fail "SIGTERM: exit status $?"
gmm status >/dev/null 2>&1 && fail "status without a service"
tell a check
tell b check
finish
