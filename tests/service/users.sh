#!/usr/bin/env bash
# Guests of two users side by side, none of whom may open /dev/userfaultfd: the service passes it on. They share among
# themselves but nothing with each other, and see and command nothing of each other.
. "$(dirname "$0")/lib.sh"

command -v setpriv >/dev/null || {
	echo "skipped: no setpriv"
	exit 77
}
as() {
	local uid=$1
	shift
	setpriv --reuid "$uid" --regid "$uid" --clear-groups --no-new-privs "$@"
}
a=61001
b=61002
as $a test -x "$GUEST" || {
	echo "skipped: other users cannot reach $GUEST"
	exit 77
}

# 1: a TCP port, which tells sums only; 2: a Unix socket
port=$(free_port)
echo '[limits]' >"$work/config"
start_service --metrics "$port"
for name in a1 a2; do
	AS="setpriv --reuid $a --regid $a --clear-groups --no-new-privs" start_guest $name 1000 || fail "$name: $reply"
done
AS="setpriv --reuid $b --regid $b --clear-groups --no-new-privs" start_guest b1 1000 || fail "b1: $reply"
as $a test -w /dev/userfaultfd && echo "note: everybody may open /dev/userfaultfd here"
for name in a1 a2 b1; do
	tell $name fill 1
done
tell a1 until 1000
tell a2 until 1000
tell b1 settle
tell b1 shared
[ "$reply" = 0 ] || fail "$reply pages of the only guest of a user are shared"
tell b1 check
status '[.domains[] | .name] | sort == ["uid:61001", "uid:61002"]' || fail "domains: $(jq -c .domains "$work/status")"
status '[.domains[] | select(.name == "uid:61002") | .references] == [0]' || fail "b's domain has references"

# What is b's is not a's to see or to command.
ask_as() {
	local uid=$1
	shift
	as "$uid" "$BIN/gmm-dedup" "$@" --socket "$socket"
}
ask_as $b status --json --check >"$work/of-b" 2>/dev/null
jq -e '[.clients[].uid] == [61002] and [.domains[].name] == ["uid:61002"] and (has("service") | not) and
	(has("accounts") | not)' "$work/of-b" >/dev/null || fail "b sees $(jq -c . "$work/of-b")"
for verb in why dump pause resume unshare; do
	ask_as $b $verb "${guest_pid[a1]}" >/dev/null 2>"$work/err" && fail "b may $verb a's process"
	grep -q "no such client, or not yours" "$work/err" || fail "$verb: $(cat "$work/err")"
done
for verb in pause unshare; do
	ask_as $b $verb all >/dev/null || fail "b may not $verb its own"
done
status '[.clients[] | select(.uid == 61001) | .paused] == [false, false]' || fail "b paused a's processes"
ask_as $b resume all >/dev/null
ask_as $a why "${guest_pid[a1]}" --json | jq -e '.shared == 1000' >/dev/null || fail "a does not see its own process"
tell a1 shared
[ "$reply" = 1000 ] || fail "b's commands reached a: $reply shared pages are left"

# Files and descriptors.
as $b ls "$runtime/pool" >/dev/null 2>&1 && fail "b lists the pool"
as $b ls "$runtime/pool-ro" >/dev/null 2>&1 && fail "b lists the pool's other mount"
as $b ls -l "/proc/$service/fd/" 2>/dev/null | grep -q pool && fail "b sees the service's descriptors"
as $b ls -l "/proc/${guest_pid[a1]}/fd/" 2>/dev/null | grep -q pool && fail "b sees a's descriptors"
for pid in "$service" "${guest_pid[a1]}"; do
	[ -n "$(ls "/proc/$pid/map_files" | head -1)" ] || fail "process $pid maps nothing"
	as $b ls "/proc/$pid/map_files" >/dev/null 2>&1 && fail "b lists what $pid has mapped"
	for file in maps smaps_rollup mem pagemap; do
		as $b head -c 1 "/proc/$pid/$file" >/dev/null 2>&1 && fail "b reads $file of $pid"
	done
done
# The device and inode of a's pool files are of no use either: nothing leads to them.
as $b find "$runtime" -type f 2>/dev/null | grep -q . && fail "b finds files: $(as $b find "$runtime" -type f 2>/dev/null)"

fetch_metrics "$port"
grep -q '^gmm_dedup_saved_pages 1000' "$work/metrics" || fail "no sums over TCP"
grep -qE 'uid:|vm=' "$work/metrics" && fail "a port tells of single domains: $(grep -E 'uid:|vm=' "$work/metrics")"

kill_service TERM || fail "SIGTERM: exit status $?"
start_service --metrics "$work/metrics.socket"
eventually '[.clients[] | select(.state == "connected")] | length == 3'
cat >"$work/scrape.py" <<'EOF'
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
while data := s.recv(65536):
    sys.stdout.write(data.decode())
EOF
[ "$(stat -c %a "$work/metrics.socket")" = 660 ] || fail "metrics: mode $(stat -c %a "$work/metrics.socket")"
timeout 60 python3 "$work/scrape.py" "$work/metrics.socket" >"$work/metrics"
grep -q 'gmm_dedup_vms{domain="uid:61001"} 2' "$work/metrics" || fail "no domains over the Unix socket"
as $b python3 "$work/scrape.py" "$work/metrics.socket" >/dev/null 2>&1 && fail "b reads the metrics"
tell a1 check
tell a2 check

# A program that knows nothing of the library, by its user. It does not end before it has been seen.
if [ -e "$BIN/../lib/gmm-dedup/libgmm-preload.so" ]; then
	cat >"$work/mergeable.py" <<'EOF'
import mmap, time
ram = mmap.mmap(-1, 2000 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
ram.madvise(15)  # MADV_NOHUGEPAGE
for page in range(2000):
    ram[page * 4096:(page + 1) * 4096] = b"%08d" % (page % 1000) + bytes(4088)
ram.madvise(12)  # MADV_MERGEABLE
time.sleep(1000)
EOF
	setpriv --reuid $b --regid $b --clear-groups --no-new-privs "$BIN/gmm-dedup" exec --socket "$socket" --cpu-percent 0 \
		--window-ms 50 -- python3 "$work/mergeable.py" >"$work/exec" 2>&1 &
	guest_pid[exec]=$!
	eventually '[.clients[] | select(.uid == 61002 and (.program | startswith("python"))) | .vms[].shared_pages] | add == 2000'
	kill -KILL "${guest_pid[exec]}"
	unset "guest_pid[exec]"
fi

# Without the device there is no sharing for them, and a name for that.
kill_service TERM
[ ! -e "$work/metrics.socket" ] || fail "the metrics' socket was left"
printf '[service]\nuserfaultfd = no\n' >"$work/config"
start_service
if ! as $a test -w /dev/userfaultfd && [ "$(cat /proc/sys/vm/unprivileged_userfaultfd)" = 0 ]; then
	AS="setpriv --reuid $a --regid $a --clear-groups --no-new-privs" start_guest a3 100 && fail "a guest without userfaultfd"
	echo "without the device: $reply"
fi

# Each has said twice that the service was gone, however often it tried to connect.
for name in a1 a2 b1; do
	told=$(grep -c "^guest ${guest_pid[$name]}: the connection to the sharing service" "$work/log")
	[ "$told" -le 2 ] || fail "$name said $told times that there is no service"
done
finish
