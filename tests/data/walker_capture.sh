#!/usr/bin/env bash
# walker_capture.sh
# Makes tests/data/walker_la48.txt and walker_la57.txt again: the page tables of a Linux guest with four and with five
# levels, and what QEMU's own walk (its monitor's "info tlb") finds in them. Needs what tests/qemu needs. The numbers differ
# from run to run, since the guest's kernel puts itself elsewhere at every start.

set -eu
SRC=$(cd -- "$(dirname -- "$0")/../.." && pwd)
export SRC
work=$(mktemp -d)
trap 'vm_kill_all; rm -rf "$work"' EXIT
# shellcheck source=tests/qemu/lib.sh
. "$SRC/tests/qemu/lib.sh"

monitor() { # COMMAND FILE
	vm_qmp "$name" human-monitor-command "{\"command-line\": \"$1\"}" >"$work/$2"
}

qemu_need
qemu_image
for name in la48 la57; do
	case $name in
	la48) cpu=max,-la57 ;;
	la57) cpu=max ;;
	esac
	vm_start "$name" -cpu "$cpu"
	vm_ready "$name" 120
	# Both processors run a program, so that there are its pages below the kernel's.
	vm_run "$name" 60 'for i in 1 2; do python3 -c "while True: pass" & done; sleep 2' >/dev/null
	vm_qmp "$name" stop >/dev/null
	monitor "info registers" registers
	monitor "info tlb" tlb
	vm_dump "$name" "$work/ram"
	vm_qmp "$name" quit >/dev/null
	python3 "$SRC/tests/data/walker_reduce.py" "$work/registers" "$work/tlb" "$work/ram" >"$work/out"
	mv "$work/out" "$SRC/tests/data/walker_$name.txt"
done
