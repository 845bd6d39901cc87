#!/usr/bin/env bash
# units.sh BUILD_DIR
# The installed units, user and configuration: systemd finds no fault with them, and the sandbox is as tight as it was. Then
# the service is started as the units do: prepared by root, by the first connection to a socket that is passed, as a user
# without any right, with word to systemd when it is ready and when it ends.

set -u
build=$1
failures=0

fail() {
	echo "FAIL: $*"
	failures=$((failures + 1))
}

for tool in systemd-analyze systemd-sysusers systemd-socket-activate setpriv python3; do
	if ! command -v "$tool" >/dev/null; then
		echo "skipped: $tool is missing (Debian's packages systemd, util-linux and python3)"
		exit 77
	fi
done
if [ "${GMM_IN_NAMESPACE-}" != yes ]; then
	if ! unshare -m true 2>/dev/null; then
		echo "skipped: no right to mount"
		exit 77
	fi
	GMM_IN_NAMESPACE=yes exec unshare -m bash "$0" "$@"
fi

work=$(mktemp -d)
activator='' listener=''
clean_up() {
	for pid in $activator $listener; do
		kill -KILL "$pid" 2>/dev/null
	done
	umount "$work/run/pool-ro" "$work/run/pool" 2>/dev/null
	rm -rf "$work"
}
trap clean_up EXIT
chmod 755 "$work"
cmake --install "$build" --prefix "$work/prefix" >"$work/log" || { cat "$work/log"; exit 1; }

# ---- files ------------------------------------------------------------------------------------------------

# The unit names the folder of a real installation.
mkdir "$work/units"
cp "$work/prefix/lib/systemd/system/gmm-dedup.socket" "$work/units/"
sed -E "s|/[^ ]*/bin/gmm-dedup|$work/prefix/bin/gmm-dedup|" "$work/prefix/lib/systemd/system/gmm-dedup.service" \
	>"$work/units/gmm-dedup.service"
if ! systemd-analyze verify --man=no --recursive-errors=no "$work"/units/gmm-dedup.s* >"$work/log" 2>&1 ||
	[ -s "$work/log" ]; then
	fail "systemd-analyze verify: $(cat "$work/log")"
fi
systemd-analyze security --offline=yes --threshold=21 "$work/units/gmm-dedup.service" >"$work/log" 2>&1 ||
	fail "the sandbox: $(tail -n 1 "$work/log")"
mkdir -p "$work/root/etc"
systemd-sysusers --root="$work/root" "$work/prefix/lib/sysusers.d/gmm-dedup.conf" >"$work/log" 2>&1 ||
	fail "systemd-sysusers: $(cat "$work/log")"
grep -q '^gmm-dedup:' "$work/root/etc/passwd" || fail "no user"

# ---- a start ----------------------------------------------------------------------------------------------

cat >"$work/listen.py" <<'END'
import socket
import sys

listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listener.bind(sys.argv[1])
while True:
    for line in listener.recv(4096).decode().splitlines():
        print(line, flush=True)
END
(umask 0 && exec python3 "$work/listen.py" "$work/notify") >"$work/said" &
listener=$!
said() {
	local end=$((SECONDS + 90))
	until grep -qx "$1" "$work/said"; do
		[ "$SECONDS" -lt "$end" ] || { fail "systemd was not told: $1"; return; }
		sleep 0.05
	done
}
until [ -S "$work/notify" ]; do
	sleep 0.05
done
"$work/prefix/bin/gmm-dedup" serve --prepare=nobody --runtime-dir "$work/run" || fail "--prepare"
# By the socket, the whole first connection is the service's to answer.
(umask 0 && exec systemd-socket-activate --seqpacket -l "$work/socket" -E NOTIFY_SOCKET="$work/notify" \
	setpriv --reuid=nobody --regid=nogroup --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs \
	"$work/prefix/bin/gmm-dedup" serve --runtime-dir "$work/run" --config "$work/prefix/etc/gmm-dedup.conf") \
	>"$work/log" 2>&1 &
activator=$!
# Bound and, which is another step, listened at (__SO_ACCEPTCON).
until awk -v "at=$work/socket" '$8 == at && $4 == "00010000" { found = 1 } END { exit !found }' /proc/net/unix; do
	kill -0 "$activator" || { cat "$work/log"; exit 1; }
	sleep 0.05
done
grep -q . "$work/said" && fail "started before the first connection"
status=$("$BIN/gmm-dedup" status --socket "$work/socket" --json) || fail "status: $status $(cat "$work/log")"
said READY=1
grep -q '^Uid:.65534.65534.65534' "/proc/$activator/status" || fail "it is not the unprivileged user's"
grep -q '^CapEff:.0*$' "/proc/$activator/status" || fail "it has rights"
# SIGHUP reads the installed configuration again; SIGTERM ends it, and the socket is not its own to remove.
kill -HUP "$activator"
"$BIN/gmm-dedup" status --socket "$work/socket" --json >/dev/null || fail "gone after SIGHUP: $(cat "$work/log")"
kill -TERM "$activator"
wait "$activator" || fail "ended with status $?: $(cat "$work/log")"
activator=
said STOPPING=1
[ -S "$work/socket" ] || fail "it removed the socket of systemd"
[ -n "$(ls -A "$work/run/pool")" ] || fail "the pool was not kept"
exit "$((failures > 0))"
