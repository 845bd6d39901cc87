#!/usr/bin/env bash
# smoke.sh GUEST-CHECK
# gmm-guest in a real Linux guest, over a virtio-serial port: its reports parse, and the pages that it names hold the bytes of
# the files that it names.

set -u
check=$1
work=$(mktemp -d)
trap 'vm_kill_all; rm -rf "$work"' EXIT
# shellcheck source=tests/qemu/lib.sh
. "$SRC/tests/qemu/lib.sh"

fail() {
	echo "FAIL: $*"
	vm_report agent
	exit 1
}

qemu_need
qemu_image
# The kernel unpacks one archive after the other.
mkdir -p "$work/more" "$work/root"
cp "$BIN/gmm-guest" "$work/more/"
(cd "$work/more" && find . -print0 | cpio -0 -o -H newc -R 0:0 --quiet) >"$work/more.cpio"
(cd "$work/root" && cpio -idm --quiet <"$qemu_initrd" 2>/dev/null; cpio -idm --quiet <"$work/more.cpio")
cat "$qemu_initrd" "$work/more.cpio" >"$work/initrd"
qemu_initrd=$work/initrd

vm_start agent -device virtio-serial-pci -chardev "socket,id=gmm,path=$work/port,server=on,wait=off" \
	-device virtserialport,chardev=gmm,name=org.gmm-dedup.0
vm_ready agent 120 || exit 1
# One line: the guest's shell takes commands so. It ends when Python runs, whose files are to be in the report.
start='for m in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_console; do'
start+=' insmod /modules/$m.ko 2>/dev/null; done; mkdir -p /dev/virtio-ports; for p in /sys/class/virtio-ports/*; do'
start+=' ln -s "/dev/${p##*/}" "/dev/virtio-ports/$(cat $p/name)"; done;'
start+=' python3 -c "import time; open(\"/tmp/up\", \"w\"); time.sleep(1000)" & /gmm-guest >/tmp/agent.log 2>&1 &'
start+=' while [ ! -e /tmp/up ]; do sleep 1; done'
vm_run agent 120 "$start" || fail "cannot start the agent"
"$check" receive "$work/port" "$work/report" || fail "no report: $(vm_run agent 20 'cat /tmp/agent.log; ls -l /dev/virtio-ports')"
# The host goes and comes back; what counts is the second report.
"$check" receive "$work/port" "$work/report" || fail "no second report"
vm_qmp agent stop >/dev/null
vm_dump agent "$work/ram" || fail "no dump"
"$check" compare "$work/report" "$work/ram" "$work/root" || fail "the report is wrong"
# It must be able to fail.
if "$check" compare "$work/report" /dev/zero "$work/root" >"$work/out"; then
	fail "a report that is wrong everywhere passed"
fi
vm_qmp agent quit >/dev/null
echo "ok in $SECONDS s"
