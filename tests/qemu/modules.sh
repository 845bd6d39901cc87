#!/usr/bin/env bash
# Two real guests of different processes name their pages (gmm-guest, virtio-serial, gmm-dedup exec --guest-port) and share
# those of the kernel and the C library, through a service that has paused scans: nothing else is looked at. Meanwhile both
# run a load that checks its own data. Then one of them sends noise.

set -u
work=$(mktemp -d)
trap 'vm_kill_all; [ -z "${service-}" ] || { kill "$service"; wait "$service"; }; release; rm -rf "$work"' EXIT
# shellcheck source=tests/qemu/lib.sh
. "$SRC/tests/qemu/lib.sh"
failures=0
check=$BIN/../tests/guest/guest-check

fail() {
	echo "FAIL: $*"
	failures=$((failures + 1))
}

# What the service has mounted.
release() {
	awk -v "at=$work/" 'index($2, at) == 1 { print $2 }' /proc/mounts | sort -r | while read -r mount; do
		umount "$mount"
	done
}

qemu_need
if [ "$(id -u)" -ne 0 ]; then
	echo "skipped: not root, so the service cannot mount its pool"
	exit 77
fi
qemu_image
# The kernel unpacks one archive after the other.
mkdir "$work/more"
cp "$BIN/gmm-guest" "$work/more/"
(cd "$work/more" && find . -print0 | cpio -0 -o -H newc -R 0:0 --quiet) >"$work/more.cpio"
cat "$qemu_initrd" "$work/more.cpio" >"$work/initrd"
qemu_initrd=$work/initrd
# Relocated to one place in both guests: what is compared is sharing, not the luck of the dice.
vm_append=nokaslr

printf '[domain guests]\nuser = root\n' >"$work/config"
"$BIN/gmm-dedup" serve --socket "$work/socket" --runtime-dir "$work/pool" --config "$work/config" \
	>"$work/service.log" 2>&1 &
service=$!
service_ready "$work/socket" "$work/service.log"
"$BIN/gmm-dedup" pause --socket "$work/socket" all || fail "pause"

# In the strictest sandbox, which is in force before the library listens.
sandbox=(-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny)
for vm in a b; do
	vm_wrap=("$BIN/gmm-dedup" exec --socket "$work/socket" --guest-port "$work/$vm.port" --cpu-percent 0 --window-ms 500
		--huge-pages none --log --)
	vm_start "$vm" "${sandbox[@]}" -device virtio-serial-pci -chardev "socket,id=gmm,path=$work/$vm.port,server=off,reconnect=1" \
		-device virtserialport,chardev=gmm,name=org.gmm-dedup.0 \
		-chardev "socket,id=check,path=$work/$vm.check,server=on,wait=off" \
		-device virtserialport,chardev=check,name=org.gmm-dedup.check
done

# One line: the guest's shell takes commands so.
start='insmod /modules/virtio_console.ko; mkdir -p /dev/virtio-ports; for p in /sys/class/virtio-ports/*; do'
start+=' ln -s "/dev/${p##*/}" "/dev/virtio-ports/$(cat $p/name)"; done;'
start+=' (python3 /load.py 3 16 >/tmp/load 2>&1; echo "status $?" >>/tmp/load) &'
start+=' python3 -c "import time; time.sleep(1000)" & sleep 3;'
start+=' /gmm-guest --interval 5 >/tmp/agent 2>&1 & echo $! >/tmp/agent.pid'
for vm in a b; do
	vm_ready "$vm" 400 || exit 1
	grep -q '^Seccomp:.*2' "/proc/$(vm_pid "$vm")/status" || fail "$vm: not in the sandbox"
	[ "$(stat -c %a "$work/$vm.port")" = 600 ] || fail "$vm: others may connect to the port"
	vm_run "$vm" 300 "$start" >"$work/$vm.start" 2>&1 || fail "$vm: no agent: $(cat "$work/$vm.start")"
done

# ---- what is shared -----------------------------------------------------------------------------------------------

shared_pages() {
	"$BIN/gmm-dedup" status --socket "$work/socket" --json >"$work/status" &&
		python3 -c 'import json, sys
vms = [vm["shared_pages"] for c in json.load(open(sys.argv[1]))["clients"] for vm in c["vms"]]
sys.exit(len(vms) != 2 or min(vms) < int(sys.argv[2]))' "$work/status" "$1"
}

reported() { # VM
	grep -q 'names [0-9]* pages' "$work/$1.err"
}

for vm in a b; do
	try_for 300 reported "$vm" || { fail "$vm: no report: $(vm_run "$vm" 20 'cat /tmp/agent')"; vm_report "$vm"; }
done
try_for 300 shared_pages 2500 || fail "too little is shared: $(cat "$work/status")"
cat >"$work/compare.py" <<'END'
"""Pages that both guests name as the same page of a file, and that are equal, are one page of the pool."""
import json
import re
import sys

work = sys.argv[1]
PAGE = 4096


def pages(vm):
    with open(f"{work}/{vm}.pages") as lines:
        return {(name, int(page)): int(gfn) for name, page, gfn in (line.rstrip("\n").split("\t") for line in lines)}


def states(vm):
    found = {}
    with open(f"{work}/{vm}.dump") as f:
        for slot in json.load(f)["slots"]:
            for gfn, count, state, page in slot["runs"]:
                for i in range(count):
                    found[gfn + i] = (state, page + i)
    return found


def ram(vm):
    with open(f"{work}/{vm}.ram", "rb") as f:
        return f.read()


named, state, memory = ({vm: read(vm) for vm in "ab"} for read in (pages, states, ram))
total, good = {}, {}
for key in named["a"].keys() & named["b"].keys():
    at = {vm: named[vm][key] for vm in "ab"}
    page = {vm: memory[vm][at[vm] * PAGE:(at[vm] + 1) * PAGE] for vm in "ab"}
    if page["a"] != page["b"] or page["a"] == page["a"][:8] * (PAGE // 8):
        continue
    total[key[0]] = total.get(key[0], 0) + 1
    one, other = (state[vm].get(at[vm]) for vm in "ab")
    good[key[0]] = good.get(key[0], 0) + (one == other and one[0] == "shared")

failed = False
for what, least, pattern in (("kernel", 1000, r"linux "), ("C library", 100, r".*/libc(-[0-9.]*)?\.so"), ("everything", 1500, "")):
    equal = sum(n for name, n in total.items() if re.match(pattern, name))
    shared = sum(n for name, n in good.items() if re.match(pattern, name))
    print(f"{what}: {shared} of {equal} equal pages that both name are one page")
    if equal < least or shared < 0.97 * equal:
        failed = True

# Pages that the service knows at all: those that were named, and no others. A scan would have looked at all memory.
with open(f"{work}/status") as f:
    status = json.load(f)
for client in status["clients"]:
    for vm in client["vms"]:
        seen = vm["pages"] - vm["states"]["absent"]
        most = 0
        for name in "ab":
            with open(f"{work}/{name}.err") as log:
                most = max([most] + [int(n) for n in re.findall(r"names (\d+) pages", log.read())])
        print(f"{vm['name']} of process {client['pid']}: {seen} of {vm['pages']} pages were looked at; at most {most} named")
        if seen > 1.25 * most or seen > vm["pages"] / 4 or vm["states"]["volatile"] or vm["states"]["zero"]:
            print("somebody scanned:", vm["states"])
            failed = True

# What the command lists is what both guests have named.
with open(f"{work}/modules") as f:
    listed = json.load(f)
libraries = [m for m in listed["modules"] if re.match(r".*/libc(-[0-9.]*)?\.so", m["name"]) and m["users"] == 2]
print("listed:", json.dumps(libraries))
if (listed["processes"], listed["answered"], listed["left_out"]) != (2, 2, 0) or len(libraries) != 1:
    failed = True
for m in libraries:
    if m["shared_pages"] < 0.97 * total[m["name"]] or m["shared_pages"] > m["pages"] or m["os"] != "linux" or \
            m["domain"] != "guests" or m["saved_pages"] < m["shared_pages"]:
        failed = True
sys.exit(failed)
END

# Holds the guests at a moment and compares what they name with what is shared.
shared_as_named() {
	local vm once equal=0
	for vm in a b; do
		vm_run "$vm" 300 'sleep 1; /gmm-guest --once --port /dev/virtio-ports/org.gmm-dedup.check' >"$work/$vm.once" &
		once=$!
		"$check" receive "$work/$vm.check" "$work/$vm.report" || fail "$vm: no report to compare with"
		wait "$once"
		"$check" pages "$work/$vm.report" >"$work/$vm.pages" || fail "$vm: its report"
	done
	sleep 2 # a pass more
	for vm in a b; do
		vm_qmp "$vm" stop >/dev/null
	done
	"$BIN/gmm-dedup" modules --wait 90 --socket "$work/socket" --json >"$work/modules" || fail "no list of modules"
	for vm in a b; do
		vm_dump "$vm" "$work/$vm.ram" || fail "$vm: no dump"
		"$BIN/gmm-dedup" dump --socket "$work/socket" "$(vm_pid "$vm")" >"$work/$vm.dump" || fail "$vm: no page table"
	done
	"$BIN/gmm-dedup" status --socket "$work/socket" --json >"$work/status"
	python3 "$work/compare.py" "$work" || equal=1
	rm -f "$work"/[ab].ram
	for vm in a b; do
		vm_qmp "$vm" cont >/dev/null
	done
	return "$equal"
}
# The load goes on reading and dropping files: on a slow host the last report that was followed is of some time ago.
try_for 120 shared_as_named || fail "what is shared"
for vm in a b; do
	[ "$(grep -c '/pool/' "/proc/$(vm_pid "$vm")/maps")" -gt 50 ] || fail "$vm: hardly a mapping of the pool"
done

# ---- the loads ----------------------------------------------------------------------------------------------------

for vm in a b; do
	vm_run "$vm" 600 'until grep -q ^status /tmp/load; do sleep 1; done; cat /tmp/load' >"$work/$vm.load"
	grep -qx 'status 0' "$work/$vm.load" || fail "$vm: the load: $(cat "$work/$vm.load")"
	grep -qx 'load: all rounds ok' "$work/$vm.load" || fail "$vm: no end of the load"
done

# ---- a hostile guest ------------------------------------------------------------------------------------------------

reports_of_b() {
	[ "$(grep -c 'names [0-9]* pages' "$work/b.err")" -gt "$1" ]
}

vm_run b 300 'kill $(cat /tmp/agent.pid); sleep 1; head -c 2000000 /dev/urandom >/dev/virtio-ports/org.gmm-dedup.0' ||
	fail "b: sending noise"
before=$(grep -c 'names [0-9]* pages' "$work/b.err")
vm_run b 300 '/gmm-guest --interval 5 >/tmp/agent 2>&1 &'
try_for 300 reports_of_b "$before" || fail "b: nobody listens after the noise"
shared_pages 2000 || fail "noise ended sharing: $(cat "$work/status")"
for vm in a b; do
	vm_run "$vm" 300 'python3 /load.py 1 4' >"$work/$vm.load" || fail "$vm: the last load: $(cat "$work/$vm.load")"
	vm_stop "$vm" || fail "$vm: QEMU ended with status $?"
done
[ "$failures" -eq 0 ] || tail -n 30 "$work/service.log" "$work"/*.err
[ "$failures" -eq 0 ] && echo "ok in $SECONDS s"
exit "$((failures > 0))"
