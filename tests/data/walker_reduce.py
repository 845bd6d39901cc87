#!/usr/bin/env python3
"""walker_reduce.py REGISTERS TLB RAM

Picks a few hundred translations from what QEMU's monitor said about a guest ("info registers" and "info tlb", as JSON
strings) and prints them with the page tables that they go through, from a dump of its memory:

    cpu CR0 CR3 CR4 EFER PHYSICAL-BITS
    t GFN INDEX COUNT ENTRY STEP    COUNT entries of the table in page GFN from INDEX: ENTRY, ENTRY + STEP, ...
    x LINEAR GPA LARGE RIGHTS       LARGE: 1 for a 2 MiB or 1 GiB page; RIGHTS: u, w, x or - for each
    n LINEAR                        no page is there

Entries that no line names are zero. Numbers are hexadecimal but for COUNT, INDEX, and PHYSICAL-BITS.
"""
import json
import re
import struct
import sys

SAMPLES = 300
PAGE = 4096
ADDRESS = 0x000FFFFFFFFFF000
PHYS_BITS = 52  # unknown to the monitor; QEMU's own walk ignores reserved bits


def read_registers(text):
    find = lambda name: int(re.search(name + "=([0-9a-f]+)", text).group(1), 16)
    return [find(name) for name in ("CR0", "CR3", "CR4", "EFER")]


def read_tlb(text):
    """[(linear, gpa, flags)], flags as the monitor prints them: X is no-execute, P a large page."""
    found = re.findall(r"([0-9a-f]{16}): ([0-9a-f]{16}) ([-XGPDACTUW]{9})", text)
    return [(int(linear, 16), int(gpa, 16), flags) for linear, gpa, flags in found]


def spread(items, count):
    step = max(1, len(items) // count)
    return items[::step]


def pick(tlb):
    """Some of each kind of page, from all parts of the address space."""
    kinds = {}
    for entry in tlb:
        kinds.setdefault((entry[0] >> 39, entry[2].replace("A", "-").replace("D", "-")), []).append(entry)
    chosen = []
    for entries in kinds.values():
        chosen += spread(entries, max(2, SAMPLES // len(kinds)))
    return sorted(chosen)


def holes_of(tlb):
    """Addresses right behind mapped pages where nothing is mapped."""
    present = {linear for linear, _, _ in tlb}
    behind = [linear + PAGE for linear, _, flags in tlb if flags[2] != "P"]
    return spread([a for a in behind if a < 1 << 64 and a not in present and a & ~0x1FFFFF not in present], 50)


def tables_of(ram, cr3, levels, linears):
    """The gfns of all tables that lead to these addresses."""
    gfns = set()
    for linear in linears:
        table = cr3 & ADDRESS
        for level in range(levels, 0, -1):
            if table + PAGE > len(ram):
                break
            gfns.add(table // PAGE)
            entry = struct.unpack_from("<Q", ram, table + (linear >> (3 + 9 * level) & 511) * 8)[0]
            if not entry & 1 or entry & 0x80:
                break
            table = entry & ADDRESS
    return sorted(gfns)


def print_table(ram, gfn):
    entries = struct.unpack_from("<512Q", ram, gfn * PAGE)
    index = 0
    while index < 512:
        if entries[index] == 0:
            index += 1
            continue
        count, step = 1, 0
        if index + 1 < 512 and entries[index + 1] > entries[index]:
            step = entries[index + 1] - entries[index]
            while index + count < 512 and entries[index + count] == entries[index] + count * step:
                count += 1
        print("t %x %d %d %x %x" % (gfn, index, count, entries[index], step))
        index += count


def main():
    texts = [json.load(open(name)) for name in sys.argv[1:3]]
    ram = open(sys.argv[3], "rb").read()
    registers, tlb = read_registers(texts[0]), read_tlb(texts[1])
    levels = 5 if registers[2] >> 12 & 1 else 4
    chosen = pick(tlb)
    holes = holes_of(tlb)
    print("cpu %x %x %x %x %d" % (*registers, PHYS_BITS))
    for gfn in tables_of(ram, registers[1], levels, [c[0] for c in chosen] + holes):
        print_table(ram, gfn)
    for linear, gpa, flags in chosen:
        rights = ("u" if "U" in flags else "-") + ("w" if "W" in flags else "-") + ("-" if flags[0] == "X" else "x")
        print("x %x %x %d %s" % (linear, gpa, flags[2] == "P", rights))
    for linear in holes:
        print("n %x" % linear)


main()
