"""What a new block holds beside the writes that it was made for."""

import errno

import pytest
from lib import io
from lib.thin import KIB, MIB

BLOCK_SIZES = [128, 384, 2048]
# Of one block: (offset, length) in KiB. They arrive together, in this order.
ARRIVALS = {
    "in a row": [(8, 4), (12, 4), (16, 8), (24, 4)],
    "from the first": [(0, 4), (4, 4), (8, 4)],
    "to the last": [(48, 8), (56, 8)],
    "the whole": [(4 * n, 4) for n in range(16)],
    "with gaps": [(4, 4), (16, 4), (40, 4)],
    "backwards": [(40, 4), (36, 4), (32, 4)],
    "one in another": [(8, 16), (12, 4)],
}


def together(thin, writes):
    """All are there when the first is looked at."""
    thin.suspend()
    jobs = [io.Job(io.write, thin.path, offset, data) for offset, data in writes]
    assert not any(job.done(0.02) for job in jobs)
    thin.resume()
    return jobs


def arrive(thin, at, pieces, below):
    """Let the pieces arrive at a block. below: what was there before."""
    jobs = together(thin, [(at + offset * KIB, io.pattern(1, at + offset * KIB, length * KIB)) for offset, length in pieces])
    for job in jobs:
        job.result()
    expected = bytearray(below)
    for offset, length in pieces:
        expected[offset * KIB : (offset + length) * KIB] = io.pattern(1, at + offset * KIB, length * KIB)
    assert thin.read(at, len(expected)) == bytes(expected)


@pytest.mark.parametrize("bs", BLOCK_SIZES)
def test_writes_to_a_hole(rig, bs):
    pool = rig.pool(size=16 * MIB, bs=bs)
    io.fill(pool.data.path, 0, 16 * MIB, seed=9)  # what lies on the disk must not shine through
    thin = pool.thin(0)
    for n, pieces in enumerate(ARRIVALS.values()):
        arrive(thin, (1 + 2 * n) * pool.block, pieces, bytes(pool.block))
        thin.zero_blocks(2 * n, 1)
    assert pool.status().used == len(ARRIVALS)


@pytest.mark.parametrize("bs", BLOCK_SIZES)
def test_writes_to_a_shared_block(rig, bs):
    pool = rig.pool(size=32 * MIB, bs=bs)
    thin = pool.thin(0)
    thin.fill_blocks(0, len(ARRIVALS), seed=2)
    pool.snapshot(thin, 1)
    for n, pieces in enumerate(ARRIVALS.values()):
        arrive(thin, n * pool.block, pieces, io.pattern(2, n * pool.block, pool.block))
    pool.activate(1).verify_blocks(0, len(ARRIVALS), seed=2)
    assert pool.status().used == 2 * len(ARRIVALS)


@pytest.mark.improvement("B28")
def test_writes_over_the_end_of_an_origin(rig):
    origin = rig.disk(MIB + 20 * KIB)
    io.fill(origin.path, 0, MIB + 20 * KIB, seed=3)
    pool = rig.pool(size=16 * MIB, features=["skip_block_zeroing"])
    io.fill(pool.data.path, 0, 16 * MIB, seed=9)
    for n, pieces in enumerate(ARRIVALS.values()):
        thin = pool.thin(n, sectors=8192, origin=origin)
        arrive(thin, MIB, pieces, io.pattern(3, MIB, 20 * KIB) + bytes(44 * KIB))
        arrive(thin, 0, pieces, io.pattern(3, 0, 64 * KIB))


@pytest.mark.improvement("B6")
def test_zeroes_that_cannot_be_written(rig):
    """No mapping without them: what was written is lost with the block, and said so."""
    data = rig.switch(16 * MIB)
    pool = rig.pool(size=16 * MIB, data=data)
    thin = pool.thin(0)
    thin.fill_blocks(0, 8, seed=1)
    data.spoil(8 * pool.block, 16 * MIB - 9 * pool.block)
    before = pool.status().used
    assert io.error_of(thin.fill, 20 * pool.block, 4 * KIB, 2) == errno.EIO
    assert (before, pool.status().used) == (8, 8)
    thin.zero_blocks(20, 1)
    data.good()
    thin.fill(20 * pool.block, 4 * KIB, 2)
    thin.verify(20 * pool.block, 4 * KIB, 2)
    thin.verify_zero(20 * pool.block + 4 * KIB, 60 * KIB)
    thin.verify_blocks(0, 8, seed=1)


@pytest.mark.improvement("B6")
@pytest.mark.parametrize("spoilt", [0, 4 * KIB, 60 * KIB], ids=["head", "middle", "tail"])
def test_copy_that_cannot_be_read(rig, spoilt):
    data = rig.switch(16 * MIB)
    pool = rig.pool(size=16 * MIB, data=data)
    thin = pool.thin(0)
    thin.fill_blocks(0, 8, seed=1)
    pool.snapshot(thin, 1)
    data.spoil(3 * pool.block + spoilt, 4 * KIB)
    assert io.error_of(thin.fill, 3 * pool.block + 32 * KIB, 4 * KIB, 2) == errno.EIO
    assert pool.status().used == 8
    # Elsewhere all goes on.
    thin.fill(4 * pool.block + 32 * KIB, 4 * KIB, 2)
    data.good()
    thin.verify_blocks(0, 4, seed=1)
    thin.fill(3 * pool.block + 32 * KIB, 4 * KIB, 2)
    thin.verify(3 * pool.block + 32 * KIB, 4 * KIB, 2)
    thin.verify(3 * pool.block, 32 * KIB, 1)
    pool.activate(1).verify_blocks(0, 8, seed=1)


def test_write_beside_one_that_fails(rig):
    """Who only waited for the same block starts again, and finds another."""
    data = rig.switch(16 * MIB)
    pool = rig.pool(size=16 * MIB, data=data, features=["skip_block_zeroing"])
    thin = pool.thin(0)
    thin.fill_blocks(0, 8, seed=1)
    at = 20 * pool.block
    # Only the next block is bad, and only where the first of both writes goes.
    data.spoil(8 * pool.block, 4 * KIB)
    jobs = together(thin, [(at, io.pattern(2, at, 4 * KIB)), (at + 32 * KIB, io.pattern(2, at + 32 * KIB, 4 * KIB))])
    assert [job.errno() for job in jobs] == [errno.EIO, None]
    thin.verify(at + 32 * KIB, 4 * KIB, 2)
    assert pool.status().used == 9


def test_little_at_a_time(rig):
    """A throttle slows copies and zeroes down, and changes nothing else."""
    pool = rig.pool(size=16 * MIB)
    io.fill(pool.data.path, 0, 16 * MIB, seed=9)
    rig.parameter("snapshot_copy_throttle", 10)
    thin = pool.thin(0)
    arrive(thin, 0, [(8, 4), (40, 8)], bytes(pool.block))
    pool.snapshot(thin, 1)
    before = thin.read(0, pool.block)
    arrive(thin, 0, [(16, 4)], before)
    assert pool.activate(1).read(0, pool.block) == before
