"""The largest block there is, 1 GiB.

Zeroing and copying such a block takes its size in memory on the usual disks. So most tests use a data device
that keeps the first and the last MiB of every GiB only; what lies between reads as zeros.
"""

import pytest
from lib import io
from lib.thin import GIB, KIB, MIB

BS = 2097152


def hollow(rig, blocks):
    """A data device of so many GiB that keeps both ends of each."""
    disk = rig.disk(blocks * 2 * MIB)
    lines = []
    for n in range(blocks):
        start = n * BS
        lines.append(f"{start} 2048 linear {disk} {n * 4096}")
        lines.append(f"{start + 2048} {BS - 4096} zero")
        lines.append(f"{start + BS - 2048} 2048 linear {disk} {n * 4096 + 2048}")
    return rig.device("\n".join(lines))


def ends(thin, block, seed):
    """Write both ends of a block."""
    thin.fill(block * GIB, MIB, seed)
    thin.fill((block + 1) * GIB - MIB, MIB, seed)


def prove_ends(thin, block, seed):
    thin.verify(block * GIB, MIB, seed)
    thin.verify((block + 1) * GIB - MIB, MIB, seed)


def test_write_snapshot_copy_discard(rig):
    data = hollow(rig, 4)
    for n in range(4):
        io.fill(data.path, n * GIB, MIB, seed=9)  # stale: must be zeroed
        io.fill(data.path, (n + 1) * GIB - MIB, MIB, seed=9)
    pool = rig.pool(size=4 * GIB, data=data, bs=BS)
    assert pool.status().total == 4
    thin = pool.thin(0)
    thin.fill(GIB + 8 * KIB, 4 * KIB, seed=1)
    assert thin.status().text == f"{BS} {2 * BS - 1}"
    thin.verify_zero(GIB, 8 * KIB)
    thin.verify(GIB + 8 * KIB, 4 * KIB, seed=1)
    thin.verify_zero(GIB + 12 * KIB, MIB - 12 * KIB)
    thin.verify_zero(2 * GIB - MIB, MIB)
    thin.verify_zero(3 * GIB, 64 * KIB)
    assert pool.status().used == 1

    ends(thin, 1, seed=2)
    pool.snapshot(thin, 1)
    assert pool.status().used == 1
    thin.fill(2 * GIB - 64 * KIB, 4 * KIB, seed=3)
    assert pool.status().used == 2
    snap = pool.activate(1)
    prove_ends(snap, 1, seed=2)
    thin.verify(GIB, MIB, seed=2)
    thin.verify(2 * GIB - MIB, MIB - 64 * KIB, seed=2)
    thin.verify(2 * GIB - 64 * KIB, 4 * KIB, seed=3)
    thin.verify(2 * GIB - 60 * KIB, 60 * KIB, seed=2)

    # Less than a block is left alone.
    thin.discard(GIB, 512 * MIB)
    thin.verify(GIB, MIB, seed=2)
    thin.discard(GIB, GIB)
    thin.verify_zero(GIB, MIB)
    thin.verify_zero(2 * GIB - MIB, MIB)
    assert thin.status().text == "0 -"
    assert pool.status().used == 1
    prove_ends(snap, 1, seed=2)
    ends(thin, 3, seed=4)
    rig.restart(pool)
    prove_ends(pool.activate(0), 3, seed=4)
    prove_ends(pool.activate(1), 1, seed=2)


def test_request_across_two_blocks(rig):
    pool = rig.pool(size=4 * GIB, data=hollow(rig, 4), bs=BS, features=["skip_block_zeroing"])
    thin = pool.thin(0)
    thin.fill(GIB - 512 * KIB, MIB, seed=1)
    thin.verify(GIB - 512 * KIB, MIB, seed=1)
    assert thin.status().text == f"{2 * BS} {2 * BS - 1}"


def test_sparse_disk(rig):
    """Only what is written occupies the disk below, and a discard gives it back."""
    pool = rig.pool(size=8 * GIB, bs=BS, features=["skip_block_zeroing"])
    thin = pool.thin(0)
    ends(thin, 0, seed=1)
    ends(thin, 7, seed=2)
    assert pool.status().used == 2
    thin.flush()
    assert pool.data.used_bytes() >= 4 * MIB
    thin.discard(0, GIB)
    assert pool.status().used == 1
    pool.cycle()
    assert pool.data.used_bytes() <= 2 * MIB + 64 * KIB
    thin.verify_zero(0, MIB)
    prove_ends(thin, 7, seed=2)


def test_full_pool_of_huge_blocks(rig):
    rig.parameter("no_space_timeout", 0)
    data = hollow(rig, 2)
    pool = rig.pool(size=GIB, data=data, bs=BS, features=["skip_block_zeroing"])
    thin = pool.thin(0, sectors=4 * BS)
    ends(thin, 0, seed=1)
    job = io.Job(io.fill, thin.path, 3 * GIB, 4 * KIB, 2)
    assert not job.done(0.5)
    pool.change(sectors=2 * BS)
    job.result()
    thin.verify(3 * GIB, 4 * KIB, seed=2)
    prove_ends(thin, 0, seed=1)


@pytest.mark.parametrize("bs", [2097152 - 128, 1048576 + 128], ids=str)
def test_huge_and_no_power_of_two(rig, bs):
    pool = rig.pool(size=8 * GIB, bs=bs, features=["skip_block_zeroing"])
    thin = pool.thin(0, sectors=1 << 26)  # 32 GiB
    for n, block in enumerate((0, 13, 27)):
        thin.fill(block * pool.block, 64 * KIB, seed=n)
        thin.fill((block + 1) * pool.block - 64 * KIB, 64 * KIB, seed=n)
    assert thin.status().text == f"{3 * bs} {28 * bs - 1}"
    # The block layer cuts a discard in odd places if its granularity is no power of two.
    thin.discard(12 * pool.block, 3 * pool.block)
    assert pool.status().used == 2
    for n, block in ((0, 0), (2, 27)):
        thin.verify(block * pool.block, 64 * KIB, seed=n)
        thin.verify((block + 1) * pool.block - 64 * KIB, 64 * KIB, seed=n)
    thin.verify_zero(13 * pool.block, 64 * KIB)
