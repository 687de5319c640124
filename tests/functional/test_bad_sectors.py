"""A disk below the pool that has lost some sectors: who asks for them is told, and nobody else suffers."""

import errno

import pytest
from lib import dm, io, metadata
from lib.dm import DmError
from lib.slots import SLOT, Slots
from lib.thin import KIB, MIB
from test_layers import need_target

# What goes on while a block of the kind is lost. Changes of any thin end with the first one that needs it, which
# makes the pool read-only; what is not lost can always be read.
EVERYTHING = {"alone", "write alone", "write", "snapshot", "delete", "create"}
GOES_ON = {
    "superblock": None,
    "thins": set(),
    "inner": EVERYTHING - {"write"},
    "leaf": EVERYTHING,
    "details": set(),
    "data-index": {"alone"},
    "data-bitmap": {"alone"},
    "data-counts": {"alone", "write alone"},
    "metadata-index": None,
    "metadata-bitmap": {"alone"},
}
BLOCKS = 300  # more mappings than a leaf holds
SLOTS = BLOCKS * 64 * KIB // SLOT
pytestmark = pytest.mark.heavy


@pytest.fixture(autouse=True)
def has_dust():
    need_target("dust")


def populated(rig):
    """A pool at rest: thin 0 with slots all over, snapshots 1 to 3 of it that share leaves and blocks, thin 4 alone."""
    pool = rig.pool(meta=rig.switch(), data=rig.switch(96 * MIB), size=96 * MIB)
    thin = pool.thin(0, sectors=BLOCKS * 128)
    slots = Slots(SLOTS, seed=1)
    for block in range(BLOCKS):
        io.write(thin.path, block * pool.block, slots.content(block * 4, 1))
        slots.begun[block * 4] = slots.safe[block * 4] = 1
    thin.flush()
    frozen = slots.now()
    for number in (1, 2, 3):
        pool.snapshot(thin, number)
        snap = pool.activate(number, sectors=BLOCKS * 128)
        # Its leaf becomes its own, and the blocks that are in it get one owner more.
        snap.fill(0, 4 * KIB, number)
    alone = pool.thin(4)
    alone.fill_blocks(0, 8, seed=4)
    rig.down(pool)
    return pool, slots, frozen


def tolerant(function, *args, **named):
    """The result, or None when it could not be had, which must have been said as an error of I/O."""
    try:
        return function(*args, **named)
    except (DmError, OSError) as failed:
        assert failed.errno == errno.EIO, failed
    return None


def is_there(thin, offset, content):
    found = tolerant(thin.read, offset, len(content))
    assert found in (None, content), "neither what was written nor an error"
    return found is not None


def work(pool, slots):
    """What can be done with what is left; whatever comes back is right."""
    thin = tolerant(pool.activate, 0, sectors=BLOCKS * 128)
    alone = tolerant(pool.activate, 4)
    done = set()

    def note(what, well):
        if well:
            done.add(what)

    if alone:
        note("alone", is_there(alone, 0, io.pattern(4, 0, 8 * pool.block)))
        note("write alone", io.error_of(alone.fill, 8 * pool.block, 4 * KIB, 5) is None)
    if thin:
        for slot in range(0, SLOTS, 4 * 37):
            is_there(thin, slot * SLOT, slots.content(slot, slots.begun[slot]))
        note("write", None in [slots.write(thin) for _ in range(6)])
    note("snapshot", dm.error_of(pool.create_snap, 9, 1) is None)
    note("delete", dm.error_of(pool.delete, 2) is None)
    note("create", dm.error_of(pool.create_thin, 10) is None)
    for device in (thin, alone):
        if device:
            tolerant(device.flush)
    return done


def prove_all(rig, pool, slots, frozen):
    thin = pool.activate(0, sectors=BLOCKS * 128)
    Slots.prove(thin, *slots.now())
    pool.activate(4).verify_blocks(0, 8, seed=4)
    snap = pool.activate(3, sectors=BLOCKS * 128)
    snap.verify(0, 4 * KIB, 3)
    for slot in range(4, SLOTS, 4):
        assert snap.read(slot * SLOT, SLOT) == slots.content(slot, frozen[0][slot])
    assert slots.write(thin) is None
    rig.stop(pool)


@pytest.mark.parametrize("how", ["dust", "spoil"])
@pytest.mark.parametrize("kind", GOES_ON)
@pytest.mark.spared("broken-stress")
def test_metadata_block(rig, kind, how):
    """dust: cannot be read until it is written. spoil: neither."""
    pool, slots, frozen = populated(rig)
    block = metadata.one_of_each_kind(pool.meta)[kind]
    getattr(pool.meta, how)(block * metadata.BLOCK, metadata.BLOCK)
    tolerant(pool.start)
    assert (work(pool, slots) if pool.exists() else None) == GOES_ON[kind]
    # Mended: the last durable state is there, with all that was promised meanwhile.
    pool.meta.good()
    rig.recover(pool)
    prove_all(rig, pool, slots, frozen)


@pytest.mark.parametrize("how", ["dust", "spoil"])
@pytest.mark.improvement("B6")
def test_data_block(rig, how):
    """Of a block that several thins share: its readers hear of it, a copy is not made, all else goes on."""
    pool, slots, frozen = populated(rig)
    block = 200
    lost = metadata.mappings(pool.meta)[0][block] * pool.block
    getattr(pool.data, how)(lost, 4 * KIB)
    pool.start()
    thin = pool.activate(0, sectors=BLOCKS * 128)
    used = pool.status().used
    snap = pool.activate(3, sectors=BLOCKS * 128)
    for device in (thin, snap):
        assert io.error_of(device.read, block * pool.block, 4 * KIB) == errno.EIO
        device.verify_zero(block * pool.block + SLOT, pool.block - SLOT)
    # The block's other part must be copied for this, and cannot be.
    assert io.error_of(thin.write, block * pool.block + SLOT, bytes(4 * KIB)) == errno.EIO
    assert pool.status().used == used
    # All of it replaced: nothing of the old one is needed.
    thin.fill_blocks(block, 1, seed=6)
    thin.verify_blocks(block, 1, seed=6)
    assert io.error_of(snap.read, block * pool.block, 4 * KIB) == errno.EIO
    assert pool.status().mode == "rw"
    for slot in (4, 4 * 199, 4 * 201):
        assert snap.read(slot * SLOT, SLOT) == slots.content(slot, frozen[0][slot])
