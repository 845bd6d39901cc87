#!/usr/bin/env bash
# gmm-dedup exec --guest-port: the socket is the owner's alone, asks whoever connects for a report, survives noise, comes back
# after a process that ended, does not hold up its end, and is not offered in the way of a file.

set -u
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

fail() {
	echo "FAIL: $*"
	failures=$((failures + 1))
}

if [ ! -f "$BIN/../lib/gmm-dedup/libgmm-preload.so" ]; then
	echo "skipped: the preload library is not built with sanitizers"
	exit 77
fi
cat >"$work/program.py" <<'END'
import mmap
import os
import socket
import stat
import sys
import time

path = sys.argv[1]
RAM = 4 << 20
MADV_MERGEABLE = 12


def ask():
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(60)
    peer.connect(path)
    request = b""
    while len(request) < 40:
        request += peer.recv(40 - len(request))
    assert request.startswith(b"\x89GMM\r\n\x1a\n"), request
    return peer


assert not os.path.exists(path) or len(sys.argv) > 2, "listens before there is RAM"
ram = mmap.mmap(-1, RAM, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
ram.write(b"x" * RAM)
ram.madvise(MADV_MERGEABLE)
if len(sys.argv) > 2 and sys.argv[2] == "file":
    sys.exit(0)
assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
first = ask()
first.sendall(os.urandom(1 << 20))
second = socket.socket(socket.AF_UNIX)  # waits its turn
second.connect(path)
second.settimeout(0.2)
try:
    second.recv(1)
    sys.exit("two connections at a time")
except socket.timeout:
    pass
first.close()
second.settimeout(60)
assert second.recv(1) == b"\x89"
if os.fork() == 0:  # a child has no port, and leaves that of its parent alone
    os._exit(0)
os.wait()
second.close()
last = ask()
# Endless: after 8 MiB and what its RAM is worth the guest waits, and goes on as slowly as that comes back. Some of it is
# taken soon, or on a slow host in a minute.
last.settimeout(0.5)
sent, start = 0, time.monotonic()
while sent < 16 << 20 and time.monotonic() < start + (3 if sent > 1 << 20 else 60):
    try:
        sent += last.send(b"\x89GMM\r\n\x1a\n" + bytes(8192))
    except socket.timeout:
        pass
assert 1 << 20 < sent < 16 << 20, sent
print("ok")  # and it ends with a connection open
END
umask 0
for round in fresh stale; do
	out=$(timeout 200 "$BIN/gmm-dedup" exec --guest-port "$work/port" -- python3 "$work/program.py" "$work/port" ${round#fresh} 2>&1)
	code=$?
	if [[ $out == *"memory of this process is not shared"* ]]; then
		echo "skipped: $out"
		exit 77
	fi
	[ "$code $out" = "0 ok" ] || fail "$round: status $code: $out"
done
echo precious >"$work/file"
out=$(timeout 200 "$BIN/gmm-dedup" exec --guest-port "$work/file" -- python3 "$work/program.py" "$work/file" file 2>&1) ||
	fail "a file in the way ends the program: $out"
[[ $out == *"the guest cannot name its pages"* ]] || fail "not said: $out"
[ "$(cat "$work/file")" = precious ] || fail "a file was removed"
"$BIN/gmm-dedup" exec --guest-port relative -- true 2>/dev/null && fail "a relative path is taken"
exit "$((failures > 0))"
