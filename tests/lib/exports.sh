#!/bin/sh
# exports.sh LIBRARY.so LIBRARY.a INCLUDE_DIR
# The shared library must export exactly the functions that the public headers declare, each with a version.
# In the static library all other functions and variables must be hidden.

set -eu
shared=$1
static=$2
include=$3

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0

# Function declarations after preprocessing: statements outside braces, without typedef and static, that name
# gmm_something before a parenthesis.
declared() {
	for header in "$include"/gmm/*.h; do
		cc -E -P -I "$include" -x c "$header"
	done | tr '\n\t' '  ' | sed 's/[;{}]/\n&\n/g' | awk '
		$0 == "{" { depth++; next }
		$0 == "}" { depth--; next }
		depth || /^ *(typedef|static|extern +"C")/ { next }
		match($0, /(^|[ *])gmm_[a-z0-9_]+ *\(/) {
			name = substr($0, RSTART, RLENGTH)
			gsub(/[ *(]/, "", name)
			print name
		}' | sort -u
}

declared >"$work/declared"
nm -D --defined-only --with-symbol-versions "$shared" |
	awk '$2 != "A" { print $3 }' | sort -u >"$work/versioned"
sed 's/@.*//' "$work/versioned" | sort -u >"$work/exported"

if ! [ -s "$work/declared" ]; then
	echo "no declarations found in $include/gmm"
	status=1
fi
for name in $(comm -23 "$work/declared" "$work/exported"); do
	echo "declared in a public header, not exported: $name"
	status=1
done
for name in $(comm -13 "$work/declared" "$work/exported"); do
	echo "exported, not declared in a public header: $name"
	status=1
done
for name in $(grep -v '@@GMM_[0-9.]*$' "$work/versioned" || true); do
	echo "exported without a version: $name"
	status=1
done

# Fields of readelf: number, value, size, type, binding, visibility, section, name. The sanitizers add
# global symbols of their own to every object file.
readelf --syms --wide "$static" | awk '
	$5 == "GLOBAL" && $6 == "DEFAULT" && $7 != "UND" && $8 !~ /^__(odr_asan|asan|tsan|ubsan)/ { print $8 }
' | sort -u >"$work/visible"
for name in $(comm -13 "$work/declared" "$work/visible"); do
	echo "not public, yet not hidden in the static library: $name"
	status=1
done

echo "$(wc -l <"$work/declared") functions declared, $(wc -l <"$work/exported") exported"
exit "$status"
