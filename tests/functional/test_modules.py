"""The module goes and comes between pools and never under one; a data device that is pulled out under load.

RELOADS makes it longer.
"""

import lzma
import os
import platform
import random
import time

import pytest
from lib import dm, io, metadata, proc
from lib.slots import SLOT, Slots
from lib.thin import MIB, SECTOR

RELOADS = int(os.environ.get("RELOADS", "3"))
GUEST = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guest")
SLOTS = 64
pytestmark = pytest.mark.deadline(900 + 60 * RELOADS)


@pytest.fixture
def chance():
    seed = os.environ.get("RELOAD_SEED", str(time.time_ns() % 1000000))
    print(f"RELOAD_SEED={seed} RELOADS={RELOADS}")
    return random.Random(int(seed))


def test_reload_between_pools(rig, stock, chance):
    """Each time right after the last pool went, with work queues and caches as they then are."""
    which = "in-tree" if stock else "ours"
    pool = rig.pool(size=64 * MIB)
    pool.create_thin(0)
    slots = Slots(SLOTS, chance.random())
    for number in range(RELOADS):
        thin = pool.activate(0, sectors=SLOTS * SLOT // SECTOR)
        Slots.prove(thin, *slots.now())
        jobs = [io.Job(io.rewrite, thin.path, 0, SLOT * 8, os.path.join(rig.directory, "stop")) for _ in range(2)]
        scratch = pool.thin(100 + number, sectors=16 * MIB // SECTOR)
        scratch.fill(0, 8 * MIB, seed=number)
        scratch.discard(0, 4 * MIB)
        # Under load it stays where it is.
        assert proc.run("rmmod", "dm_thin_pool", check=False).status != 0
        with open(os.path.join(rig.directory, "stop"), "w", encoding="ascii"):
            pass
        for job in jobs:
            assert job.errno() is None
        os.unlink(os.path.join(rig.directory, "stop"))
        for slot in range(8):  # the jobs have written here
            slots.begun[slot] += 1
            thin.write(slot * SLOT, Slots.content(slot, slots.begun[slot]), True)
            slots.safe[slot] = slots.begun[slot]
        for _ in range(4):
            assert slots.write(thin) is None
        scratch.remove()
        pool.delete(100 + number)
        rig.stop(pool)
        proc.run(os.path.join(GUEST, "use-module"), which)
        rig.pools.append(pool)
        pool.start()
    thin = pool.activate(0, sectors=SLOTS * SLOT // SECTOR)
    Slots.prove(thin, *slots.now())
    print(f"COUNTS {RELOADS} times the module was unloaded and loaded")


MODULE_NAME = b"dm_thin_pool"


def module_file(stock):
    """The file of the loaded module."""
    tree = f"/lib/modules/{platform.release()}"
    if not stock:
        return f"{tree}/updates/dm-thin-pool.ko"
    found = proc.run("find", f"{tree}/kernel/drivers/md", "-name", "dm-thin-pool.ko*").out.split()
    return found[0]


def under_another_name(path, where):
    """A copy of a module that the kernel does not know for the same."""
    with (lzma.open if path.endswith(".xz") else open)(path, "rb") as file:
        content = file.read()
    assert content.count(MODULE_NAME + b"\0") >= 1
    with open(where, "wb") as file:
        file.write(content.replace(MODULE_NAME + b"\0", b"dm_thin_copy\0"))
    return where


def test_second_module_is_refused(rig, stock):
    """By its name, and under another name because its targets are there already; the first one does not mind."""
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    before = dm.targets()
    path = module_file(stock)
    for again in (path, under_another_name(path, os.path.join(rig.directory, "copy.ko"))):
        refused = proc.run("insmod", again, check=False)
        assert refused.status != 0, again
        assert "File exists" in refused.err or "busy" in refused.err, refused.err
    assert not os.path.exists("/sys/module/dm_thin_copy")
    assert dm.targets() == before
    thin.verify_blocks(0, 4, seed=1)
    thin.fill_blocks(4, 4, seed=1)
    pool.activate(0).verify_blocks(0, 8, seed=1)


@pytest.mark.spared("broken-stress")
def test_data_device_is_pulled_out(rig, chance):
    """Every I/O ends, what fsync promised is there when the device is back, and the metadata is clean."""
    data = rig.null_blk(64 * MIB, discard=True)
    pool = rig.pool(size=64 * MIB, data=data, meta=16 * MIB)
    pool.checked = False
    pool.create_thin(0)
    slots = Slots(SLOTS, chance.random())
    for _ in range(RELOADS):
        thin = pool.activate(0, sectors=SLOTS * SLOT // SECTOR)
        Slots.prove(thin, *slots.now())
        for _ in range(5):
            assert slots.write(thin) is None
        other = pool.thin(1)
        jobs = [io.Job(io.fill, other.path, n * 8 * MIB, 8 * MIB, n) for n in range(3)]
        data.power(False)
        assert slots.write(thin) is not None
        for job in jobs:
            job.errno()  # either; but it ends
        for one in (thin, other):
            one.remove()
        pool.remove()
        data.power(True)
        metadata.check(pool.meta)
        if metadata.Superblock(pool.meta).needs_check:
            metadata.clear_needs_check(pool.meta)
        pool.start()
        pool.delete(1)
    thin = pool.activate(0, sectors=SLOTS * SLOT // SECTOR)
    Slots.prove(thin, *slots.now())
    rig.stop(pool)
    metadata.check(pool.meta)
    print(f"COUNTS {RELOADS} times the data device was pulled out under load, lost 0")
