"""A load for a test guest that checks its own data.

Usage: load.py ROUNDS [MIB]

Each round rewrites part of a patterned block of memory, compiles the modules of the standard library, compresses what
comes out, and reads files. Everything has a digest that is known beforehand or was noted in the first round; a byte
that is not what was written ends the load with exit status 1. A page of the host that was swapped for a wrong one under
the guest shows here, or as a crash.
"""
import marshal
import os
import random
import sys
import sysconfig
import zlib

from _sha256 import sha256

PAGE = 4096


def fail(what):
    print("load: BROKEN:", what, flush=True)
    sys.exit(1)


def check_files(part, parts):
    """Files of the image against the digests that were noted when it was built."""
    with open("/checksums") as lines:
        for number, line in enumerate(lines):
            digest, name = line.rstrip("\n").split("  ", 1)
            if number % parts != part:
                continue
            with open("/" + name, "rb") as f:
                if sha256(f.read()).hexdigest() != digest:
                    fail("file " + name)


def compile_modules(seed):
    """Compiling has the same result each time: garbage in memory shows as another digest, or as a syntax error."""
    folder = sysconfig.get_path("stdlib")
    names = sorted(n for n in os.listdir(folder) if n.endswith(".py"))
    digest = sha256()
    for name in random.Random(seed).sample(names, 3):
        with open(os.path.join(folder, name), "rb") as f:
            code = marshal.dumps(compile(f.read(), name, "exec"))
        packed = zlib.compress(code, 1)
        if zlib.decompress(packed) != code:
            fail("compressing " + name)
        digest.update(code)
    return digest.hexdigest()


class Block:
    """Pages whose content follows from their number and a version: a third of them alike, so that they can be shared
    and are written again while they are."""

    def __init__(self, pages):
        self.pages = pages
        self.version = [0] * pages
        self.bytes = bytearray(pages * PAGE)
        for page in range(pages):
            self.write(page)

    def content(self, page):
        seed = page % 7 if page % 3 == 0 else page
        return (b"%08d.%06d|" % (seed, self.version[page])) * (PAGE // 16)

    def write(self, page):
        self.bytes[page * PAGE:(page + 1) * PAGE] = self.content(page)

    def rewrite(self, rng, count):
        for page in rng.sample(range(self.pages), count):
            self.version[page] += 1
            self.write(page)

    def check(self):
        for page in range(self.pages):
            if self.bytes[page * PAGE:(page + 1) * PAGE] != self.content(page):
                fail("page %d of the block" % page)


def main():
    rounds = int(sys.argv[1])
    block = Block((int(sys.argv[2]) if len(sys.argv) > 2 else 16) * 256)
    rng = random.Random(1)
    expected = {}
    for number in range(rounds):
        block.rewrite(rng, block.pages // 8)
        seed = number % 4
        digest = compile_modules(seed)
        if expected.setdefault(seed, digest) != digest:
            fail("compiled code of round %d" % number)
        check_files(number % 8, 8)
        block.check()
        print("load: round %d ok" % number, flush=True)
    print("load: all rounds ok", flush=True)


main()
