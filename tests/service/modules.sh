#!/usr/bin/env bash
# gmm-dedup modules asks the processes for what their guests have registered, and lists it for all of them together, each
# user's own; who does not answer is not waited for without end.
. "$(dirname "$0")/lib.sh"

# modules FILTER [ARGUMENT...]: a jq condition on what is listed.
modules() {
	local filter=$1
	shift
	"$BIN/gmm-dedup" modules --wait "$PATIENCE_S" --socket "$socket" --json "$@" >"$work/modules" 2>"$work/err" ||
		fail "exit status $?: $(cat "$work/err")"
	jq -e "$filter" "$work/modules" >/dev/null || fail "modules: $filter: $(jq -c . "$work/modules")"
}

name='"/usr/lib/libtest.so\u001b[31m"'
printf '[domain test]\nuser = root\n[domain other]\nuser = root\nask = yes\n' >"$work/config"
start_service
modules '. == { modules: [], saved_pages: 0, processes: 0, answered: 0, left_out: 0 }'
start_guest a 2000
start_guest b 2000
eventually '[.clients[].vms[]] | length == 2'
modules '.modules == [] and .processes == 2 and .answered == 2'
for guest in a b; do
	tell "$guest" fill 1
	tell "$guest" module 600
done
for guest in a b; do
	tell "$guest" until 2000
done
modules ".processes == 2 and .answered == 2 and .left_out == 0 and .saved_pages == 600 and .modules == [{ name: $name,
	version: \"2.36\", domain: \"test\", os: \"linux\", size: 2457600, users: 2, pages: 600, shared_pages: 600,
	variants: 0, references: 1200, saved_pages: 600 }]"

# For people. What a guest calls its files tells their terminal nothing.
"$BIN/gmm-dedup" modules --wait "$PATIENCE_S" --socket "$socket" >"$work/out" || fail "exit status $?"
grep -q '^  *2  *600  *600  *0  *2.3  test  */usr/lib/libtest.so?\[31m 2.36$' "$work/out" ||
	fail "no line: $(cat -v "$work/out")"
grep -q '^1 modules save 2.3 MiB; 2 of 2 processes with VMs answered$' "$work/out" || fail "no sum: $(cat -v "$work/out")"

# The same file in another domain is another module. A page that is written is not shared, and is the guest's own.
start_guest c 2000 other
start_guest d 2000 other
for guest in c d; do
	tell "$guest" fill 1
	tell "$guest" module 600
done
for guest in c d; do
	tell "$guest" until 2000
done
tell a write 100
eventually '[.domains[] | select(.name == "test") | .references] | .[0] <= 3900'
modules '.processes == 4 and ([.modules[] | [.domain, .users, .shared_pages, .references]] | sort) ==
	[["other", 2, 600, 1200], ["test", 2, 600, 1100]]'

# Records that are taken back, and VMs that end.
tell a no-module
modules '[.modules[] | [.domain, .users, .references]] | sort == [["other", 2, 1200], ["test", 1, 1100]]'
tell b unmap
wait "${guest_pid[b]}" # it might answer, without a VM, as long as it is there
unset "guest_pid[b]"
modules '.processes == 3 and ([.modules[].domain] == ["other"])'

# Another user sees what he may see: nothing.
setpriv --reuid 12345 --regid 12345 --clear-groups true 2>/dev/null && chmod 777 "$socket" &&
	setpriv --reuid 12345 --regid 12345 --clear-groups "$BIN/gmm-dedup" modules --socket "$socket" --json >"$work/out" &&
	{ jq -e '.modules == [] and .processes == 0' "$work/out" >/dev/null || fail "another user: $(cat "$work/out")"; }

# A process that is stopped does not answer; one that dies is not counted.
kill -STOP "${guest_pid[c]}"
for wait_s in 1 5 25; do # for the two others, which may be slow
	timeout 60 "$BIN/gmm-dedup" modules --wait $wait_s --socket "$socket" --json >"$work/modules" || fail "exit status $?"
	jq -e '.answered >= 2' "$work/modules" >/dev/null && break
done
jq -e '.processes == 3 and .answered == 2 and [.modules[] | [.domain, .users]] == [["other", 1]]' "$work/modules" >/dev/null ||
	fail "stopped: $(jq -c . "$work/modules")"
kill -KILL "${guest_pid[c]}"
modules '.processes == 2 and .answered == 2'

# A service that was started again knows no requests of the old one.
kill_service TERM
start_service
eventually '[.clients[] | select(.state == "connected") | .vms[]] | length == 2'
modules '.answered == 2 and [.modules[] | [.domain, .users, .shared_pages]] == [["other", 1, 600]]'
finish
