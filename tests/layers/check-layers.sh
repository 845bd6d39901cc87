#!/bin/sh
# check-layers.sh ROOT
# Reads every C file below ROOT and prints each include that goes against the layers
#
#   cmd, bench, preload -> service -> sharedmod, dedup -> wire -> gmm -> gmm/sys
#
# and each call to the operating system's memory and clock functions outside gmm/sys. Fails if it printed any.

set -eu
root=$1
here=$(cd -- "$(dirname -- "$0")" && pwd)
cd -- "$root"

list=$(mktemp)
trap 'rm -f "$list"' EXIT
for folder in gmm wire dedup sharedmod service guest cmd bench preload tests docs/examples include; do
	if [ -d "$folder" ]; then
		find "$folder" -type f -name '*.[ch]'
	fi
done | sort >"$list"

if ! [ -s "$list" ]; then
	echo "no C files below $root"
	exit 1
fi
# One awk for all files; names cannot contain white space in this tree.
# shellcheck disable=SC2046
awk -f "$here/check-layers.awk" $(cat "$list")
