#!/usr/bin/env bash
# gmm-dedup exec beside libraries that the user preloads himself: allocators, and one that interposes what we do.

set -u
failures=0
for name in libjemalloc.so.2 libmimalloc.so.2 libeatmydata.so; do
	if ! LD_PRELOAD=$name /bin/true 2>&1 | cmp -s - /dev/null; then
		echo "skipped: $name is missing (script/setup installs it)"
		exit 77
	fi
	for program in mappings forks signals; do
		LD_PRELOAD=$name timeout 250 "$BIN/gmm-dedup" exec --cpu-percent 0 --window-ms 50 -- \
			sh -c "grep -q $name /proc/\$\$/maps && exec $BIN/../tests/preload/$program" || {
			echo "FAIL: $program beside $name: status $?"
			failures=$((failures + 1))
		}
	done
done
exit "$((failures > 0))"
