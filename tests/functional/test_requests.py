"""Requests that the stock module does not take: zeroes without data, and I/O that must not wait."""

import errno
import mmap
import os

import pytest
from lib import io, proc
from lib.proc import Failed, wait_for
from lib.thin import MIB


def punch(thin, offset, length):
    """Zeroes, and the device may forget what was there."""
    proc.run("fallocate", "--punch-hole", "--offset", offset, "--length", length, thin.path)


@pytest.mark.improvement("zeroes")
def test_zeroes_unmap_whole_blocks(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 40, seed=1)
    pool.snapshot(thin, 1)
    snap = pool.activate(1)
    punch(thin, 4096, 20 * pool.block)
    thin.verify(0, 4096, seed=1)
    thin.verify_zero(4096, 20 * pool.block)
    thin.verify(4096 + 20 * pool.block, 20 * pool.block - 4096, seed=1)
    assert thin.status().mapped * 512 == 21 * pool.block
    snap.verify_blocks(0, 40, seed=1)
    thin.write(2 * pool.block + 8192, b"x" * 4096)
    thin.verify_zero(2 * pool.block, 8192)
    thin.verify_zero(2 * pool.block + 12288, pool.block - 12288)


@pytest.mark.improvement("zeroes")
def test_zeroes_over_holes_take_no_space(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(3, 1, seed=1)
    punch(thin, 5 * pool.block + 4096, 30 * pool.block)
    assert pool.status().used == 1
    punch(thin, 0, 10 * pool.block)
    assert thin.status().mapped == 0
    thin.zero_blocks(0, 40)


@pytest.mark.improvement("zeroes")
def test_zeroes_stay_mapped_where_new_blocks_are_not_zeroed(rig):
    pool = rig.pool(features=["skip_block_zeroing"])
    io.fill(pool.data.path, 0, 64 * MIB, 9)
    thin = pool.thin(0)
    thin.fill_blocks(2, 2, seed=1)
    punch(thin, 0, 8 * pool.block)
    assert pool.status().used == 8
    thin.zero_blocks(0, 8)
    thin.write(3 * pool.block, b"x" * 4096)
    thin.verify_zero(3 * pool.block + 4096, pool.block - 4096)


@pytest.mark.improvement("zeroes")
def test_pool_that_stops_zeroing_says_what_that_means(rig, log):
    pool = rig.pool()
    warnings = []
    for features in ((), ("skip_block_zeroing",), ("skip_block_zeroing",), ()):
        pool.reload(pool.table(features=features))
        warnings.append(sum("not zeroed any more" in line for line in log.read()))
    assert warnings == [0, 1, 1, 1]


@pytest.mark.improvement("zeroes")
def test_zeroes_hide_the_external_origin(rig):
    origin = rig.disk(8 * MIB)
    io.fill(origin.path, 0, 8 * MIB, 5)
    pool = rig.pool()
    thin = pool.thin(0, sectors=32768, origin=origin)
    punch(thin, pool.block // 2, 4 * pool.block)
    thin.verify(0, pool.block // 2, seed=5)
    thin.verify_zero(pool.block // 2, 4 * pool.block)
    thin.verify(pool.block // 2 + 4 * pool.block, pool.block, seed=5)


@pytest.mark.parametrize("features", [(), ("skip_block_zeroing",)])
def test_zeroes_that_keep_their_blocks(rig, features):
    """A disk image that must not run out of space later."""
    pool = rig.pool(features=features)
    io.fill(pool.data.path, 0, 64 * MIB, 9)
    thin = pool.thin(0)
    thin.fill_blocks(1, 1, seed=1)
    pool.snapshot(thin, 1)
    snap = pool.activate(1)
    io.zeroout(thin.path, 0, 4 * pool.block)
    thin.zero_blocks(0, 4)
    assert thin.status().mapped * 512 == 4 * pool.block
    snap.verify_blocks(1, 1, seed=1)


@pytest.mark.improvement("zeroes")
def test_zeroes_fail_where_nothing_can_be_unmapped(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    punch(thin, pool.block, pool.block)
    pool.change(features=["read_only"])
    with pytest.raises(Failed):
        punch(thin, 0, 4 * pool.block)
    thin.verify_blocks(0, 1, seed=1)


def _nowait(path, offset, data):
    """errno of a 4 KiB transfer that must not wait, or None."""
    buffer = mmap.mmap(-1, 4096)
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        if data is None:
            os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
        else:
            buffer[:] = data
            os.pwritev(fd, [buffer], offset, os.RWF_NOWAIT)
    except OSError as error:
        return error.errno
    finally:
        os.close(fd)
    return None


@pytest.mark.improvement("nowait")
def test_requests_that_must_not_wait(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    # Nothing is reserved for its first writes yet.
    assert io.Job(_nowait, thin.path, 0, b"x" * 4096).result() == errno.EAGAIN
    assert pool.status().used == 0
    thin.fill_blocks(0, 1, seed=1)
    assert io.Job(_nowait, thin.path, 0, None).result() is None
    assert io.Job(_nowait, thin.path, 0, b"y" * 4096).result() is None
    assert thin.read(0, 4096) == b"y" * 4096
    thin.zero_blocks(1, 1)
    assert pool.status().used == 1


@pytest.mark.improvement("nowait")
def test_first_writes_and_copies_that_must_not_wait(rig):
    """Once blocks are reserved a new one is no reason to wait; the rest of it is as with any other write."""
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 1, seed=1)
    wait_for(lambda: io.Job(_nowait, thin.path, 5 * pool.block, b"y" * 4096).result() is None, "a reserved block")
    assert pool.status().used == 2
    assert thin.read(5 * pool.block, 4096) == b"y" * 4096
    thin.zero_blocks(1, 4)
    assert thin.read(5 * pool.block + 4096, pool.block - 4096) == bytes(pool.block - 4096)
    pool.snapshot(thin, 1)
    snap = pool.activate(1)
    # Which blocks are shared is known when the first of them has been copied.
    thin.write(5 * pool.block, b"w" * 4096)
    wait_for(lambda: io.Job(_nowait, thin.path, 0, b"z" * 4096).result() is None, "a reserved block for a copy")
    assert pool.status().used == 4
    assert thin.read(0, 4096) == b"z" * 4096
    assert thin.read(4096, pool.block - 4096) == io.pattern(1, 0, pool.block)[4096:]
    snap.verify_blocks(0, 1, seed=1)


@pytest.mark.parametrize("bs", [128, 384, 2048])
def test_large_requests_over_scattered_blocks(rig, bs):
    """Runs that are contiguous in the pool, runs that are not, holes and shared blocks in one request."""
    pool = rig.pool(size=128 * MIB, bs=bs)
    thin = pool.thin(0, sectors=65536)
    blocks = 32 * MIB // pool.block
    for block in range(0, blocks, 3):
        thin.fill_blocks(block, 1, seed=1)
    for block in range(blocks - 1, 0, -5):
        thin.fill_blocks(block, 1, seed=1)
    pool.snapshot(thin, 1)
    for block in range(0, blocks, 7):
        thin.fill_blocks(block, 1, seed=1)
    there = {b for b in range(blocks) if b % 3 == 0 or (blocks - 1 - b) % 5 == 0 or b % 7 == 0}
    whole = b"".join(
        io.pattern(1, block * pool.block, pool.block) if block in there else bytes(pool.block) for block in range(blocks)
    )
    for at in range(0, len(whole), 4 * MIB):
        length = min(4 * MIB, len(whole) - at)
        assert thin.read(at, length) == whole[at : at + length]
    thin.fill(0, 32 * MIB, seed=2)
    thin.verify(0, 32 * MIB, seed=2)
