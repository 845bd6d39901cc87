#!/usr/bin/env bash
# An unmodified QEMU, as an unprivileged user and in its sandbox, through gmm-dedup exec: the guest boots, runs a load that
# checks its own data while its pages are shared, and shuts down. Then again with huge pages, as QEMU asks for them.

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
exec setpriv --reuid=65534 --regid=65534 --clear-groups --bounding-set=-all "$@"
EOF
chmod 755 "$work" "$work/run"
sandbox=(-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny)

# pool_mappings NAME: how many mappings of shared pages its QEMU has.
pool_mappings() {
	grep -c 'memfd:gmm' "/proc/$(vm_pid "$1")/maps"
}

huge_kib() {
	awk '/^AnonHugePages/ { print $2 }' "/proc/$(vm_pid "$1")/smaps_rollup"
}

# boot NAME OPTION...: boots, loads, and stops a guest with options for exec.
boot() {
	local name=$1 most=0 now loading
	shift
	vm_wrap=(unshare -m -- "$work/run" "$work/userfaultfd"
		"$work/prefix/bin/gmm-dedup" exec --cpu-percent 50 --window-ms 500 "$@" --)
	vm_start "$name" "${sandbox[@]}"
	vm_ready "$name" 120 || exit 1
	grep -q '^Seccomp:.*2' "/proc/$(vm_pid "$name")/status" ||
		fail "$name: not in the sandbox"
	grep -q '^Uid:.65534.65534' "/proc/$(vm_pid "$name")/status" || fail "$name: not an unprivileged user"
	vm_run "$name" 240 'python3 /load.py 6 24' >"$work/load" &
	loading=$!
	while kill -0 "$loading" 2>/dev/null; do
		now=$(pool_mappings "$name")
		most=$((now > most ? now : most))
		sleep 0.3
	done
	wait "$loading" || fail "$name: the load: $(cat "$work/load")"
	grep -qx 'load: all rounds ok' "$work/load" || fail "$name: no end of the load: $(cat "$work/load")"
	echo "$name: up to $most mappings of shared pages; $(huge_kib "$name") KiB in huge pages"
	mappings=$most
	huge=$(huge_kib "$name")
	vm_stop "$name" || fail "$name: QEMU ended with status $?"
	grep -q 'guest: bye' "$work/$name.console" || fail "$name: no clean shutdown"
	[ ! -s "$work/$name.err" ] || fail "$name: messages: $(cat "$work/$name.err")"
}

boot small --huge-pages none
[ "$mappings" -gt 100 ] || fail "small pages: nothing was shared"
boot huge
# QEMU asks for huge pages; the library passes that on.
if ! grep -q '\[never\]' /sys/kernel/mm/transparent_hugepage/enabled && [ "$huge" -eq 0 ] && [ "$mappings" -eq 0 ]; then
	fail "huge pages: neither huge pages nor shared ones"
fi
exit "$((failures > 0))"
