#!/usr/bin/env python3
"""The part of scripts/bench --count that runs in the guest: instructions of one 4 KiB I/O to mapped blocks."""

import argparse
import json
import mmap
import os
import platform
import random
import statistics
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "tests", "functional")]

from cases import KIB, MIB, Setup  # noqa: E402
from lab import Lab  # noqa: E402
from lib import proc  # noqa: E402

SIZE = 64 * MIB
IOS, ROUNDS = 1000, 9


def read(fd, buffer, place):
    os.preadv(fd, (buffer,), place)


def write(fd, buffer, place):
    os.pwritev(fd, (buffer,), place)


def sync(fd, buffer, place):
    os.pwritev(fd, (buffer,), place)
    os.fdatasync(fd)


ROWS = {  # title: (setup, what is counted)
    "read": (Setup(size=SIZE), read),
    "write": (Setup(size=SIZE), write),
    "read after a snapshot": (Setup(size=SIZE, snapshot=True), read),
    "write and fdatasync": (Setup(size=SIZE, disk="loop"), sync),
}
SIDES = ("linear", "linear2", "stock", "ours")


def per_io(device, act):
    """
    The clock's nanoseconds are instructions. Python's share is the same for all devices. The least of
    all rounds is the one that interrupts have disturbed least.
    """
    places = [n * 4 * KIB for n in range(SIZE // (4 * KIB))]
    random.Random(1).shuffle(places)
    buffer = mmap.mmap(-1, mmap.PAGESIZE)
    fd = os.open(str(device), os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
    found = []
    try:
        for _ in range(ROUNDS):
            begin = time.monotonic_ns()
            for place in places[:IOS]:
                act(fd, buffer, place)
            found.append((time.monotonic_ns() - begin) / IOS)
    finally:
        os.close(fd)
    return {"least": min(found), "median": statistics.median(found)}


def count(lab, act):
    found = {"disk": per_io(lab.data, act)}
    for name in SIDES:
        with lab.open(name) as side:
            found[name] = per_io(side.thins[0], act)
    return found


def show(rows):
    print(f"Instructions of a 4 KiB I/O from a loop of preadv() or pwritev(), O_DIRECT, {platform.release()};")
    print("on brd, with fdatasync() on loop. In brackets: what is left without the disk's own. The least of nine rounds.\n")
    print(f"{'':22}{'disk':>8}{'dm-linear':>18}{'linear on linear':>18}{'stock':>18}{'ours':>18}")
    for title, row in rows.items():
        disk = row["disk"]["least"]
        cells = [f"{row[name]['least']:.0f} ({row[name]['least'] - disk:.0f})" for name in SIDES]
        print(f"{title:22}{disk:8.0f}" + "".join(f"{cell:>18}" for cell in cells))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--result", required=True)
    options = parser.parse_args()
    proc.run("modprobe", "brd")
    directory = tempfile.mkdtemp(prefix="count.", dir="/mnt")
    proc.run("mount", "-t", "tmpfs", "-o", "size=50%", "none", directory)
    rows = {}
    for title, (setup, act) in ROWS.items():
        lab = Lab(directory, setup)
        rows[title] = count(lab, act)
        lab.check()
        wrong = lab.close()
        assert not wrong, wrong
    with open(options.result, "w", encoding="utf-8") as file:
        json.dump({"kernel": platform.release(), "rows": rows}, file, indent=1)
    show(rows)


if __name__ == "__main__":
    main()
