#!/usr/bin/env bash
# What "gmm-bench qemu" runs: unmodified QEMU guests with a load that checks its own data, under each engine in turn.
#
#   qemu.sh [--json] [--engine none|ksm|gmm]... [--guests N] [--rounds N] [--exec-option OPTION]...
#
# For each engine: boot, run the load in all guests at once, then wait until the memory that they take settles. Memory is
# the sum of the Pss of all QEMU processes and of the service, so that both engines are measured alike; saved is the
# difference to "none". saved_90_ms is the time from the start of the load, which makes the memory and takes longer under some
# engines, until 90 % of what an engine saves in the end are saved, after the load.
# CPU is that of ksmd, or of the agents' threads and the service. The kernel's settings are put back; KSM in use by
# somebody else is an error. BIN and SRC are the programs' folder and the root of the sources.

set -u
engines=()
guests=3
rounds=4
json=false
exec_options=(--cpu-percent 0 --window-ms 1000)
while [ $# -gt 0 ]; do
	case $1 in
	--json) json=true ;;
	--engine) engines+=("$2") && shift ;;
	--guests) guests=$2 && shift ;;
	--rounds) rounds=$2 && shift ;;
	--exec-option) exec_options+=("$2") && shift ;;
	*) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" && exit 2 ;;
	esac
	shift
done
[ ${#engines[@]} -gt 0 ] || engines=(none ksm gmm)

work=$(mktemp -d)
# shellcheck source=tests/qemu/lib.sh
. "$SRC/tests/qemu/lib.sh"
ksm=/sys/kernel/mm/ksm
declare -A ksm_old=()
service=
limit_seconds=${GMM_QEMU_LIMIT_SECONDS:-120}
quiet_seconds=${GMM_QEMU_QUIET_SECONDS:-10}

finish() {
	vm_kill_all
	[ -z "$service" ] || kill "$service" 2>/dev/null
	ksm_restore
	umount "$work/run/pool-ro" "$work/run/pool" 2>/dev/null
	rm -rf "$work"
}
trap finish EXIT

# ---- engines ------------------------------------------------------------------------------------------------------

# QEMU asks for it under any engine.
ksm_is_free() {
	if [ "$(cat $ksm/run)" != 0 ] || [ "$(cat $ksm/pages_shared)" != 0 ]; then
		echo "KSM is in use on this host: not measured" >&2
		exit 1
	fi
}

ksm_start() {
	local name
	for name in pages_to_scan sleep_millisecs use_zero_pages; do
		ksm_old[$name]=$(cat $ksm/$name)
	done
	echo 20000 >$ksm/pages_to_scan
	echo 0 >$ksm/sleep_millisecs
	echo 1 >$ksm/use_zero_pages
	echo 1 >$ksm/run
}

ksm_restore() {
	local name
	[ ${#ksm_old[@]} -gt 0 ] || return 0
	echo 2 >$ksm/run
	echo 0 >$ksm/run
	for name in "${!ksm_old[@]}"; do
		echo "${ksm_old[$name]}" >"$ksm/$name"
	done
	ksm_old=()
}

gmm_start() {
	printf '[domain bench]\nuser = %s\n' "$(id -un)" >"$work/config"
	"$BIN/gmm-dedup" serve --config "$work/config" --runtime-dir "$work/run" --socket "$work/socket" \
		2>"$work/service.log" &
	service=$!
	for _ in $(seq 100); do
		[ ! -S "$work/socket" ] || break
		sleep 0.05
	done
	vm_wrap=("$BIN/gmm-dedup" exec --domain bench --socket "$work/socket" "${exec_options[@]}" --)
}

gmm_stop() {
	kill "$service"
	wait "$service" 2>/dev/null
	service=
	umount "$work/run/pool-ro" "$work/run/pool" 2>/dev/null
	vm_wrap=()
}

engine_start() {
	ksm_is_free
	case $1 in
	none) ;;
	ksm) ksm_start ;;
	gmm) gmm_start ;;
	*) echo "no such engine: $1" >&2 && exit 2 ;;
	esac
}

engine_stop() {
	case $1 in
	ksm) ksm_restore ;;
	gmm) gmm_stop ;;
	esac
}

# ---- figures ------------------------------------------------------------------------------------------------------

# CPU of a thread or process in hundredths of a second: stat files as arguments.
ticks() {
	cat "$@" 2>/dev/null | sed 's/.*) //' | awk '{ sum += $12 + $13 } END { print sum + 0 }'
}

cpu_ticks() { # ENGINE
	local files=() pid task
	case $1 in
	none) echo 0 && return ;;
	ksm) files=("/proc/$(pgrep -x ksmd)/stat") ;;
	gmm)
		files=("/proc/$service/stat")
		for pid in "${vm_pids[@]}"; do
			for task in /proc/"$pid"/task/*; do
				case $(cat "$task/comm" 2>/dev/null) in
				gmm-*) files+=("$task/stat") ;;
				esac
			done
		done
		;;
	esac
	ticks "${files[@]}"
}

pss_kib() {
	local pid
	for pid in "${vm_pids[@]}" $service; do
		cat "/proc/$pid/smaps_rollup"
	done | awk '/^Pss:/ { sum += $2 } END { print sum }'
}

now_ms() {
	date +%s%3N
}

# Samples until the memory has not changed by more than one in 200 for quiet_seconds: lines "milliseconds KiB".
sample() { # FILE
	local start last_change pss reference=0 now
	start=$(now_ms)
	last_change=$start
	while :; do
		now=$(now_ms)
		pss=$(pss_kib)
		echo "$((now - start)) $pss" >>"$1"
		if [ $((pss > reference ? pss - reference : reference - pss)) -gt $((pss / 200)) ]; then
			reference=$pss
			last_change=$now
		fi
		[ $((now - last_change)) -lt $((quiet_seconds * 1000)) ] || break
		[ $((now - start)) -lt $((limit_seconds * 1000)) ] || break
		sleep 1
	done
}

# Boots, loads, settles; writes what was measured as "key value" lines.
measure() { # ENGINE FILE
	local name i cpu_before loads=() start settled
	engine_start "$1"
	cpu_before=$([ "$1" = ksm ] && cpu_ticks ksm || echo 0)
	start=$(now_ms)
	for i in $(seq "$guests"); do
		vm_start "$1$i"
	done
	for i in $(seq "$guests"); do
		vm_ready "$1$i" 300 || exit 1
	done
	echo "boot_ms $(($(now_ms) - start))"
	start=$(now_ms)
	for i in $(seq "$guests"); do
		vm_run "$1$i" 600 "python3 /load.py $rounds 24" >"$work/load$i" &
		loads+=($!)
	done
	for i in "${loads[@]}"; do
		wait "$i" || { echo "the load failed under $1: $(cat "$work"/load*)" >&2 && exit 1; }
	done
	echo "load_ms $(($(now_ms) - start))"
	rm -f "$work/samples.$1"
	sample "$work/samples.$1"
	settled=$(tail -n 1 "$work/samples.$1")
	[ "$1" = ksm ] || ksm_is_free
	echo "cpu_ms $((($(cpu_ticks "$1") - cpu_before) * 10))"
	echo "pss_kib ${settled#* }"
	for name in "${!vm_pids[@]}"; do
		vm_stop "$name" || { echo "$name did not end well under $1" >&2 && exit 1; }
	done
	engine_stop "$1"
}

report() {
	python3 - "$json" "$work" "${engines[@]}" <<'PY'
import json, sys
as_json, work, engines = sys.argv[1] == "true", sys.argv[2], sys.argv[3:]
result = {}
for engine in engines:
    with open(f"{work}/figures.{engine}") as f:
        result[engine] = {k: int(v) for k, v in (line.split() for line in f)}
base = result.get("none", {}).get("pss_kib")
for engine in engines:
    with open(f"{work}/samples.{engine}") as f:
        samples = [tuple(map(int, line.split())) for line in f]
    if base and engine != "none":
        end = base - samples[-1][1]
        result[engine]["saved_kib"] = end
        after_ms = next(t for t, kib in samples if base - kib >= 0.9 * end)
        result[engine]["saved_90_ms"] = result[engine]["load_ms"] + after_ms
if as_json:
    print(json.dumps({"benchmark": "qemu", "engines": result}))
else:
    names = ["boot_ms", "load_ms", "cpu_ms", "pss_kib", "saved_kib", "saved_90_ms"]
    print("engine  " + "".join(f"{n:>13}" for n in names))
    for engine, figures in result.items():
        print(f"{engine:8}" + "".join(f"{figures.get(n, '-'):>13}" for n in names))
PY
}

qemu_need
qemu_image
for engine in "${engines[@]}"; do
	measure "$engine" >"$work/figures.$engine" || exit 1
done
report
