"""A thin over a read-only external origin of any size."""

import pytest
from lib import io
from lib.thin import KIB, MIB


@pytest.fixture
def origin(rig):
    disk = rig.disk(4 * MIB)
    io.fill(disk.path, 0, 4 * MIB, seed=5)
    return disk


def test_reads_come_from_the_origin(rig, origin):
    pool = rig.pool()
    thin = pool.thin(0, sectors=8192, origin=origin)
    thin.verify(0, 4 * MIB, seed=5)
    assert thin.status().text == "0 -"
    assert pool.status().used == 0


def test_whole_block_written(rig, origin):
    pool = rig.pool()
    thin = pool.thin(0, sectors=8192, origin=origin)
    thin.fill_blocks(3, 2, seed=1)
    thin.verify_blocks(0, 3, seed=5)
    thin.verify_blocks(3, 2, seed=1)
    thin.verify_blocks(5, 20, seed=5)
    assert pool.status().used == 2


@pytest.mark.parametrize("features", [[], ["skip_block_zeroing"]], ids=["zeroing", "skip"])
def test_part_of_a_block_written(rig, origin, features):
    pool = rig.pool(features=features)
    thin = pool.thin(0, sectors=8192, origin=origin)
    thin.fill(64 * KIB + 8 * KIB, 4 * KIB, seed=1)
    thin.verify(64 * KIB, 8 * KIB, seed=5)
    thin.verify(64 * KIB + 8 * KIB, 4 * KIB, seed=1)
    thin.verify(64 * KIB + 12 * KIB, 52 * KIB, seed=5)
    io.verify(origin.path, 0, 4 * MIB, seed=5)


def test_discarded_block_shows_the_origin_again(rig, origin):
    pool = rig.pool()
    thin = pool.thin(0, sectors=8192, origin=origin)
    thin.fill_blocks(0, 4, seed=1)
    thin.discard_blocks(1, 2)
    thin.verify_blocks(0, 1, seed=1)
    thin.verify_blocks(1, 2, seed=5)
    thin.verify_blocks(3, 1, seed=1)


@pytest.mark.parametrize("sectors", [2048, 2048 + 8, 2048 + 64, 8], ids=str)
def test_origin_smaller_than_the_thin(rig, sectors):
    pool = rig.pool()
    io.fill(pool.data.path, 0, 8 * MIB, seed=9)
    origin = rig.disk(sectors * 512)
    size = sectors * 512
    io.fill(origin.path, 0, size, seed=5)
    thin = pool.thin(0, sectors=8192, origin=origin)
    thin.verify(0, size, seed=5)
    thin.verify_zero(size, 4 * MIB - size)
    # A small write into the block that straddles the end: copied inside, zero outside.
    block = size // pool.block * pool.block
    inside = size - block
    thin.fill(block + 32 * KIB + 512, 512, seed=1)
    if inside:
        thin.verify(block, min(inside, 32 * KIB), seed=5)
        thin.verify(block + 32 * KIB + 512, 512, seed=1)
    thin.verify_zero(block + 33 * KIB + (0 if inside <= 33 * KIB else inside), 4 * KIB)
    thin.fill(3 * MIB, 4 * KIB, seed=1)
    thin.verify_zero(3 * MIB + 4 * KIB, 60 * KIB)


def test_origin_larger_than_the_thin(rig, origin):
    pool = rig.pool()
    thin = pool.thin(0, sectors=2048, origin=origin)
    thin.verify(0, MIB, seed=5)
    thin.fill(MIB - 4 * KIB, 4 * KIB, seed=1)
    thin.verify(MIB - 64 * KIB, 60 * KIB, seed=5)


def test_growing_into_the_origin(rig, origin):
    pool = rig.pool()
    thin = pool.thin(0, sectors=2048, origin=origin)
    thin.fill_blocks(2, 1, seed=1)
    thin.reload(thin.table(sectors=8192))
    thin.verify(MIB, 3 * MIB, seed=5)
    thin.verify_blocks(2, 1, seed=1)


def test_snapshot_with_the_same_origin(rig, origin):
    pool = rig.pool()
    thin = pool.thin(0, sectors=8192, origin=origin)
    thin.fill_blocks(0, 2, seed=1)
    pool.snapshot(thin, 1)
    thin.fill_blocks(0, 4, seed=2)
    snap = pool.activate(1, sectors=8192, origin=origin)
    snap.verify_blocks(0, 2, seed=1)
    snap.verify_blocks(2, 60, seed=5)
    thin.verify_blocks(0, 4, seed=2)
    bare = pool.activate(1, sectors=8192)
    bare.verify_blocks(0, 2, seed=1)
    bare.zero_blocks(2, 10)


def test_thin_of_another_pool_as_origin(rig):
    below = rig.pool()
    base = below.thin(0, sectors=8192)
    base.fill(0, 2 * MIB, seed=5)
    pool = rig.pool()
    thin = pool.thin(0, sectors=8192, origin=base)
    thin.fill(0, 4 * KIB, seed=1)
    thin.verify(4 * KIB, 2 * MIB - 4 * KIB, seed=5)
    thin.verify_zero(2 * MIB, 2 * MIB)
    base.verify(0, 2 * MIB, seed=5)
    rig.stop(pool)


def sizes():
    """Sizes in KiB of origin and thin: each shorter, equal, longer; at block ends, in blocks, by a sector's breadth."""
    for origin in (4, 64, 68, 188, 192, 1000):
        for thin in (124, 192, 200, 1024):
            yield origin, thin


@pytest.mark.heavy
@pytest.mark.parametrize("bs", [128, 384])
@pytest.mark.parametrize("features", [[], ["skip_block_zeroing"]], ids=["zeroing", "skip"])
def test_every_relation_of_sizes(rig, bs, features):
    """The whole thin against what it should hold: untouched, then after small writes on both sides of each end."""
    disk = rig.disk(MIB)
    io.fill(disk.path, 0, MIB, seed=5)
    pool = rig.pool(bs=bs, features=features)
    for thin_id, (origin_kib, thin_kib) in enumerate(sizes()):
        origin = rig.device(f"0 {origin_kib * 2} linear {disk} 0")
        size, end = thin_kib * KIB, origin_kib * KIB
        thin = pool.thin(thin_id, sectors=thin_kib * 2, origin=origin)
        model = bytearray(size)
        model[: min(end, size)] = io.pattern(5, 0, min(end, size))

        def prove():
            assert thin.read(0, size) == model, f"origin of {origin_kib} KiB below a thin of {thin_kib}"

        prove()
        assert thin.status().text == "0 -"
        # A block has its tail beyond the end filled with zeros only if zeroing is on, or nobody wrote there.
        for at in (end - 4 * KIB, end - 512, size - 512):
            if 0 <= at < size and (at < end or not features):
                thin.write(at, io.pattern(7, at, 512))
                model[at : at + 512] = io.pattern(7, at, 512)
        known = len(model) if not features else min(end, size)
        assert thin.read(0, known) == model[:known], f"written: origin of {origin_kib} KiB, thin of {thin_kib}"
        thin.discard(0, size)
        thin.remove()
        pool.delete(thin_id)
        origin.remove()
    assert pool.status().used == 0


def test_growing_origin(rig):
    """Its size is looked at when the thin is resumed."""
    disk = rig.disk(4 * MIB)
    io.fill(disk.path, 0, 4 * MIB, seed=5)
    origin = rig.device(f"0 2088 linear {disk} 0")
    pool = rig.pool()
    thin = pool.thin(0, sectors=8192, origin=origin)
    end = 2088 * 512
    thin.verify(0, end, seed=5)
    thin.verify_zero(end, MIB)
    thin.write(end - 512, bytes(512))  # this block is the thin's from now on
    origin.reload(f"0 8192 linear {disk} 0")
    thin.cycle()
    thin.verify(MIB + 64 * KIB, 3 * MIB - 64 * KIB, seed=5)
    thin.verify_zero(end, MIB + 64 * KIB - end)
    thin.verify(MIB, end - 512 - MIB, seed=5)


def test_origin_given_to_a_thin_and_taken_away(rig, origin):
    pool = rig.pool()
    thin = pool.thin(0, sectors=8192)
    thin.fill_blocks(1, 1, seed=1)
    thin.zero_blocks(0, 1)
    thin.origin = origin
    thin.reload(thin.table())
    thin.verify_blocks(0, 1, seed=5)
    thin.verify_blocks(1, 1, seed=1)
    thin.fill(2 * pool.block, 4 * KIB, seed=2)
    thin.origin = None
    thin.reload(thin.table())
    thin.zero_blocks(0, 1)
    thin.verify_blocks(1, 1, seed=1)
    thin.verify(2 * pool.block, 4 * KIB, seed=2)
    thin.verify(2 * pool.block + 4 * KIB, 60 * KIB, seed=5)  # copied when it was written


def suspend_under_load(pool, thin):
    """Suspend and resume while the thin reads and copies from its origin."""
    jobs = [io.Job(io.fill, thin.path, 512, 2 * MIB, 1), io.Job(sweep, thin.path, 2 * MIB, 2 * MIB, 20)]
    for n in range(6):
        pool.cycle(noflush=bool(n % 2))
    for job in jobs:
        job.result()
    thin.verify(512, 2 * MIB, seed=1)
    thin.verify(0, 512, seed=5)
    thin.verify(2 * MIB + 512, 2 * MIB - 512, seed=5)


def sweep(path, offset, length, times):
    for _ in range(times):
        io._do_read(path, offset, length)


@pytest.mark.spared("origin-order")
def test_older_thin_of_the_same_pool_as_origin(rig):
    """A pool's suspend must not stop the origin before those that read from it."""
    pool = rig.pool()
    base = pool.thin(0, sectors=8192)
    base.fill(0, 4 * MIB, seed=5)
    copy = pool.thin(1, sectors=8192, origin=base)
    suspend_under_load(pool, copy)
    copy.remove()


@pytest.mark.spared("origin-order")
def test_chain_of_origins_in_one_pool(rig):
    """Whatever the order in which the tables were loaded."""
    pool = rig.pool()
    base = pool.thin(0, sectors=8192)
    base.fill(0, 4 * MIB, seed=5)
    middle = pool.thin(1, sectors=8192, origin=base)
    top = pool.thin(2, sectors=8192, origin=middle)
    middle.reload(middle.table())  # now the youngest table
    suspend_under_load(pool, top)
    base.reload(base.table())
    top.remove()
    middle.remove()
