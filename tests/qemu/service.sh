#!/usr/bin/env bash
# Unmodified QEMUs that share through gmm-dedup serve: three guests that check their own data, one of them with a disk on
# cache=none. Then what their RAM costs is at most 1.25 times its distinct pages that are not zero, and one of them is
# migrated by postcopy into a fourth.

set -u
work=$(mktemp -d)
trap 'vm_kill_all; [ -z "${service-}" ] || { kill "$service"; wait "$service"; }; release; rm -rf "$work"' EXIT
# shellcheck source=tests/qemu/lib.sh
. "$SRC/tests/qemu/lib.sh"
failures=0

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

# ---- three guests -----------------------------------------------------------------------------------------

cat >"$work/config" <<'EOF'
[domain guests]
user = root
EOF
"$BIN/gmm-dedup" serve --socket "$work/socket" --runtime-dir "$work/pool" --config "$work/config" \
	>"$work/service.log" 2>&1 &
service=$!
service_ready "$work/socket" "$work/service.log"

vm_wrap=("$BIN/gmm-dedup" exec --socket "$work/socket" --cpu-percent 40 --window-ms 500 --huge-pages none --)
head -c 16M /dev/urandom >"$work/disk"
vm_start a
vm_start b -drive "file=$work/disk,format=raw,cache=none,if=virtio"
vm_start c
for vm in a b c; do
	vm_ready "$vm" 400 || exit 1
done

vm_run a 300 'python3 /load.py 3 16' >"$work/a.load" &
loads=($!)
vm_run c 300 'python3 /load.py 3 16' >"$work/c.load" &
loads+=($!)
# Direct I/O into guest RAM: twice past the page cache, into other pages, which is what was in the file.
sum=$(sha256sum <"$work/disk" | cut -d' ' -f1)
for round in 1 2 3; do
	got=$(vm_run b 300 'echo 3 >/proc/sys/vm/drop_caches; sha256sum </dev/vda' | cut -d' ' -f1)
	[ "$got" = "$sum" ] || fail "b: round $round: the disk reads as '$got'"
done
vm_run b 300 'dd if=/load.py of=/dev/vda bs=4096 conv=fsync 2>/dev/null; cmp -n 2000 /load.py /dev/vda' || fail "b: writing"
vm_run b 300 'python3 /load.py 2 16' >"$work/b.load" &
loads+=($!)
for load in "${loads[@]}"; do
	wait "$load" || fail "a load: $(cat "$work"/?.load)"
done
cmp -n 2000 "$SRC/tests/qemu/guest/load.py" "$work/disk" || fail "what b wrote is not in its disk"

# ---- what it costs ----------------------------------------------------------------------------------------

# KiB: what the guests have for themselves, and the whole pool. Pss would tell less: it leaves out pool pages that no guest
# has read yet, and gives a part of the others to whoever has mapped the pool to compare with.
all_kib() {
	local vm sum
	sum=$(du -sk "$work/pool/pool" | cut -f1)
	for vm in a b c; do
		sum=$((sum + $(python3 "$qemu_here/vm.py" private "$work/$vm.qmp" "$(vm_pid "$vm")" "$vm_mib")))
	done
	echo "$sum"
}

before=0 calm=0 end=$((SECONDS + 200))
while [ "$calm" -lt 3 ] && [ "$SECONDS" -lt "$end" ]; do
	now=$(all_kib)
	if [ "$((now * 100))" -lt "$((before * 101))" ] && [ "$((now * 101))" -gt "$((before * 100))" ]; then
		calm=$((calm + 1))
	else
		calm=0
	fi
	before=$now
	sleep 2
done
for vm in a b c; do
	vm_qmp "$vm" stop >/dev/null
done
cost_kib=$(all_kib)

# What `status` says they cost is what the kernel says: private pages, and pool pages by parts of whoever maps them. The
# guests hold the parts of their RAM; the others are of the agents and the service, which have mapped the pool to compare. An
# agent that has just shared something tells the service a moment later.
status_agrees() {
	local vm ram elsewhere ram_kib=0 elsewhere_kib status_kib
	elsewhere_kib=$(awk '/^[0-9a-f]+-/ { pool = /\/domains\// } pool && /^Pss:/ { kib += $2 } END { print kib + 0 }' \
		"/proc/$service/smaps")
	for vm in a b c; do
		read -r ram elsewhere < <(python3 "$qemu_here/vm.py" pss "$work/$vm.qmp" "$(vm_pid "$vm")" "$vm_mib")
		ram_kib=$((ram_kib + ram)) elsewhere_kib=$((elsewhere_kib + elsewhere))
	done
	"$BIN/gmm-dedup" status --json --socket "$work/socket" >"$work/status"
	status_kib=$(python3 -c '
import json, sys
status = json.load(sys.stdin)
vms = [vm for client in status["clients"] for vm in client["vms"]]
print(4 * (sum(vm["private_pages"] for vm in vms) + sum(domain["pool_pages"] for domain in status["domains"])))
' <"$work/status")
	echo "status says $((status_kib / 1024)) MiB; Pss is $((ram_kib / 1024)) MiB of RAM and $((elsewhere_kib / 1024)) MiB elsewhere"
	python3 -c "import sys; sys.exit(not 0.95 < $status_kib / ($ram_kib + $elsewhere_kib) < 1.05)"
}
try_for 60 status_agrees || fail "status and Pss differ by more than 5 %: $(cat "$work/status")"
for vm in a b c; do
	vm_dump "$vm" "$work/$vm.ram" || fail "$vm: no dump"
	vm_qmp "$vm" cont >/dev/null
done
distinct=$("$BIN/gmm-dedup" estimate --json "$work"/[abc].ram |
	python3 -c 'import json, sys; print(json.load(sys.stdin)["distinct_pages"])')
ratio=$(python3 -c "print(round($cost_kib / ($distinct * 4), 3))")
echo "RAM of three guests of $vm_mib MiB each: $((cost_kib / 1024)) MiB for $((distinct * 4 / 1024)) MiB of distinct pages: $ratio"
python3 -c "import sys; sys.exit($ratio > 1.25)" || fail "more than 1.25 times the distinct pages"
rm -f "$work"/[abc].ram

# ---- postcopy ---------------------------------------------------------------------------------------------

vm_start d -incoming defer
vm_qmp d migrate-set-capabilities '{"capabilities": [{"capability": "postcopy-ram", "state": true}]}' >/dev/null ||
	fail "postcopy is refused in the fourth"
vm_qmp d migrate-incoming "{\"uri\": \"unix:$work/migration\"}" >/dev/null || fail "no incoming migration"
python3 "$qemu_here/vm.py" postcopy "$work/c.qmp" "unix:$work/migration" || { fail "the migration"; vm_report d; }
vm_qmp c quit >/dev/null
wait "$(vm_pid c)"
unset "vm_pids[c]"
vm_run d 400 'python3 /load.py 2 16' >"$work/d.load" || fail "d after its migration: $(cat "$work/d.load")"
d_shares() {
	mappings=$(grep -c '/pool/' "/proc/$(vm_pid d)/maps") && [ "$mappings" -ge 50 ]
}
try_for 120 d_shares || fail "d: nothing is shared after its migration"
echo "d, after postcopy: $mappings mappings of shared pages"

for vm in a b d; do
	vm_stop "$vm" || fail "$vm: QEMU ended with status $?"
done
[ "$failures" -eq 0 ] || cat "$work/service.log" "$work"/*.err
exit "$((failures > 0))"
