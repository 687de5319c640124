"""I/O on block devices that may hang or fail.

Every operation runs in a process of its own: one that a kernel never completes is
abandoned after the deadline and the test fails, but the run goes on.

    write(path, offset, data)          errors are OSError with the kernel's errno
    Job(write, path, offset, data)     the same in the background: .done(), .result()
"""

import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import select
import signal
import struct
import time
from multiprocessing.connection import Pipe

from .proc import DEADLINE, Hung

SECTOR = 512
BLKDISCARD, BLKSECDISCARD, BLKZEROOUT, BLKGETSIZE64 = 0x1277, 0x127D, 0x127F, 0x80081272
CHUNK = 1 << 20


def pattern(seed, offset, length):
    """Bytes that tell seed and place: each sector of the device differs from every other."""
    assert offset % SECTOR == 0 and length % SECTOR == 0
    first = offset // SECTOR
    return b"".join(
        hashlib.blake2b(b"%d:%d" % (seed, sector)).digest() * (SECTOR // 64)
        for sector in range(first, first + length // SECTOR)
    )


# -- operations, as they run in the worker ---------------------------------------------


def _transfer(path, flags, offset, length, data):
    with_buffer = mmap.mmap(-1, max(length, mmap.PAGESIZE))
    fd = os.open(path, flags | os.O_DIRECT | os.O_CLOEXEC)
    try:
        view = memoryview(with_buffer)[:length]
        done = 0
        if data is not None:
            view[:] = data
        while done < length:
            if data is not None:
                step = os.pwritev(fd, [view[done:]], offset + done)
            else:
                step = os.preadv(fd, [view[done:]], offset + done)
            if step == 0:
                raise OSError(errno.ENODATA, "end of device")
            done += step
        return None if data is not None else bytes(view)
    finally:
        os.close(fd)


def _do_write(path, offset, data, fua=False):
    _transfer(path, os.O_WRONLY | (os.O_DSYNC if fua else 0), offset, len(data), data)


def _do_read(path, offset, length):
    return _transfer(path, os.O_RDONLY, offset, length, None)


def _do_fill(path, offset, length, seed, fua=False):
    for at in range(offset, offset + length, CHUNK):
        step = min(CHUNK, offset + length - at)
        _do_write(path, at, pattern(seed, at, step), fua)


def _do_verify(path, offset, length, seed):
    for at in range(offset, offset + length, CHUNK):
        step = min(CHUNK, offset + length - at)
        found, wanted = _do_read(path, at, step), pattern(seed, at, step)
        if found != wanted:
            for sector in range(0, step, SECTOR):
                if found[sector : sector + SECTOR] != wanted[sector : sector + SECTOR]:
                    return at + sector
    return None


def _do_flush(path):
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _range_ioctl(path, request, offset, length):
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, request, struct.pack("QQ", offset, length))
    finally:
        os.close(fd)


def _do_discard(path, offset, length):
    _range_ioctl(path, BLKDISCARD, offset, length)


def _do_secure_erase(path, offset, length):
    _range_ioctl(path, BLKSECDISCARD, offset, length)


def _do_zeroout(path, offset, length):
    _range_ioctl(path, BLKZEROOUT, offset, length)


def _do_rewrite(path, offset, length, until):
    """Small writes all over a range until a file appears; how many."""
    done = 0
    while not os.path.exists(until):
        _do_write(path, offset + done * 52 * SECTOR % length // 4096 * 4096, bytes(4096))
        done += 1
    return done


def _do_discard_again(path, offset, length, until):
    """Discard a range until a file appears; how often."""
    done = 0
    while not os.path.exists(until):
        _do_discard(path, offset, length)
        done += 1
    return done


def _do_step(path, places, length):
    """So many bytes at each place, one place after another."""
    for place in places:
        _do_write(path, place, b"x" * length)


def _do_failures(path, places, length):
    """How many of the reads at these places fail."""
    failed = 0
    for place in places:
        try:
            _do_read(path, place, length)
        except OSError:
            failed += 1
    return failed


def _do_scatter(path, places):
    """4 KiB at each place, all at once: through the page cache, which then hands them on in one go."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for place in places:
            os.pwrite(fd, b"x" * 4096, place)
        os.fsync(fd)
    finally:
        os.close(fd)


def _do_size(path):
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return struct.unpack("Q", fcntl.ioctl(fd, BLKGETSIZE64, b"\0" * 8))[0]
    finally:
        os.close(fd)


# -- the processes ---------------------------------------------------------------------


def _serve(link):
    """A worker's life: take (function, arguments), answer (errno, value)."""
    for number in (signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no orphans in the guest
    while True:
        try:
            function, args = link.recv()
        except EOFError:
            os._exit(0)
        try:
            answer = (None, function(*args))
        except OSError as error:
            answer = (error.errno, str(error))
        link.send(answer)


class Worker:
    def __init__(self):
        self.link, other = Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self.link.close()
                _serve(other)
            finally:
                os._exit(1)
        other.close()

    def submit(self, function, args):
        self.link.send((function, args))

    def ready(self, timeout):
        return self.link.poll(timeout)

    def answer(self):
        number, value = self.link.recv()
        if number is not None:
            raise OSError(number, value)
        return value

    def stop(self):
        """Let go of it, whether it lives, is stuck or is dead."""
        self.link.close()
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        end = time.monotonic() + 2
        while time.monotonic() < end:
            try:
                if os.waitpid(self.pid, os.WNOHANG)[0]:
                    return
            except ChildProcessError:
                return
            time.sleep(0.01)


class Job:
    """One operation in the background."""

    jobs = []

    def __init__(self, function, *args):
        self.name = f"{function.__name__.lstrip('_')}{tuple(a for a in args if not isinstance(a, bytes))}"
        self.worker = Worker()
        self.worker.submit(_OPERATIONS.get(function, function), args)
        Job.jobs.append(self)

    def done(self, timeout=0):
        return self.worker.ready(timeout)

    def sleeps(self):
        """Has it been handed to the kernel, and not ended?  Counters of devices do not tell of what a target keeps."""
        with open(f"/proc/{self.worker.pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] == "D"

    def result(self, timeout=DEADLINE):
        """Its value; OSError if it failed; Hung if it does not end."""
        if not self.worker.ready(timeout):
            raise Hung(f"{self.name} did not complete within {timeout:.0f} s")
        try:
            return self.worker.answer()
        finally:
            self.forget()

    def errno(self, timeout=DEADLINE):
        """None if it succeeded, else the errno it failed with."""
        try:
            self.result(timeout)
        except OSError as error:
            return error.errno
        return None

    def forget(self):
        if self in Job.jobs:
            Job.jobs.remove(self)
            self.worker.stop()

    @classmethod
    def forget_all(cls):
        for job in list(cls.jobs):
            job.forget()


_shared = None


def _call(function, *args, timeout=DEADLINE):
    global _shared
    if _shared is None:
        _shared = Worker()
    worker = _shared
    worker.submit(function, args)
    if not worker.ready(timeout):
        _shared = None
        worker.stop()
        raise Hung(f"{function.__name__.lstrip('_')} on {args[0]} did not complete within {timeout:.0f} s")
    return worker.answer()


def write(path, offset, data, fua=False):
    _call(_do_write, str(path), offset, bytes(data), fua)


def read(path, offset, length):
    return _call(_do_read, str(path), offset, length)


def fill(path, offset, length, seed, fua=False):
    _call(_do_fill, str(path), offset, length, seed, fua)


def verify(path, offset, length, seed):
    """Assert that the range holds what fill() wrote there."""
    wrong = _call(_do_verify, str(path), offset, length, seed)
    assert wrong is None, f"{path}: the sector at byte {wrong} is not what was written with seed {seed}"


def verify_zero(path, offset, length):
    for at in range(offset, offset + length, CHUNK):
        step = min(CHUNK, offset + length - at)
        found = read(path, at, step)
        if found.count(0) != step:
            wrong = at + next(i for i, byte in enumerate(found) if byte)
            raise AssertionError(f"{path}: byte {wrong} should read zero")


def flush(path):
    _call(_do_flush, str(path))


def discard(path, offset, length):
    _call(_do_discard, str(path), offset, length)


def secure_erase(path, offset, length):
    _call(_do_secure_erase, str(path), offset, length)


def zeroout(path, offset, length):
    _call(_do_zeroout, str(path), offset, length)


def rewrite(path, offset, length, until):
    return _call(_do_rewrite, str(path), offset, length, until)


def discard_again(path, offset, length, until):
    return _call(_do_discard_again, str(path), offset, length, until)


def step(path, places, length):
    _call(_do_step, str(path), places, length)


def failures(path, places, length):
    return _call(_do_failures, str(path), places, length)


def scatter(path, places):
    _call(_do_scatter, str(path), places)


def size(path):
    return _call(_do_size, str(path))


_OPERATIONS = {
    write: _do_write,
    read: _do_read,
    fill: _do_fill,
    flush: _do_flush,
    discard: _do_discard,
    zeroout: _do_zeroout,
    rewrite: _do_rewrite,
    discard_again: _do_discard_again,
    step: _do_step,
    scatter: _do_scatter,
}


def error_of(function, *args, **named):
    """errno an operation fails with, None if it succeeds."""
    try:
        function(*args, **named)
    except OSError as error:
        return error.errno
    return None


def poll_readable(fd, timeout):
    return bool(select.select([fd], [], [], timeout)[0])
