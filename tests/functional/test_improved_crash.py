"""What a crash at a bad moment leaves, where the kernel's own module leaks or loses blocks.

A crash is a copy of the disks at one moment, with all that was written by then.
"""

import pytest
from lib import io, metadata
from lib.proc import wait_for
from lib.thin import KIB, MIB


def pool_that_can_wait(rig):
    pool = rig.pool(data=rig.switch(64 * MIB))
    return pool, pool.thin(0)


@pytest.mark.improvement("B3")
def test_crash_before_the_end_of_a_passdown(rig):
    pool, thin = pool_that_can_wait(rig)
    thin.fill_blocks(0, 40, seed=1)
    pool.status()
    pool.data.hold(writes=True)
    job = io.Job(io.discard, thin.path, 0, 32 * pool.block)
    wait_for(lambda: thin.status().mapped == 8 * 128, "the discard has unmapped its blocks")
    wait_for(lambda: pool.status() and pool.data.held()[1], "a discard is at the data device")
    pool.status()
    crashed = rig.copy_of(pool.meta)
    pool.data.good()
    job.result()
    metadata.check(crashed)
    assert metadata.Superblock(crashed).data_used == len(metadata.mappings(crashed)[0]) == 8


@pytest.mark.improvement("leak-on-crash")
@pytest.mark.parametrize("what", ["zero", "copy", "overwrite"])
def test_crash_before_a_new_block_is_mapped(rig, what):
    """A commit of others meanwhile."""
    pool, thin = pool_that_can_wait(rig)
    thin.fill_blocks(0, 4, seed=1)
    if what == "copy":
        pool.snapshot(thin, 1)
    pool.status()
    pool.data.hold(writes=True)
    length = pool.block if what == "overwrite" else 4 * KIB
    job = io.Job(io.fill, thin.path, 0 if what == "copy" else 8 * pool.block, length, 2)
    wait_for(lambda: pool.data.held()[1], "a write is at the data device")
    pool.create_thin(5)
    crashed = rig.copy_of(pool.meta)
    pool.data.good()
    job.result()
    assert set(metadata.mappings(crashed)) == ({0, 1, 5} if what == "copy" else {0, 5})
    metadata.check(crashed)


@pytest.mark.improvement("B33")
def test_crash_after_a_discard_of_what_was_shared(rig):
    """Thin 0 has left a block that it shared, without a commit, when its snapshot drops the block.

    Three times, since a commit between the two happens to help.
    """
    pool = rig.pool()
    thin = pool.thin(0)
    for n in range(1, 4):
        thin.fill_blocks(0, 8, seed=n)
        thin.flush()
        pool.snapshot(thin, n)
        snap = pool.activate(n)
        thin.fill_blocks(0, 8, seed=100 + n)
        snap.discard_blocks(0, 8)
        # In this order: a commit between the two copies adds blocks that are in the first one.
        data, meta = rig.copy_of(pool.data), rig.copy_of(pool.meta)
        again = rig.pool(meta=meta, data=data)
        survived = again.activate(0)
        for block in range(8):
            at, length = block * pool.block, pool.block
            kept = survived.read(at, length) in [io.pattern(seed, at, length) for seed in (n, 100 + n)]
            assert kept, f"block {block} is lost"
        rig.stop(again)
