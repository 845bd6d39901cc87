#!/usr/bin/env bash
# The harness itself, without the library: a guest boots, its load passes, a load whose data was spoilt does not, its RAM
# can be written to a file, and it shuts down.

set -u
work=$(mktemp -d)
trap 'vm_kill_all; rm -rf "$work"' EXIT
# shellcheck source=tests/qemu/lib.sh
. "$SRC/tests/qemu/lib.sh"
failures=0

fail() {
	echo "FAIL: $*"
	failures=$((failures + 1))
}

qemu_need
qemu_image
vm_start plain
vm_ready plain 300 || exit 1
vm_run plain 300 'python3 /load.py 2 8' >"$work/load" || fail "the load: $(cat "$work/load")"
grep -qx 'load: all rounds ok' "$work/load" || fail "no end of the load: $(cat "$work/load")"
# The load must be able to fail, or it shows nothing.
vm_run plain 300 'sed -i "s/^./x/" /checksums; python3 /load.py 1 1' >"$work/load" &&
	fail "wrong checksums went unnoticed"
grep -q 'load: BROKEN: file' "$work/load" || fail "the broken load says: $(cat "$work/load")"
vm_dump plain "$work/dump" || fail "no dump"
[ "$(stat -c %s "$work/dump")" = $((vm_mib << 20)) ] || fail "the dump's size is $(stat -c %s "$work/dump")"
vm_stop plain || fail "QEMU ended with status $?"
grep -q 'guest: bye' "$work/plain.console" || fail "no clean shutdown"
[ "$failures" -eq 0 ] && echo "ok: booted, loaded, dumped, shut down in $SECONDS s"
exit "$((failures > 0))"
