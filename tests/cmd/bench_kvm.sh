#!/usr/bin/env bash
# gmm-bench kvm: a guest makes rounds without and with passes, over pages of which half are shared; the benchmark itself
# compares the guest's sums. BIN is the folder of the programs.

set -u
if ! [ -w /dev/kvm ]; then
	echo "skipped: /dev/kvm is missing"
	exit 77
fi
out=$(timeout 250 "$BIN/gmm-bench" kvm --mib 1 --phases 2 --phase-ms 500 --json) || {
	echo "FAIL: exit status $?"
	exit 1
}
jq -e '.saved_pages == .guest_pages / 2 and .passes_made > 0 and .paused.rounds > 0 and .passes.rounds > 0' \
	<<<"$out" >/dev/null || {
	echo "FAIL: $out"
	exit 1
}
