#!/usr/bin/env python3
"""Talks to a test guest.

vm.py qmp SOCKET COMMAND [ARGUMENTS-AS-JSON]   one QMP command; prints what it returns
vm.py run SOCKET SECONDS COMMAND               one shell command in the guest; its output and exit status
vm.py private SOCKET PID MIB                   KiB of the guest's RAM that are its own: not of the pool, not holes
vm.py pss SOCKET PID MIB                       KiB of Pss: of the guest's RAM, and of other mappings of pool files in its process
vm.py postcopy SOCKET URI                      migrates away by postcopy; waits until it is completed
"""
import json
import re
import socket
import sys
import time


class Lines:
    """A stream socket, read by lines."""

    def __init__(self, path, seconds):
        self.deadline = time.monotonic() + seconds
        self.socket = socket.socket(socket.AF_UNIX)
        self.rest = b""
        while self.socket.connect_ex(path) != 0:  # QEMU does not listen yet
            if time.monotonic() > self.deadline:
                sys.exit("vm.py: nobody listens at " + path)
            time.sleep(0.1)

    def send(self, text):
        self.socket.sendall(text.encode())

    def next(self):
        while b"\n" not in self.rest:
            left = self.deadline - time.monotonic()
            if left <= 0:
                sys.exit("vm.py: no answer in time")
            self.socket.settimeout(left)
            try:
                more = self.socket.recv(65536)
            except socket.timeout:
                continue
            if not more:
                sys.exit("vm.py: the other side hung up")
            self.rest += more
        line, self.rest = self.rest.split(b"\n", 1)
        return line


class Qmp:
    def __init__(self, path, seconds=300):
        self.lines = Lines(path, seconds)
        self.lines.next()
        self.call("qmp_capabilities")

    def call(self, command, arguments=None):
        self.lines.send(json.dumps({"execute": command, "arguments": arguments or {}}) + "\n")
        while True:
            answer = json.loads(self.lines.next())
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                sys.exit("vm.py: %s: %s" % (command, answer["error"]["desc"]))


def run(path, seconds, command):
    lines = Lines(path, seconds)
    lines.send(command + "\n")
    while True:
        line = lines.next().rstrip(b"\r")
        if line.startswith(b"\1exit "):
            return int(line[6:])
        print(line.decode(errors="replace"), flush=True)


def mappings(path, pid, mib):
    """The lines of smaps about each mapping, with whether it is of the guest's RAM and whether of a pool file. RAM is one
    range in the process, which is cut into many mappings by sharing."""
    answer = Qmp(path).call("human-monitor-command", {"command-line": "gpa2hva 0"})
    start = int(re.search(r"is (0x[0-9a-f]+)", answer).group(1), 16)
    end = start + (mib << 20)
    is_ram = is_pool = False
    with open("/proc/%d/smaps" % pid) as smaps:
        for line in smaps:
            mapping = re.match(r"([0-9a-f]+)-[0-9a-f]+ .* \d+ *(\S*)", line)
            if mapping:
                is_ram = start <= int(mapping.group(1), 16) < end
                is_pool = "/domains/" in mapping.group(2)
            else:
                yield line, is_ram, is_pool


def private(path, pid, mib):
    print(sum(int(line.split()[1]) for line, is_ram, _ in mappings(path, pid, mib)
              if is_ram and line.startswith(("Anonymous:", "Swap:"))))


def pss(path, pid, mib):
    ram = elsewhere = 0
    for line, is_ram, is_pool in mappings(path, pid, mib):
        if line.startswith("Pss:"):
            ram += int(line.split()[1]) if is_ram else 0
            elsewhere += int(line.split()[1]) if is_pool and not is_ram else 0
    print(ram, elsewhere)


def postcopy(path, uri):
    qmp = Qmp(path)
    qmp.call("migrate-set-capabilities", {"capabilities": [{"capability": "postcopy-ram", "state": True}]})
    # Slow at first, so that there is something left to do after the switch.
    qmp.call("migrate-set-parameters", {"max-bandwidth": 2 << 20})
    qmp.call("migrate", {"uri": uri})
    started = False
    while True:
        status = qmp.call("query-migrate").get("status")
        if status == "completed":
            print("completed")
            return
        if status in ("failed", "cancelled"):
            sys.exit("vm.py: the migration " + status)
        if status == "active" and not started:
            started = True
            qmp.call("migrate-start-postcopy")
            qmp.call("migrate-set-parameters", {"max-bandwidth": 1 << 30})
        time.sleep(0.1)


def main():
    verb, path = sys.argv[1], sys.argv[2]
    if verb == "qmp":
        arguments = json.loads(sys.argv[4]) if len(sys.argv) > 4 else None
        print(json.dumps(Qmp(path).call(sys.argv[3], arguments)))
    elif verb == "run":
        sys.exit(run(path, float(sys.argv[3]), sys.argv[4]))
    elif verb == "private":
        private(path, int(sys.argv[3]), int(sys.argv[4]))
    elif verb == "pss":
        pss(path, int(sys.argv[3]), int(sys.argv[4]))
    elif verb == "postcopy":
        postcopy(path, sys.argv[3])


main()
