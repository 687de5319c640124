"""Both devices of a pool on one logged disk, and the pool as a crash at any point of the log would have left it.

The data device holds secrets of former owners everywhere: no volume may ever show one.

LOGWRITES_STEPS makes the history longer, LOGWRITES_SEED repeats one.
"""

import os
import random
import time

import pytest
from lib import io, metadata, proc
from lib.logwrites import LogWrites
from lib.slots import SLOT, Slots
from lib.thin import MIB, SECTOR

STEPS = int(os.environ.get("LOGWRITES_STEPS", "8"))
SLOTS = 64
META, DATA = 4 * MIB, 64 * MIB
SECRET = b"what another owner left".ljust(64, b".") * (MIB // 64)
pytestmark = pytest.mark.deadline(900 + 60 * STEPS)


class Crashed:
    """The two devices as they are at one point of the log: what goes into a disk's file shows on the disk."""

    def __init__(self, rig):
        self.rig = rig
        self.disks = [rig.disk(META), rig.disk(DATA)]
        self.files = [open(disk.file, "r+b", buffering=0) for disk in self.disks]
        for _ in range(DATA // MIB):
            self.files[1].write(SECRET)

    def apply(self, entry):
        if entry.data is None or not entry.count:
            return
        at = entry.sector * SECTOR
        which, offset = (0, at) if at < META else (1, at - META)
        self.files[which].seek(offset)
        self.files[which].write(entry.data)

    def check(self, thoroughly):
        self.files[0].seek(0)
        if not any(self.files[0].read(4096)):
            return False  # before the pool was formatted
        for series in ("0.9", "1") if thoroughly else ("0.9",):
            verdict = proc.run(metadata.tool("thin_check", series), self.disks[0], check=False)
            assert verdict.status == 0, f"thin_check {series}.x: {verdict.out}{verdict.err}"
        return True

    def open(self):
        """A pool on copies."""
        disks = [self.rig.copy_of(disk) for disk in self.disks]
        return self.rig.pool(size=DATA, meta=disks[0], data=disks[1])

    def close(self, pool):
        self.rig.stop(pool)
        for disk in (pool.meta, pool.data):
            self.rig.disks.remove(disk)
            disk.remove()


def history(rig, chance, disk):
    """What was promised, begun and frozen in snapshots when each mark was set."""
    meta = rig.device(f"0 {META // SECTOR} linear {disk} 0")
    data = rig.device(f"0 {DATA // SECTOR} linear {disk} {META // SECTOR}")
    pool = rig.pool(size=DATA, meta=meta, data=data)
    pool.checked = False
    thin = pool.thin(0, sectors=SLOTS * SLOT // SECTOR)
    scratch = pool.thin(1)
    slots = Slots(SLOTS, chance.random())
    snapshots, marks = {}, []
    for step in range(STEPS):
        assert slots.write(thin) is None
        what = chance.randrange(5)
        if what == 0:
            scratch.fill_blocks(chance.randrange(200), 2, seed=step)
            scratch.fill(chance.randrange(800) * 64 * 1024 + 4096 * chance.randrange(16), 4096, seed=step)
        elif what == 1:
            scratch.discard_blocks(chance.randrange(100), 100)
        elif what == 2 and len(snapshots) < 4:
            pool.snapshot(thin, 10 + step)
            snapshots[10 + step] = slots.now()
        elif what == 3 and snapshots:
            gone = chance.choice(sorted(snapshots))
            # Between begin and end of the message either is right.
            del snapshots[gone]
            marks.append((*slots.now(), dict(snapshots)))
            disk.mark(len(marks) - 1)
            pool.delete(gone)
        pool.status()  # commits what the messages left open
        marks.append((*slots.now(), dict(snapshots)))
        disk.mark(len(marks) - 1)
    rig.stop(pool)
    for device in (meta, data):
        device.remove()
    return marks


def no_secret(thin):
    for at in range(0, thin.sectors * SECTOR, MIB):
        found = thin.read(at, min(MIB, thin.sectors * SECTOR - at)).find(SECRET[:64])
        assert found < 0, f"{thin.name} shows a former owner's secret at byte {at + found}"


def prove(crashed, before, after):
    """Promised at the mark before the point; begun at the one behind it."""
    pool = crashed.open()
    sectors = SLOTS * SLOT // SECTOR
    if before:
        safe, _, snapshots = before
        thin = pool.activate(0, sectors=sectors)
        no_secret(thin)
        no_secret(pool.activate(1))
        Slots.prove(thin, safe, after[1])
        for number, (kept, begun) in snapshots.items():
            Slots.prove(pool.activate(number, sectors=sectors), kept, begun)
    # It goes on from there.
    new = pool.thin(900, sectors=16 * MIB // SECTOR)
    new.fill_blocks(0, 3, seed=9)
    for block in range(4, 60, 7):
        new.fill(block * pool.block + 8 * 1024, 4096, seed=9)
    no_secret(new)
    crashed.close(pool)


@pytest.mark.spared("broken-stress")
def test_every_point_of_the_log(rig):
    proc.run("modprobe", "dm-log-writes", check=False)
    seed = os.environ.get("LOGWRITES_SEED", str(time.time_ns() % 1000000))
    print(f"LOGWRITES_SEED={seed} LOGWRITES_STEPS={STEPS}")
    chance = random.Random(int(seed))
    lower, log = rig.disk(META + DATA), rig.disk(64 * MIB + STEPS * 4 * MIB)
    for at in range(META, META + DATA, MIB):
        io.write(lower, at, SECRET)
    io.flush(lower)
    disk = LogWrites(rig, lower, log)
    marks = history(rig, chance, disk)
    disk.remove()

    crashed = Crashed(rig)
    last, points, checked, opened = None, 0, 0, 0
    for entry in disk.entries():
        if entry.mark is not None:
            last = entry.mark
            continue
        crashed.apply(entry)
        points += 1
        if not entry.ordered and chance.random() > 0.05:
            continue
        checked += crashed.check(thoroughly=chance.random() < 0.05)
        if last is not None and chance.random() < 0.1:
            prove(crashed, marks[last], marks[min(last + 1, len(marks) - 1)])
            opened += 1
    prove(crashed, marks[-1], marks[-1])
    assert checked and opened
    print(f"COUNTS {points} writes and flushes logged, {checked} points of the log checked, {opened + 1} pools opened there and proven")


def test_secrets_are_noticed(rig):
    """Without zeroing they show, or the test above proves nothing."""
    data = rig.disk(4 * MIB)
    for at in range(0, 4 * MIB, MIB):
        io.write(data, at, SECRET)
    pool = rig.pool(size=4 * MIB, data=data, features=["skip_block_zeroing"])
    thin = pool.thin(0)
    thin.fill(8192, 4096, seed=1)
    with pytest.raises(AssertionError, match="secret"):
        no_secret(thin)
