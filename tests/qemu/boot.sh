#!/usr/bin/env bash
# An unmodified QEMU, as an unprivileged user and in its sandbox, through gmm-dedup exec: the guest boots, runs a load that
# checks its own data while its pages are shared, and shuts down. The right to use userfaultfd comes from the service. Then
# again with huge pages, as QEMU asks for them, without a service and with a device that the user may open.

set -u
work=$(mktemp -d)
trap 'vm_kill_all; stop_service; rm -rf "$work"' EXIT
service=
# shellcheck source=tests/qemu/lib.sh
. "$SRC/tests/qemu/lib.sh"
failures=0

fail() {
	echo "FAIL: $*"
	failures=$((failures + 1))
}

qemu_need
if [ "$(id -u)" -ne 0 ]; then
	echo "skipped: not root, so no unprivileged user can be given a userfaultfd device"
	exit 77
fi
qemu_image

# The user may read none of the folders of the one who builds.
cmake --install "$BIN/.." --prefix "$work/prefix" >"$work/log" || { cat "$work/log"; exit 1; }
cp "$qemu_kernel" "$work/vmlinuz"
cp "$qemu_initrd" "$work/initrd"
qemu_kernel=$work/vmlinuz
qemu_initrd=$work/initrd
# A device of its own at the usual place, in a mount namespace: the host's keeps its owner.
mknod "$work/userfaultfd" c $(($(stat -c 0x%t /dev/userfaultfd))) $(($(stat -c 0x%T /dev/userfaultfd)))
chown -R 65534:65534 "$work"
cat >"$work/run" <<'EOF'
#!/bin/sh
mount --bind "$1" /dev/userfaultfd
shift
exec "$@"
EOF
chmod 755 "$work" "$work/run"
as_nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups --bounding-set=-all)
sandbox=(-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny)

# pool_mappings NAME: how many mappings of shared pages its QEMU has.
pool_mappings() {
	grep -cE 'memfd:gmm|/service/pool' "/proc/$(vm_pid "$1")/maps"
}

huge_kib() {
	awk '/^AnonHugePages/ { print $2 }' "/proc/$(vm_pid "$1")/smaps_rollup"
}

start_service() {
	mkdir "$work/service"
	"$BIN/gmm-dedup" serve --socket "$work/service/socket" --runtime-dir "$work/service" >"$work/service.log" 2>&1 &
	service=$!
	service_ready "$work/service/socket" "$work/service.log"
}

stop_service() {
	[ -n "$service" ] || return 0
	kill "$service"
	wait "$service"
	service=
	umount "$work/service/pool-ro" "$work/service/pool"
}

# load NAME: a load, while its mappings are counted.
load() {
	local name=$1 now loading
	vm_run "$name" 400 'python3 /load.py 6 24' >"$work/load" &
	loading=$!
	while kill -0 "$loading" 2>/dev/null; do
		now=$(pool_mappings "$name")
		mappings=$((now > mappings ? now : mappings))
		sleep 0.3
	done
	wait "$loading" || fail "$name: the load: $(cat "$work/load")"
	grep -qx 'load: all rounds ok' "$work/load" || fail "$name: no end of the load: $(cat "$work/load")"
}

# boot NAME LEAST COMMAND...: boots, loads, and stops a guest whose QEMU is run by a command. On a busy host the guest may be
# faster than the agent: it loads until there were so many mappings of shared pages under a load, but not without end.
boot() {
	local name=$1 least=$2 end=$((SECONDS + 200))
	shift 2
	vm_wrap=("$@")
	vm_start "$name" "${sandbox[@]}"
	vm_ready "$name" 300 || exit 1
	grep -q '^Seccomp:.*2' "/proc/$(vm_pid "$name")/status" ||
		fail "$name: not in the sandbox"
	grep -q '^Uid:.65534.65534' "/proc/$(vm_pid "$name")/status" || fail "$name: not an unprivileged user"
	mappings=0
	load "$name"
	while [ "$mappings" -lt "$least" ] && [ "$SECONDS" -lt "$end" ] && [ "$failures" -eq 0 ]; do
		load "$name"
	done
	echo "$name: up to $mappings mappings of shared pages; $(huge_kib "$name") KiB in huge pages"
	huge=$(huge_kib "$name")
	vm_stop "$name" || fail "$name: QEMU ended with status $?"
	grep -q 'guest: bye' "$work/$name.console" || fail "$name: no clean shutdown"
	[ ! -s "$work/$name.err" ] || fail "$name: messages: $(cat "$work/$name.err")"
}

dedup=("${as_nobody[@]}" "$work/prefix/bin/gmm-dedup" exec --cpu-percent 50 --window-ms 500)
if "${as_nobody[@]}" python3 -c 'import os; os.open("/dev/userfaultfd", os.O_RDWR)' 2>/dev/null ||
	[ "$(cat /proc/sys/vm/unprivileged_userfaultfd)" != 0 ]; then
	echo "every user may use userfaultfd here: that the service passes it is not tested"
fi
start_service
boot small 100 "${dedup[@]}" --socket "$work/service/socket" --huge-pages none --
[ "$mappings" -ge 100 ] || fail "small pages: nothing was shared"
[ "$failures" -eq 0 ] || cat "$work/service.log"
stop_service
boot huge 0 unshare -m -- "$work/run" "$work/userfaultfd" "${dedup[@]}" --
# QEMU asks for huge pages; the library passes that on.
if ! grep -q '\[never\]' /sys/kernel/mm/transparent_hugepage/enabled && [ "$huge" -eq 0 ] && [ "$mappings" -eq 0 ]; then
	fail "huge pages: neither huge pages nor shared ones"
fi
exit "$((failures > 0))"
