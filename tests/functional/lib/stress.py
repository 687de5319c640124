"""Everything at once on one pool, and readers who know what each byte they read may be.

A unit is 4 KiB of a thin. Each change of it is a generation: an odd one fills it with stamps (device, unit,
generation, checksum), an even one makes it zeroes. Memory that all processes share has, unit by unit, the generation
that was begun last, the one that is done, and the one that is known to be durable. What a reader sees must lie between
what was done before it read and what was begun when it had read.

Processes: two writers and a reader a thin, one reader of a large empty thin (it fills the mapping cache), and for a
while others that read or change a snapshot. The test itself is the master, who sends all messages.
"""

import fcntl
import mmap
import os
import random
import struct
import time
import traceback
import zlib

from . import io
from .dm import error_of
from .proc import wait_for
from .thin import GIB, KIB, MIB, SECTOR

UNIT, BLOCK, SIZE = 4 * KIB, 64 * KIB, 32 * MIB
UNITS, PER_BLOCK = SIZE // UNIT, BLOCK // UNIT
THINS, SLOTS = 3, 4  # a slot is for a snapshot, which has id SNAP + slot
SNAP, EMPTY = 10, 9
LARGEST = 640 * MIB  # of the data device: more than everybody's blocks and those of the metadata snapshot
HOT = 24  # half of all I/O is in so many blocks
UNREAD = (1 << 64) - 1
STEP = 64  # units in one read of a whole device
RECORD = struct.Struct("<IIII")
ZEROES = bytes(UNIT)


class Wrong(Exception):
    """A reader has seen what must not be."""


def record(device, unit, generation):
    head = struct.pack("<III", device, unit, generation)
    return head + struct.pack("<I", zlib.crc32(head))


def stamp(device, unit, generation):
    return record(device, unit, generation) * (UNIT // RECORD.size)


def word_of(page, unit):
    """What a page is: 0 for zeroes, device << 32 | generation, None for anything else."""
    if page == ZEROES:
        return 0
    device, _, generation, _ = RECORD.unpack_from(page)
    return device << 32 | generation if page == stamp(device, unit, generation) else None


def may_be(word, device, low, high):
    """Can a unit of the device be so, with a generation from low to high?"""
    if word == 0:
        # From one odd generation to the next are 2, with an even one between them 4.
        return not low & 1 or not high & 1 or high - low >= 4
    return word is not None and word >> 32 == device and low <= word & 0xFFFFFFFF <= high


def may_be_torn(page, unit, device, low, high):
    """A read beside a write may see some of each: every record is one of them, or, at a tear, mixed of two."""
    records = {page[at : at + RECORD.size] for at in range(0, UNIT, RECORD.size)}
    whole = {one for one in records if may_be(word_of(one * (UNIT // RECORD.size), unit), device, low, high)}
    return len(whole) > 1 and all(
        any(byte == one[n] for one in whole) for mixed in records - whole for n, byte in enumerate(mixed)
    )


def description(page):
    device, unit, generation, checksum = RECORD.unpack_from(page)
    at = next((n for n in range(0, UNIT, RECORD.size) if page[n : n + RECORD.size] != page[: RECORD.size]), None)
    if not any(page[: RECORD.size]):
        text = "zeroes"
    elif record(device, unit, generation) == page[: RECORD.size]:
        text = f"unit {unit} of device {device} in generation {generation}"
    else:
        text = page[: RECORD.size].hex()
    return text if at is None else f"{text}, from byte {at} on {description(page[at : at + RECORD.size] * (UNIT // RECORD.size))}"


def shared(kind, count):
    """An array that all processes forked from here on have in common."""
    return memoryview(mmap.mmap(-1, struct.calcsize(kind) * count)).cast(kind)


def owner(unit):
    """Of its two writers: each has blocks of its own, and in the others they take turns."""
    part = unit // PER_BLOCK % 8
    return unit % 2 if part > 3 else part // 2


class Snapshot:
    """What is known of the thin in a slot: bounds until it was read once, then each unit for certain."""

    def __init__(self, slot):
        self.slot, self.id = slot, SNAP + slot
        self.known = shared("Q", UNITS)
        self.before = shared("Q", UNITS)  # of a unit that has just been changed: what a rollback makes of it
        self.device = self.job = None
        self.complete = False


_stress = None  # the processes have it from the fork


def _run(role, *args):
    """A process. Returns what is wrong, None if nothing."""
    os.nice(10)  # the master comes first
    try:
        getattr(_stress, role)(*args)
    except (Wrong, OSError) as wrong:
        _stress.stop[0] = 1
        where = "\n" + traceback.format_exc() if isinstance(wrong, OSError) else ""
        return f"{role}{args}: {wrong}{where}"
    return None


class Stress:
    def __init__(self, rig, seed, stock, meta=16 * MIB, ends_broken=False):
        global _stress
        _stress = self
        self.rig, self.seed, self.stock, self.ends_broken = rig, seed, stock, ends_broken
        self.chance = random.Random(seed)
        self.begun, self.done, self.durable = ([shared("I", UNITS) for _ in range(THINS)] for _ in range(3))
        self.bounds = [(shared("I", UNITS), shared("I", UNITS)) for _ in range(SLOTS)]
        self.stop, self.broken = shared("I", 1), shared("I", 1)
        self.pause, self.counts = shared("I", THINS), shared("Q", 16)
        self.pausing = shared("I", THINS * 4)
        self.turns = {}
        self.pool = rig.pool(size=128 * MIB, data=rig.switch(128 * MIB), meta=meta)
        self.thins = [self.pool.thin(n, sectors=SIZE // SECTOR) for n in range(THINS)]
        self.empty = self.pool.thin(EMPTY, sectors=16 * GIB // SECTOR)
        self.free = [Snapshot(slot) for slot in range(SLOTS)]
        self.snaps = []
        self.held = False
        self.serial = 0

    # -- the processes

    def _opened(self, n, who, flags):
        """File descriptors on thin n, again and again as it is let go for a while; None at the end."""
        place = n * 4 + who
        while not self.stop[0]:
            fds = [os.open(self.thins[n].path, flag | os.O_DIRECT | os.O_CLOEXEC) for flag in flags]
            try:
                yield fds
            finally:
                for fd in fds:
                    os.close(fd)
            self.pausing[place] = 1
            while self.pause[n] and not self.stop[0]:
                time.sleep(0.005)
            self.pausing[place] = 0

    def _goes_on(self, n):
        return not self.pause[n] and not self.stop[0]

    @staticmethod
    def _somewhere(chance):
        return chance.randrange(HOT * PER_BLOCK if chance.random() < 0.5 else UNITS)

    def writer(self, n, who):
        chance = random.Random(f"{self.seed} writer {n} {who}")
        loose = {}  # generations that nobody has promised yet
        buffer = mmap.mmap(-1, BLOCK)
        for plain, sync in self._opened(n, who, (os.O_RDWR, os.O_RDWR | os.O_DSYNC)):
            while self._goes_on(n):
                try:
                    self._change(n, who, chance, buffer, plain, sync, loose)
                except OSError:
                    if not self.broken[0]:
                        raise
                    return
                self.counts[n * 4 + who] += 1

    def _change(self, n, who, chance, buffer, plain, sync, loose):
        kind = chance.choices(("write", "sync", "flush", "discard", "zero"), (70, 8, 8, 7, 7))[0]
        if kind == "flush":
            os.fdatasync(plain)
            for unit, generation in loose.items():
                self.durable[n][unit] = generation
            loose.clear()
            return
        first = self._somewhere(chance)
        if kind == "discard":
            first -= first % PER_BLOCK
        most = chance.choice((1, 1, 2, 4, 16)) if kind in ("write", "sync") else chance.choice((PER_BLOCK, 2 * PER_BLOCK))
        last = first
        while last < min(first + most, UNITS) and owner(last) == who:
            last += 1
        if kind == "discard" and (last - first) % PER_BLOCK or last == first:
            return
        units, odd = range(first, last), kind in ("write", "sync")
        begun, done = self.begun[n], self.done[n]
        generations = [begun[unit] + ((2 if begun[unit] & 1 else 3) if odd else 1 + (begun[unit] + 1) % 2) for unit in units]
        for unit, generation in zip(units, generations):
            begun[unit] = generation
        where = struct.pack("QQ", first * UNIT, len(units) * UNIT)
        if odd:
            length = len(units) * UNIT
            buffer[:length] = b"".join(stamp(n, unit, generation) for unit, generation in zip(units, generations))
            if os.pwritev(sync if kind == "sync" else plain, [memoryview(buffer)[:length]], first * UNIT) != length:
                raise Wrong("a write came short")
        else:
            fcntl.ioctl(plain, io.BLKDISCARD if kind == "discard" else io.BLKZEROOUT, where)
        for unit, generation in zip(units, generations):
            done[unit] = generation
            loose.pop(unit, None)
            if kind == "sync":
                self.durable[n][unit] = generation
            elif kind != "discard":  # which a pool that has just become read-only takes without effect
                loose[unit] = generation

    def _read(self, fd, buffer, first, count):
        if os.preadv(fd, [memoryview(buffer)[: count * UNIT]], first * UNIT) != count * UNIT:
            raise Wrong("a read came short")
        return [buffer[n * UNIT : (n + 1) * UNIT] for n in range(count)]

    def _compare(self, n, fd, buffer, first, count, torn=True):
        low = (self.durable if self.ends_broken else self.done)[n][first : first + count].tolist()
        pages = self._read(fd, buffer, first, count)
        high = self.begun[n][first : first + count].tolist()
        words = []
        for unit, page, least, most in zip(range(first, first + count), pages, low, high):
            words.append(word_of(page, unit))
            if not may_be(words[-1], n, least, most) and not (torn and may_be_torn(page, unit, n, least, most)):
                raise Wrong(f"thin {n}, unit {unit}: generations {least} to {most} may be there, not {description(page)}")
        return words

    def reader(self, n):
        chance = random.Random(f"{self.seed} reader {n}")
        buffer = mmap.mmap(-1, STEP * UNIT)
        for (fd,) in self._opened(n, 2, (os.O_RDONLY,)):
            while self._goes_on(n):
                first = self._somewhere(chance)
                self._compare(n, fd, buffer, first, min(chance.choice((1, 4, 16, STEP)), UNITS - first))
                self.counts[n * 4 + 2] += 1

    def reader_of_holes(self):
        """Each read brings another chunk into the mapping cache."""
        chance = random.Random(f"{self.seed} holes")
        buffer = mmap.mmap(-1, UNIT)
        fd = os.open(self.empty.path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        while not self.stop[0]:
            for _ in range(200):
                (page,) = self._read(fd, buffer, chance.randrange(16 * GIB // UNIT), 1)
                if page != ZEROES:
                    raise Wrong(f"the empty thin holds {description(page)}")
            time.sleep(0.05)
        os.close(fd)

    def whole(self, n, path, found):
        """A thin that nobody writes to any more; what it was the time before, if there was one."""
        known = self.found[n]
        buffer = mmap.mmap(-1, STEP * UNIT)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        for first in range(0, UNITS, STEP):
            words = self._compare(n, fd, buffer, first, STEP, torn=False)
            if found and words != known[first : first + STEP].tolist():
                raise Wrong(f"thin {n}: units from {first} on are not what they were before")
            for unit, word in zip(range(first, first + STEP), words):
                known[unit] = word
        os.close(fd)

    def snapshot(self, slot, source, path, writes, base):
        """All of a snapshot is as it was, or as it may be when it is read first; then change some of it."""
        snap = next(one for one in self.snaps if one.slot == slot)
        low, high = self.bounds[slot]
        buffer = mmap.mmap(-1, STEP * UNIT)
        fd = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        for first in range(0, UNITS, STEP):
            for unit, page in zip(range(first, first + STEP), self._read(fd, buffer, first, STEP)):
                word, known = word_of(page, unit), snap.known[unit]
                if known == UNREAD:
                    if not may_be(word, source, low[unit], high[unit]):
                        raise Wrong(
                            f"snapshot {snap.id} of {source}, unit {unit}: generations {low[unit]} to {high[unit]} "
                            f"may be there, not {description(page)}"
                        )
                    snap.known[unit] = word
                elif word != known and not (self.broken[0] and word == snap.before[unit]):
                    raise Wrong(
                        f"snapshot {snap.id}, unit {unit} was generation {known & 0xFFFFFFFF} of device {known >> 32}, "
                        f"is {description(page)}"
                    )
                if self.stop[0]:
                    snap.known[unit] = word
        try:
            self._change_snapshot(snap, fd, buffer, writes, base)
        except OSError:
            if not self.broken[0]:
                raise
        os.close(fd)

    def _change_snapshot(self, snap, fd, buffer, writes, base):
        chance = random.Random(f"{self.seed} snapshot {base}")
        snap.before[:] = snap.known
        for block in chance.sample(range(HOT), writes):
            if chance.random() < 0.3:
                snap.known[block * PER_BLOCK : (block + 1) * PER_BLOCK] = memoryview(bytes(8 * PER_BLOCK)).cast("Q")
                fcntl.ioctl(fd, io.BLKDISCARD, struct.pack("QQ", block * BLOCK, BLOCK))
                continue
            for unit in chance.sample(range(block * PER_BLOCK, (block + 1) * PER_BLOCK), 2):
                snap.known[unit] = snap.id << 32 | base + 1
                buffer[:UNIT] = stamp(snap.id, unit, base + 1)
                os.pwritev(fd, [memoryview(buffer)[:UNIT]], unit * UNIT)
        if writes:
            os.fdatasync(fd)

    # -- the master

    def _settle(self, job):
        wrong = job.result()
        if wrong:
            raise Wrong(wrong)

    def run(self, seconds):
        self.jobs = [io.Job(_run, "writer", n, who) for n in range(THINS) for who in range(2)]
        self.jobs += [io.Job(_run, "reader", n) for n in range(THINS)] + [io.Job(_run, "reader_of_holes")]
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.stop[0]:
            self._make_room()
            turn = self.chance.choices(*zip(*self._choices()))[0]
            self.turns[turn.__name__.strip("_")] = self.turns.get(turn.__name__.strip("_"), 0) + 1
            turn()
            time.sleep(self.chance.random() * 0.03)

    def _choices(self):
        return (
            (self._take, 10), (self._take_of_snapshot, 3), (self._look, 14), (self._drop, 6), (self._cycle, 4),
            (self._hold, 3), (self._grow, 1), (self._reactivate, 2), (self._cache, 3), (self._status, 3), (self._slow, 3),
        )

    def _idle(self):
        """Snapshots that no process is at."""
        for snap in self.snaps:
            if snap.job and snap.job.done():
                job, snap.job = snap.job, None
                self._settle(job)
                snap.complete = True
        return [snap for snap in self.snaps if not snap.job]

    def _take(self):
        if not self.free:
            return self._drop()
        thin, snap = self.chance.choice(self.thins), self.free.pop()
        low, high = self.bounds[snap.slot]
        low[:] = self.done[thin.id]
        if self.stock or self.chance.random() < 0.3:
            self.pool.snapshot(thin, snap.id)
        else:
            self.pool.create_snap(snap.id, thin.id)
        high[:] = self.begun[thin.id]
        snap.known[:] = memoryview(struct.pack("Q", UNREAD) * UNITS).cast("Q")
        self._open(snap, thin.id)

    def _open(self, snap, source):
        snap.device = self.pool.activate(snap.id, sectors=SIZE // SECTOR)
        snap.source = source
        snap.complete = False
        self.snaps.append(snap)
        self._read_snapshot(snap)

    def _read_snapshot(self, snap, writes=0):
        self.serial += 1
        snap.job = io.Job(_run, "snapshot", snap.slot, snap.source, snap.device.path, writes, self.serial * 10000)

    def _take_of_snapshot(self):
        sources = [snap for snap in self._idle() if snap.complete]
        if sources and self.free:
            source, snap = self.chance.choice(sources), self.free.pop()
            (self.pool.snapshot if self.chance.random() < 0.3 else self._take_plainly)(source.device, snap.id)
            snap.known[:] = source.known
            self._open(snap, source.id)

    def _take_plainly(self, device, snap_id):
        self.pool.create_snap(snap_id, device.id)

    def _look(self):
        idle = self._idle()
        if idle:
            writes = 0 if self.chance.random() < 0.5 else self.chance.choice((2, HOT))
            self._read_snapshot(self.chance.choice(idle), writes)

    def _drop(self):
        idle = self._idle()
        if idle:
            snap = self.chance.choice(idle)
            snap.device.remove()
            self.pool.delete(snap.id)
            self.snaps.remove(snap)
            self.free.append(snap)

    def _cycle(self):
        self.chance.choice([self.pool, self.pool] + self.thins).cycle(noflush=self.chance.random() < 0.5)

    def _hold(self):
        self.pool.message("release_metadata_snap" if self.held else "reserve_metadata_snap")
        self.held = not self.held

    def _make_room(self):
        """Nobody waits for space here: suspends with a flush would wait with him."""
        while self.pool.status(noflush=True).free < 1024 and self.pool.sectors < LARGEST // SECTOR:
            self._grow()

    def _grow(self):
        sectors = self.pool.sectors + self.chance.choice((16, 32, 64)) * MIB // SECTOR
        if sectors <= LARGEST // SECTOR:
            self.pool.data.lower.grow(sectors)
            self.pool.data.sectors = sectors
            self.pool.data.good()
            self.pool.change(sectors=sectors, noflush=self.chance.random() < 0.5)

    def _reactivate(self):
        n = self.chance.randrange(THINS)
        thin = self.thins[n]
        self.pause[n] = 1
        wait_for(lambda: self.stop[0] or all(self.pausing[n * 4 : n * 4 + 3]), f"everybody lets go of thin {n}", pause=0.01)
        if not self.stop[0]:
            thin.remove()
            thin.create(thin.table())
            self.rig.thins.append(thin)
        self.pause[n] = 0
        wait_for(lambda: self.stop[0] or not any(self.pausing[n * 4 : n * 4 + 3]), f"all go on with thin {n}", pause=0.01)

    def _cache(self):
        if self.chance.random() < 0.5 and not self.stock:
            self.rig.parameter("mapping_cache_mb", self.chance.choice((0, 1)))
        else:
            with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
                file.write("2")  # the caches of the kernel that can shrink, the mapping cache too

    def _slow(self):
        """With reads or writes that take their time there is more under way whenever something happens."""
        reads, writes = self.chance.choice(((0, 0), (20, 0), (0, 20), (0, 400), (0, 400)))
        if reads or writes:
            self.pool.data.slow(reads, writes)
        else:
            self.pool.data.good()
        if writes == 400 and self.free:
            self._take()

    def _status(self):
        self.pool.status()

    # -- the end

    def halt(self):
        """All processes end; whoever has seen something wrong says so."""
        self.stop[0] = 1
        self.pool.data.good()
        for job in self.jobs + [snap.job for snap in self.snaps if snap.job]:
            self._settle(job)
        for snap in self.snaps:
            snap.complete, snap.job = True, None
        print("operations:", [self.counts[n * 4 : n * 4 + 3].tolist() for n in range(THINS)], self.turns)
        changes, reads = (sum(self.counts[n * 4 + who] for n in range(THINS) for who in some) for some in ((0, 1), (2,)))
        print(f"COUNTS {changes} writes and discards, {reads} reads compared, {sum(self.turns.values())} messages and reloads")
        assert all(self.counts[n * 4 + who] for n in range(THINS) for who in range(3)), "somebody has done nothing"

    def all_right(self, found=False):
        """Every unit of every device once more."""
        if not found:
            self.found = [shared("Q", UNITS) for _ in range(THINS)]
        jobs = [io.Job(_run, "whole", n, thin.path, found) for n, thin in enumerate(self.thins)]
        for snap in self.snaps:
            self._read_snapshot(snap)
        for job in jobs + [snap.job for snap in self.snaps]:
            self._settle(job)
        for snap in self.snaps:
            snap.job = None

    def deactivate(self):
        for device in self.thins + [self.empty] + [snap.device for snap in self.snaps]:
            device.remove()
        self.pool.remove()

    def activate(self):
        self.pool.start()
        self.thins = [self.pool.activate(thin.id, sectors=thin.sectors) for thin in self.thins]
        self.empty = self.pool.activate(EMPTY, sectors=self.empty.sectors)
        for snap in self.snaps:
            snap.device = self.pool.activate(snap.id, sectors=SIZE // SECTOR)

    def break_metadata(self):
        """Writes to the metadata device fail from now on; on until the pool has noticed."""
        self.broken[0] = 1
        self.pool.meta.fail_writes()
        lost = []
        for turn in self.chance.sample(("create_snap", "delete", "wait"), 3):
            if turn == "create_snap" and self.free:
                lost.append(error_of(self.pool.create_snap, self.free[-1].id, self.chance.randrange(THINS)))
            elif turn == "delete":
                for snap in self._idle()[:1]:
                    snap.device.remove()
                    lost.append(error_of(self.pool.delete, snap.id))
                    snap.device = self.pool.activate(snap.id, sectors=SIZE // SECTOR)
            else:
                time.sleep(self.chance.random())
        wait_for(lambda: self.pool.status().mode != "rw", "the pool is read-only")
        assert self.pool.status().mode == "ro"
        assert self.stock or None not in lost, "a message has succeeded that could not be committed"
