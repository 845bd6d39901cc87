#!/usr/bin/env bash
# gmm-dedup exec: finds programs as a shell does, passes on arguments, environment and exit status, refuses programs that
# nothing can be preloaded into, and a program runs as before where the library cannot work.
# BIN is the folder of the programs.

set -u
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

fail() {
	echo "FAIL: $*"
	failures=$((failures + 1))
}

# refused STATUS TEXT ARGUMENT...: exit status, nothing on stdout, and a message that has TEXT.
refused() {
	local want=$1 text=$2 status=0
	shift 2
	"$BIN/gmm-dedup" exec "$@" >"$work/out" 2>"$work/err" || status=$?
	[ "$status" -eq "$want" ] || fail "$*: exit status $status, not $want"
	[ ! -s "$work/out" ] || fail "$*: wrote to stdout"
	grep -qF -- "$text" "$work/err" || fail "$*: no '$text' in: $(cat "$work/err")"
}

refused 2 "no program given"
refused 2 "not found" --  no-such-program
refused 2 "not found" "$work/no-such-program"
refused 2 "is not a number" --cpu-percent x true
refused 2 "is not a name" --domain '' true
refused 2 "is none of" --huge-pages some true
refused 2 "unrecognized option" --no-such-option true
refused 2 "not a regular file" "$work"
echo text >"$work/text"
chmod 755 "$work/text"
refused 2 "neither an ELF program nor a script" "$work/text"

cat >"$work/static.c" <<'EOF'
int main(void) { return 0; }
EOF
"${CC:-cc}" -static -o "$work/static" "$work/static.c" || fail "cannot link statically"
refused 2 "statically linked" "$work/static"
printf '#!%s\n' "$work/static" >"$work/script"
chmod 755 "$work/script"
refused 2 "statically linked" "$work/script"

if [ "$(id -u)" -eq 0 ]; then
	cp /bin/true "$work/setuid"
	chown 65534:65534 "$work/setuid"
	chmod 4755 "$work/setuid"
	refused 2 "setuid" "$work/setuid"
	chmod 2755 "$work/setuid"
	refused 2 "setgid" "$work/setuid"
fi

library=$BIN/../lib/gmm-dedup/libgmm-preload.so
if ! [ -e "$library" ]; then
	refused 1 "libgmm-preload.so" true
	exit "$((failures > 0))"
fi

# Arguments, environment, exit status.
run() {
	"$BIN/gmm-dedup" exec "$@" >"$work/out" 2>"$work/err"
}
run --domain blue -- sh -c 'echo "$0 $1 $GMM_DEDUP_DOMAIN"; exit 7' a '--domain b'
status=$?
[ "$status" -eq 7 ] || fail "exit status $status, not 7"
[ "$(cat "$work/out")" = "a --domain b blue" ] || fail "arguments: $(cat "$work/out")"
[ ! -s "$work/err" ] || fail "wrote to stderr: $(cat "$work/err")"
run -- grep -c libgmm-preload /proc/self/maps || fail "not loaded"
LD_PRELOAD=libm.so.6 run sh -c 'grep -q libgmm-preload /proc/self/maps && grep -q libm.so /proc/self/maps' ||
	fail "LD_PRELOAD from before is lost"
printf '#!/bin/sh\nexit 5\n' >"$work/script"
run "$work/script"
status=$?
[ "$status" -eq 5 ] || fail "a script: exit status $status, not 5"

# A program that asks for merging where it cannot be had: said once, and it runs on.
if [ "$(id -u)" -eq 0 ]; then
	cat >"$work/asks.c" <<'EOF'
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
int main(void)
{
	for (int i = 0; i < 2; i++) {
		char *p = mmap(NULL, 4 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		memset(p, 5, 4 << 20);
		madvise(p, 4 << 20, MADV_MERGEABLE);
		if (madvise(p, 4096, MADV_DONTNEED) != 0 || p[0] != 0 || p[4096] != 5 || munmap(p, 4 << 20) != 0)
			return 1;
	}
	puts("done");
	return 0;
}
EOF
	"${CC:-cc}" -D_GNU_SOURCE -o "$work/asks" "$work/asks.c" || fail "cannot compile"
	cmake --install "$BIN/.." --prefix "$work/prefix" >"$work/log" || fail "cannot install: $(cat "$work/log")"
	chmod 755 "$work"
	setpriv --reuid=65534 --regid=65534 --clear-groups -- \
		"$work/prefix/bin/gmm-dedup" exec -- "$work/asks" >"$work/out" 2>"$work/err" || fail "exit status $?"
	[ "$(cat "$work/out")" = done ] || fail "it did not run on: $(cat "$work/out")"
	if [ "$(cat /proc/sys/vm/unprivileged_userfaultfd)" = 0 ]; then
		[ "$(wc -l <"$work/err")" -eq 1 ] || fail "not said once: $(cat "$work/err")"
		grep -q 'gmm-dedup: .*not shared.*userfaultfd' "$work/err" || fail "the reason: $(cat "$work/err")"
	fi
fi
exit "$((failures > 0))"
