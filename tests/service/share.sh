#!/usr/bin/env bash
# VMs of different processes share pages through the service; written pages break; what ends is given back; a fork of a
# guest keeps its bytes, also when the guest is gone.
. "$(dirname "$0")/lib.sh"

printf '[domain test]\nuser = root\n' >"$work/config"
start_service
start_guest a 2000
start_guest b 2000
for name in a b; do
	tell "$name" fill 1
done
for name in a b; do
	tell "$name" until 1900
	tell "$name" check
done
eventually '.domains | length == 1 and .[0].name == "test" and .[0].saved_pages >= 1900 and .[0].pool_pages <= 2000'

# What is written is the guest's own again.
tell a write 500
tell a check
tell b check
eventually '.domains[0].broken_pages >= 500 or .domains[0].references <= 3600'

# A child of the guest maps pages that the guest gives up.
tell b fork
child=$reply
tell b write 2000
tell b check
tell b child
end_guest b
eventually '[.clients[] | select(.state == "zombie")] | length == 1'
tell a fill 2
sleep 1.2
eventually '[.clients[] | select(.state == "zombie")] | length == 1'
kill -KILL "$child"
eventually '[.clients[] | select(.state == "zombie")] | length == 0'
tell a check
end_guest a
eventually '.domains | length == 0'
grep "bad bytes" "$work/log" && fail "a child lost its bytes"
finish
