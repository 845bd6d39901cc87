#!/usr/bin/env bash
# gmm-dedup estimate: exact figures for small images of each format, plausible ones for real guests, and bad
# files refused by name and reason.
# BIN is the folder of the programs, SRC the root of the repository.

set -u
shopt -s lastpipe # what the end of a pipe counts is not lost
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0

fail() {
	echo "FAIL: $*"
	failures=$((failures + 1))
}

# estimate ARGUMENT...: the report goes to out, as JSON.
estimate() {
	"$BIN/gmm-dedup" estimate --json "$@" >out 2>err || fail "estimate $*: exit status $?: $(cat err)"
	[ ! -s err ] || fail "estimate $*: wrote to stderr: $(cat err)"
}

# check NAME FILTER: a jq condition on the report.
check() {
	jq -e "$2" out >/dev/null || fail "$1: $2: $(jq -c . out)"
}

# refused STATUS TEXT ARGUMENT...: that exit status, nothing on stdout, and a message that has TEXT.
refused() {
	local expected=$1 text=$2 status=0
	shift 2
	"$BIN/gmm-dedup" estimate "$@" >out 2>err || status=$?
	[ "$status" -eq "$expected" ] || fail "$*: exit status $status, not $expected: $(cat err)"
	[ ! -s out ] || fail "$*: wrote to stdout"
	grep -qF -- "$text" err || fail "$*: no '$text' in: $(cat err)"
}

# ---- making images

# page TEXT: a page that starts with TEXT. fill CHAR COUNT: pages of nothing but CHAR. zero COUNT: pages of
# zeros.
page() {
	printf '%-4096s' "$1"
}
fill() {
	head -c "$(($2 * 4096))" /dev/zero | tr '\0' "$1"
}
zero() {
	head -c "$(($1 * 4096))" /dev/zero
}

# le SIZE NUMBER...: little-endian numbers of SIZE bytes.
le() {
	local size=$1 number byte text=
	shift
	for number in "$@"; do
		for ((byte = 0; byte < size; byte++)); do
			text+=$(printf '\\x%02x' "$(((number >> (8 * byte)) & 255))")
		done
	done
	printf '%b' "$text"
}

# header64 TYPE COUNT [SHOFF [PHOFF [PHENTSIZE [SHNUM]]]]: an ELF header, 64 bytes.
header64() {
	printf '\x7fELF\x02\x01\x01'
	le 1 0 0 0 0 0 0 0 0 0
	le 2 "$1" 62
	le 4 1
	le 8 0 "${4-64}" "${3-0}"
	le 4 0
	le 2 64 "${5-56}" "$2" 64 "${6-0}" 0
}

# segment64 TYPE OFFSET VADDR PADDR FILESZ MEMSZ: a program header, 56 bytes.
segment64() {
	le 4 "$1" 6
	le 8 "$2" "$3" "$4" "$5" "$6" 0
}

# The same in 32 bits: 52 and 32 bytes.
header32() {
	printf '\x7fELF\x01\x01\x01'
	le 1 0 0 0 0 0 0 0 0 0
	le 2 "$1" 3
	le 4 1 0 52 0 0
	le 2 52 32 "$2" 0 0 0
}
segment32() {
	le 4 "$1" "$2" "$3" "$4" "$5" "$6" 6 0
}

core=4 executable=2 load=1 note=4

# ---- raw images

{ zero 1; page 1; page 2; page 3; fill A 2; page a; page 4; } >a.raw
{ page 1; page 2; zero 1; page 3; fill A 1; page 4; page b; zero 1; } >b.raw
estimate a.raw b.raw
[ "$(jq -s 'map(type) == ["object"]' out)" = true ] || fail "stdout is not exactly one JSON object"
check totals '.page_bytes == 4096 and .total_pages == 16 and .zero_pages == 3 and .fill_pages == 3
	and .fill_sets == 1 and .shared_pages == 11 and .shared_sets == 5 and .unique_pages == 2
	and .distinct_pages == 7 and .saved_pages == 9 and .fill_saved_pages == 2 and .saved_bytes == 36864'
check "image a" '.images[0] == {path: "a.raw", format: "raw", total_pages: 8, zero_pages: 1, fill_pages: 2,
	shared_pages: 6, unique_pages: 1, distinct_pages: 6, exclusive_pages: 1, absent_pages: 0,
	saved_alone_pages: 2, saved_marginal_pages: 7}'
check "image b" '.images[1] | .zero_pages == 2 and .fill_pages == 1 and .shared_pages == 5
	and .unique_pages == 1 and .saved_alone_pages == 2 and .saved_marginal_pages == 7'
check pair '.pairs == [{a: 0, b: 1, common_pages: 5, saved_pages: 9}]'
check runs '.runs == {count: 7, pages: 11, longest_pages: 3, fill_count: 2, fill_pages: 3,
	fill_extent_pages: 64, histogram: [{min_pages: 1, max_pages: 1, count: 4, pages: 4},
		{min_pages: 2, max_pages: 3, count: 3, pages: 7}]}'
check thresholds '[.thresholds[] |
		[.min_run_pages, .mappings, .most_mappings, .run_pages, .pool_pages, .saved_pages]]
	== [[1, 7, 4, 11, 6, 8], [2, 3, 2, 7, 5, 5], [4, 0, 0, 0, 0, 3], [8, 0, 0, 0, 0, 3],
		[16, 0, 0, 0, 0, 3], [64, 0, 0, 0, 0, 3]]'

# One image: equal pages inside it, and fill pages in pieces of an extent.
{ fill x 130; page 1; page 1; } >fill.raw
estimate fill.raw
check "fill extent" '.saved_pages == 130 and .fill_pages == 130 and .pairs == []
	and .runs.fill_count == 3 and .runs.count == 5
	and (.thresholds[0] | .mappings == 5 and .pool_pages == 65 and .saved_pages == 67)
	and (.thresholds[5] | .mappings == 2 and .run_pages == 128 and .pool_pages == 64
		and .saved_pages == 64)'

# Three images: sets that the first image has no part in, and one that only the outer two have.
{ page 1; page 9; } >one.raw
{ page 2; page 3; } >two.raw
{ page 9; page 3; page 3; } >three.raw
estimate one.raw two.raw three.raw
check "three images" '[.pairs[] | [.a, .b, .common_pages, .saved_pages]]
		== [[0, 1, 0, 0], [0, 2, 1, 2], [1, 2, 1, 2]]
	and .saved_pages == 3 and [.images[].exclusive_pages] == [1, 1, 0]'

# Nothing to save, everything to save; the same file twice.
page 1 >single.raw
estimate single.raw
check "nothing" '.saved_pages == 0 and .runs.count == 0 and .runs.histogram == []'
estimate single.raw single.raw
check "twice" '.saved_pages == 1 and .pairs[0].common_pages == 1'
truncate -s 8G sparse.raw
page 1 | dd of=sparse.raw bs=4096 seek=1000000 conv=notrunc status=none
estimate sparse.raw single.raw
check "sparse file" '.total_pages == 2097153 and .zero_pages == 2097151 and .saved_pages == 2097152'

# More than one window of a file: 24 MiB of which every page differs, against a copy that starts a page later.
seq -f '%-4095.0f' 6144 >long.raw
{ page x; cat long.raw; } >shifted.raw
estimate long.raw shifted.raw
check "long runs" '.saved_pages == 6144 and .runs.count == 2 and .runs.longest_pages == 6144
	and .thresholds[5].saved_pages == 6144'

# ---- traces

le 8 0 7 2207495626618058349 0 7 9 2207495626618058349 526070969564208598 >small.u64
estimate small.u64
check trace '.images[0].format == "trace" and .total_pages == 8 and .zero_pages == 2 and .fill_pages == 3
	and .fill_sets == 2 and .saved_pages == 4'
cp small.u64 small.bin
estimate --format trace small.bin
check "forced trace" '.images[0].format == "trace" and .total_pages == 8'

# Bytes and digests of the same pages are equal, and a trace learns of fill pages from bytes.
{ fill '\314' 1; fill '\377' 1; zero 1; } >bytes.raw
estimate small.u64 bytes.raw
check "trace and bytes" '.pairs[0].common_pages == 2 and .fill_pages == 5 and .fill_sets == 2
	and .zero_pages == 3'
{ fill z 1; page z; } >known.raw
estimate known.raw
check "fill word of bytes" '.fill_pages == 1 and .unique_pages == 2'

# ---- ELF cores

# As QEMU writes them: a note first, bytes at any offset. The segments lie in the file in another order than
# in memory; those at 0 and 0x2000 touch; the last has memory that is not in the file.
{
	header64 $core 4
	segment64 $note 288 0 0 20 20
	segment64 $load 308 0 0x2000 4096 4096
	segment64 $load 4404 0 0x100000 4096 12288
	segment64 $load 8500 0 0 8192 8192
	printf '%-20s' note
	page 3; page 4; page 1; page 2
} >qemu.core
{ page 1; page 2; page 3; page 4; } >flat.raw
estimate flat.raw qemu.core
check "ELF core" '.images[1].format == "elf" and .images[1].total_pages == 4 and .images[1].absent_pages == 2
	and .saved_pages == 4 and .runs.count == 3 and .runs.longest_pages == 4
	and .thresholds[1].mappings == 2 and .thresholds[1].run_pages == 7'
estimate --format elf qemu.core

# As gcore writes them: no physical addresses.
{
	header64 $core 2
	segment64 $load 176 0x7f0000001000 0 4096 4096
	segment64 $load 4272 0x7f0000000000 0 4096 4096
	page 2; page 1
} >process.core
estimate flat.raw process.core
check "process core" '.saved_pages == 2 and .runs.count == 2 and .thresholds[1].mappings == 2'

{
	header32 $core 1
	segment32 $load 84 0 0x3000 8192 8192
	page 1; page 2
} >narrow.core
estimate flat.raw narrow.core
check "32 bit" '.images[1].total_pages == 2 and .saved_pages == 2'

# The segment count in section 0 (64 bytes, sh_info at 44).
{
	header64 $core 65535 64 128
	le 8 0 0 0 0 0
	le 4 0 1
	le 8 0 0
	segment64 $load 184 0 0x1000 4096 4096
	page 1
} >many.core
estimate flat.raw many.core
check "PN_XNUM" '.images[1].total_pages == 1 and .saved_pages == 1'

# Two mappings of the same physical page (a dump with paging) are one page.
{
	header64 $core 2
	segment64 $load 176 0x10000 0x1000 8192 8192
	segment64 $load 4272 0x90000 0x2000 4096 4096
	page 1; page 2
} >paging.core
estimate paging.core
check "same bytes twice" '.total_pages == 2 and .saved_pages == 0'

# ---- bad files

refused 1 "missing.raw: cannot be opened: No such file" missing.raw
refused 1 ".: is a directory" .
mkfifo pipe
refused 1 "pipe: is not a regular file" pipe
: >empty.raw
refused 1 "empty.raw: is empty" empty.raw
head -c 5000 b.raw >short.raw
refused 1 "short.raw: truncated: needs 8192 bytes, has 5000" short.raw
head -c 63 small.u64 >short.u64
refused 1 "short.u64: truncated: needs 64 bytes, has 63" short.u64
{ printf 'KDUMP   '; zero 1; } | head -c 4096 >kdump.core
refused 1 "kdump.core: is a kdump-compressed dump" kdump.core
estimate --format raw kdump.core

refused 1 "flat.raw: is not an ELF file" --format elf flat.raw
head -c 10 qemu.core >stub.core
refused 1 "stub.core: truncated: needs 16 bytes for its ELF header, has 10" stub.core
head -c 100 qemu.core >stub.core
refused 1 "stub.core: truncated: needs 288 bytes for its program headers, has 100" stub.core
head -c 16691 qemu.core >cut.core
refused 1 "cut.core: truncated: needs 16692 bytes, has 16691" cut.core

# gcore puts the notes after the memory, and section headers last: without them a core is cut, too.
{
	header64 $core 2 4372 64 56 1
	segment64 $load 176 0x1000 0 4096 4096
	segment64 $note 4272 0 0 100 0
	page 1
	printf '%-164s' 'note and section header'
} >process.core
estimate process.core
head -c 4300 process.core >cut.core
refused 1 "cut.core: truncated: needs 4436 bytes, has 4300" cut.core
head -c 4400 process.core >cut.core
refused 1 "cut.core: truncated: needs 4436 bytes, has 4400" cut.core

# bad TEXT: the core on stdin is refused with TEXT.
bad() {
	cat >bad.core
	refused 1 "bad.core: $1" bad.core
}
{ header64 $executable 1; segment64 $load 120 0 0 4096 4096; page 1; } |
	bad "is not an ELF core (its ELF type is 2"
header64 $core 0 | bad "bad program headers: there are 0 segments"
header64 $core 1 0 64 32 | bad "bad program headers: 32 bytes each, should be 56"
header64 $core 65535 | bad "bad ELF header: the segment count is in a section"
header64 $core 1 0 -1 | bad "bad ELF header: puts its program headers at byte 18446744073709551615"
{ header64 $core 1; segment64 $note 0 0 0 20 20; } |
	bad "has no memory in it: none of its 1 segments is PT_LOAD"
{ header64 $core 1; segment64 $load 0 0 0 0 4096; } |
	bad "has no memory in it: its 1 PT_LOAD segments are empty"
{ header64 $core 1; segment64 $load 120 0 0 8192 4096; zero 2; } |
	bad "bad program headers: segment 0 has 8192 bytes in the file, 4096"
{ header64 $core 1; segment64 $load 120 0 100 4096 4096; zero 1; } |
	bad "bad program headers: segment 0 (address 0x64, 4096 bytes) is not made of whole pages"
{ header64 $core 1; segment64 $load 120 0 4096 4000 4096; zero 1; } |
	bad "bad program headers: segment 0 (address 0x1000, 4000 bytes) is not made of whole pages"
{ header64 $core 1; segment64 $load 120 0 -4096 4096 8192; zero 1; } |
	bad "bad program headers: segment 0 (address 0xfffffffffffff000) goes beyond the last address"
{ header64 $core 1; segment64 $load -1 0 0 4096 4096; zero 1; } |
	bad "bad program headers: segment 0 lies at byte 18446744073709551615"
{ header64 $core 2; segment64 $load 176 0 4096 8192 8192; segment64 $load 8368 0 8192 4096 4096; zero 3; } |
	bad "bad program headers: segments at 0x1000 and 0x2000 overlap"
{ printf '\x7fELF\x02\x02\x01'; zero 1; } | bad "is a big-endian ELF file"
{ printf '\x7fELF\x07\x01\x01'; zero 1; } | bad "bad ELF header: class 7"

# Every bad file is named, and a good one among them changes nothing.
refused 1 "missing.raw: cannot be opened" a.raw missing.raw b.raw empty.raw
grep -qF "empty.raw: is empty" err || fail "the second bad file is not named: $(cat err)"

# A file that is cut short while it is read. It is given many times, so that there is time to stop the reader while it has it
# mapped, which may take several attempts. It finds its bytes gone when it goes on.
head -c 64M /dev/urandom >victim.raw
times=()
for _ in {1..500}; do times+=(victim.raw); done
"$BIN/gmm-dedup" estimate "${times[@]}" >out 2>err &
reader=$!
while :; do
	kill -STOP $reader
	until grep -q '^State:.[TZ]' /proc/$reader/status; do :; done
	grep -q victim.raw /proc/$reader/maps && break
	grep -q '^State:.Z' /proc/$reader/status && break
	kill -CONT $reader
	sleep 0.01
done
: >victim.raw
kill -CONT $reader
status=0
wait $reader || status=$?
[ $status -eq 1 ] || fail "file cut while being read: exit status $status: $(cat err)"
[ ! -s out ] || fail "file cut while being read: wrote to stdout"
grep -qF "victim.raw: changed while reading: had 67108864 bytes, now has 0" err ||
	fail "file cut while being read: $(cat err)"

# ---- usage

refused 2 "no FILE given"
refused 2 "unknown format 'qcow2'" --format qcow2 a.raw
refused 2 "--nonsense" --nonsense
"$BIN/gmm-dedup" estimate --help | grep -q 'FILE\.\.\.' || fail "--help"
"$BIN/gmm-dedup" estimate --json a.raw 2>/dev/null >/dev/full && fail "a full disk passes for success"

# ---- the report for people

# table ARGUMENT...: the report goes to out. At most 100 columns, and nothing that a terminal obeys.
table() {
	"$BIN/gmm-dedup" estimate "$@" >out 2>err || fail "table of $*: exit status $?: $(cat err)"
	[ "$(wc -L <out)" -le 100 ] || fail "the table of $* is wider than 100 columns"
	! grep -q '[[:cntrl:]]' out || fail "the table of $* has control characters"
}
cp a.raw $'esc\e[31m-\xff.raw'
table $'esc\e[31m-\xff.raw' b.raw
[ "$(tail -n 1 out)" = "sharing would save up to 0.0 MiB of 0.1 MiB: 56.2 %" ] ||
	fail "last line: $(tail -n 1 out)"
estimate $'esc\e[31m-\xff.raw'
check "name that is not UTF-8" '.images[0].path == "esc\u001b[31m-?.raw"'
twelve=(long.raw shifted.raw a.raw b.raw fill.raw one.raw two.raw three.raw single.raw small.u64 qemu.core
	many.core)
table "${twelve[@]}"
grep -q '^common contents of two images' out || fail "no matrix for 12 images"
table "${twelve[@]}" a.raw
grep -q '^the 12 pairs' out || fail "no best pairs for 13 images"
grep -A 1 '^the 12 pairs' out | tail -n 1 | grep -q '24.0 .* long.raw .* shifted.raw' ||
	fail "best pair: $(cat out)"

# ---- real guests

# Three guests of one system: more than half of their memory can be saved, most of it in runs.
data=$SRC/tests/data
estimate "$data"/idle1_t0.u64 "$data"/python1_t0.u64 "$data"/serve1_t0.u64
check "real guests" '.total_pages == 3 * 98304 and .saved_pages == 176200
	and .zero_pages + .shared_pages + .unique_pages == .total_pages
	and .saved_pages == .total_pages - .distinct_pages
	and ([.images[].total_pages] | add) == .total_pages and ([.images[].zero_pages] | add) == .zero_pages
	and .runs.pages == .shared_pages and ([.runs.histogram[].pages] | add) == .runs.pages
	and (.pairs | length) == 3 and all(.pairs[]; .common_pages > 20000 and .saved_pages < 2 * 98304)
	and (.thresholds[0].saved_pages | . <= 176200 and . > 0.99 * 176200)
	and (.thresholds[1] | .saved_pages > 0.8 * 176200 and .mappings < 10000)
	and ([.thresholds[].saved_pages] | . == (sort | reverse))
	and ([.thresholds[].mappings] | . == (sort | reverse))'

[ "$failures" -eq 0 ]
