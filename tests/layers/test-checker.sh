#!/bin/sh
# Shows that check-layers.sh can fail: each bad file must be found, at its line, and a good tree must pass.

set -eu
here=$(cd -- "$(dirname -- "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0
cases=0

# write FILE TEXT: a fresh tree that holds the public header and this one file.
write() {
	rm -rf "$work/tree"
	mkdir -p "$work/tree/include/gmm" "$work/tree/$(dirname "$1")"
	echo '#include <stdint.h>' >"$work/tree/include/gmm/gmm.h"
	printf '%b' "$2" >"$work/tree/$1"
	cases=$((cases + 1))
}

check() {
	sh "$here/check-layers.sh" "$work/tree" >"$work/out" 2>&1
}

bad() { # FILE LINE TEXT
	write "$1" "$3"
	if check; then
		echo "not found: $1: $3"
		status=1
	elif ! grep -q "^$1:$2: " "$work/out" || [ "$(wc -l <"$work/out")" -ne 1 ]; then
		echo "wrong report for $1: $3"
		cat "$work/out"
		status=1
	fi
}

good() { # FILE TEXT
	write "$1" "$2"
	if ! check; then
		echo "falsely found: $1: $2"
		cat "$work/out"
		status=1
	fi
}

bad gmm/sys/a.c 2 '\n#include "gmm/pool.h"\n'
bad gmm/a.c 1 '#include "dedup/index.h"\n'
bad gmm/a.h 1 '#include "pool.h"\n'
bad gmm/a.c 1 '#include "gmm/../dedup/index.h"\n'
bad dedup/a.c 1 '#include "sharedmod/module.h"\n'
bad dedup/a.c 1 '#include <dedup/index.h>\n'
bad sharedmod/a.c 1 '  #  include "cmd/json.h"\n'
bad guest/a.c 1 '#include "sharedmod/report.h"\n'
bad guest/a.c 2 '\n#include "gmm/pool.h"\n'
bad cmd/a.c 1 '#include "gmm/pool.h"\n'
bad preload/a.c 1 '#include "gmm/pool.h"\n'
bad cmd/a.c 1 '#include <gmm/pool.h>\n'
bad cmd/a.c 1 '#include "bench/report.h"\n'
bad bench/stages.c 1 '#include "sharedmod/module.h"\n'
bad bench/stages.h 1 '#include "dedup/index.h"\n'
bad bench/a.c 1 '#include "dedup/index.h"\n'
bad tests/api/a.c 1 '#include "gmm/pool.h"\n'
bad tests/api/a.c 1 '#include "../../gmm/pool.h"\n'
bad tests/support/a.h 1 '#include "gmm/pool.h"\n'
bad docs/examples/a.c 1 '#include "gmm/gmm.h"\n'
bad include/gmm/more.h 1 '#include "gmm/pool.h"\n'
bad gmm/a.c 3 '/* one\n */ int x;\nint y = madvise(p, n, 4);\n'
bad dedup/a.c 1 'x = !ioctl (fd, 1);\n'
bad sharedmod/a.c 1 'char c = \x27"\x27; clock_gettime(0, &t);\n'
bad dedup/a.c 2 'puts("/*");\np = mmap(0, 1, 2, 3, 4, 5);\n'

good gmm/sys/a.c '#include "gmm/sys/sys.h"\n#include <gmm/gmm.h>\np = mmap(0);\n'
good gmm/a.c '#include "gmm/sys/sys.h"\n#include "gmm/pool.h"\n#include <sys/mman.h>\n'
good dedup/a.c '#include "dedup/index.h"\n#include "gmm/pool.h"\n#include "gmm/sys/sys.h"\n'
good sharedmod/a.c '#include "sharedmod/m.h"\n#include "dedup/index.h"\n'
good preload/a.c '#include "preload/b.h"\n#include <gmm/gmm.h>\nmmap(0);\n'
good guest/a.c '#include "guest/b.h"\n#include "sharedmod/report_format.h"\nioctl(1);\n'
good bench/a.c '#include "bench/b.h"\n#include "cmd/trace.h"\n#include <gmm/gmm.h>\nmmap(0);\n'
good bench/stages.c '#include "bench/b.h"\n#include "dedup/index.h"\n#include "gmm/slot.h"\n'
good tests/api/a.c '#include "tests/support/guest.h"\n#include <gmm/gmm.h>\n'
good tests/service/a.c '#include "tests/support/guest.h"\n'
good tests/unit/a.c '#include "dedup/index.h"\n#include "tests/unit/support/fake.h"\n'
good dedup/a.c '/* mmap(0)\n#include "cmd/x.h"\n*/ // ioctl(1)\nint x;\n'
good dedup/a.c 'sys->mmap(0); sys.ioctl(1); gmm__sys_mmap(2);\n'
good dedup/a.c 'puts("madvise(p)\\"mmap(q)");\nint (*mmap)(void);\n'

write empty.txt ''
rm -rf "$work/tree/include"
if check; then
	echo "an empty tree passed"
	status=1
fi

echo "$cases cases"
exit "$status"
