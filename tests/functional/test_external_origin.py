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
