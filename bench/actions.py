"""What is measured on a side. An action takes (bench, side, case) and gives one number: a rate where the
case's unit is LINEAR, else seconds or a count. But passes, which is a part of a rate."""

import array
import contextlib
import fcntl
import mmap
import multiprocessing
import os
import random
import struct
import time

import fio
from cases import KIB
from lab import BIG
from lib import io, proc


def _fio(bench, side, case, exact=False, times=1):
    return fio.run(
        case.fio,
        [side.restored()] if case.restored else side.thins,
        case.setup.block,
        None if case.once else bench.seconds,
        (case.beside, side.spare) if case.beside else None,
        bench.engine,
        exact,
        side.lab.directory,
        times,
    )


def _read_here_and_there(path, step):
    """What a fresh device first answers late leaves fio with smaller batches for the rest of its run."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, 4 * KIB) as page:
            for offset in range(0, os.lseek(fd, 0, os.SEEK_END), step):
                os.preadv(fd, [page], offset)
    finally:
        os.close(fd)


def rate(bench, side, case):
    """I/Os a second."""
    if not case.restored:
        for thin in side.thins:
            _read_here_and_there(str(thin), 32 * case.setup.block)
    return _fio(bench, side, case).rate


def passes(bench, side, case, times):
    """I/Os and seconds of going over the devices; the flush at the end counts."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(str(thin), "rb")) for thin in side.thins]
        job = _fio(bench, side, case, times=times)
        return job.ios, job.seconds + sum(_timed(os.fdatasync, file.fileno()) for file in files)


def per_write(bench, side, case):
    """Seconds from a write to the end of its fdatasync, for each writer."""
    return case.fio.get("numjobs", 1) / _fio(bench, side, case).rate


def tail(bench, side, case):
    """p99 of reads."""
    return _fio(bench, side, case, exact=True).percentile(99)


def metadata_bytes(bench, side, case):
    """Bytes that the metadata device gets for a write."""
    before = side.lab.meta_sectors_written()
    ios = _fio(bench, side, case).ios
    io.flush(side.thins[0])
    return (side.lab.meta_sectors_written() - before) * 512 / ios


def flush_time(side, tries=15):
    """Seconds that a write and its flush take: the median of some."""
    taken = []
    fd = os.open(str(side.thins[0]), os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, 4 * KIB) as page:
            for _ in range(tries):
                begin = time.monotonic()
                os.pwritev(fd, [page], 0)
                os.fdatasync(fd)
                taken.append(time.monotonic() - begin)
    finally:
        os.close(fd)
    return sorted(taken)[tries // 2]


# -- messages without a process of their own ---------------------------------------------

DM_TARGET_MSG = 0xC138FD0E
DM_HEADER = "<10IQ128s129s7x"


@contextlib.contextmanager
def messenger(pool):
    """A function that sends a message to the pool: dmsetup takes longer to start than many of them to answer."""
    with open("/dev/mapper/control", "rb") as control:

        def send(text):
            body = struct.pack("<Q", 0) + text.encode() + b"\0"
            head = struct.calcsize(DM_HEADER)
            request = bytearray(
                struct.pack(DM_HEADER, 4, 0, 0, head + len(body), head, 0, 0, 0, 0, 0, 0, pool.name.encode(), b"") + body
            )
            fcntl.ioctl(control, DM_TARGET_MSG, request)

        yield send


def _timed(function, *args):
    begin = time.monotonic()
    function(*args)
    return time.monotonic() - begin


def snap(bench, side, case):
    with messenger(side.pool) as send:
        return _timed(send, f"create_snap 20000 {BIG}")


def thousand_snaps(bench, side, case):
    def all_of_them():
        for n in range(1000):
            send(f"create_snap {20000 + n} {BIG}")

    with messenger(side.pool) as send:
        return _timed(all_of_them)


def activate(bench, side, case):
    """The pool, its large thin, and the first block read from it."""
    for thin in side.thins:
        thin.remove()
    side.pool.remove()

    def bring_up():
        side.pool.start()
        big = side.restored()
        io.read(big.path, big.sectors // 2 * 512, 4 * KIB)

    return _timed(bring_up)


# -- a change while another thin reads ---------------------------------------------------


def _read_on(path, size, state, link):
    """Random reads until told to stop, about 500 a second (see cases.STEADY): begin and end of each."""
    begins, ends = array.array("Q"), array.array("Q")
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    pick = random.Random(1)
    pages = size // (4 * KIB)
    page = mmap.mmap(-1, 4 * KIB)
    while not state[1]:
        offset = pick.randrange(pages) * 4 * KIB
        begins.append(time.monotonic_ns())
        os.preadv(fd, [page], offset)
        ends.append(time.monotonic_ns())
        state[0] = 1
        time.sleep(0.002)
    link.send((begins, ends))
    os._exit(0)


def _reads_during(side, change):
    """Times in seconds of the reads that fell into the change, or into a third of a second if it is shorter."""
    state = mmap.mmap(-1, 4 * KIB)
    here, there = multiprocessing.Pipe()
    reader = multiprocessing.get_context("fork").Process(
        target=_read_on, args=(str(side.thins[0]), side.lab.setup.size, state, there), daemon=True
    )
    reader.start()
    try:
        proc.wait_for(lambda: state[0], "the first read")
        time.sleep(0.1)
        begin = time.monotonic_ns()
        change()
        rest = 0.33 - (time.monotonic_ns() - begin) / 1e9
        if rest > 0:
            time.sleep(rest)
        end = time.monotonic_ns()
        state[1] = 1
        begins, ends = here.recv()
    finally:
        state[1] = 1
        reader.join(60)
    return sorted((b - a) / 1e9 for a, b in zip(begins, ends) if b >= begin and a <= end)


def _discard_all(side):
    big = side.restored()

    def change():
        io.discard(big, 0, side.lab.places[BIG][1])

    return change


def discard(bench, side, case):
    return _timed(_discard_all(side))


def discard_tail(bench, side, case):
    times = _reads_during(side, _discard_all(side))
    return times[len(times) * 99 // 100]


def delete(bench, side, case):
    with messenger(side.pool) as send:
        return _timed(send, f"delete {BIG}")


def delete_longest(bench, side, case):
    if side.pool is None:  # dm-linear has nothing to delete: its reads alone
        return _reads_during(side, lambda: None)[-1]
    with messenger(side.pool) as send:
        return _reads_during(side, lambda: send(f"delete {BIG}"))[-1]
