"""Discards: which blocks go, what reads back, what reaches the data device."""

import errno

import pytest
from lib import io
from lib.proc import wait_for
from lib.thin import KIB, MIB


@pytest.mark.parametrize(
    "offset, length, gone",
    [
        (0, 64 * KIB, {0}),
        (0, 63 * KIB, set()),
        (4 * KIB, 64 * KIB, set()),
        (4 * KIB, 124 * KIB, {1}),
        (64 * KIB, 128 * KIB, {1, 2}),
        (60 * KIB, 200 * KIB, {1, 2, 3}),
        (0, 512 * KIB, set(range(8))),
        (0, 2 * MIB, set(range(8))),
        (8 * 64 * KIB, 2 * MIB, set()),
    ],
)
def test_whole_blocks_inside_go(rig, offset, length, gone):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 8, seed=1)
    thin.discard(offset, length)
    assert thin.status().mapped == (8 - len(gone)) * 128
    for block in range(8):
        if block in gone:
            thin.zero_blocks(block, 1)
        else:
            thin.verify_blocks(block, 1, seed=1)
    assert pool.status().used == 8 - len(gone)


@pytest.mark.parametrize("features", [[], ["no_discard_passdown"]], ids=["passdown", "no-passdown"])
def test_passdown(rig, features):
    pool = rig.pool(features=features)
    thin = pool.thin(0)
    thin.fill_blocks(0, 64, seed=1)
    before = pool.data.used_bytes()
    thin.discard_blocks(0, 64)
    assert pool.status().used == 0
    if features:
        assert pool.data.used_bytes() == before
    else:
        # When it goes down is the module's affair: before or after the commit that freed the blocks.
        wait_for(lambda: pool.data.used_bytes() == 0, "the data device gets the discard")


def test_shared_blocks_are_not_passed_down(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 32, seed=1)
    pool.snapshot(thin, 1)
    thin.fill_blocks(0, 8, seed=2)
    thin.discard_blocks(0, 32)
    pool.status()
    wait_for(lambda: pool.data.used_bytes() == 2 * MIB, "the data device gets the discard of what was not shared")
    snap = pool.activate(1)
    snap.verify_blocks(0, 32, seed=1)
    thin.zero_blocks(0, 32)
    snap.discard_blocks(0, 32)
    assert pool.status().used == 0
    wait_for(lambda: pool.data.used_bytes() == 0, "the data device gets the discard of the rest")


def test_data_device_that_fails_discards(rig):
    """The blocks are free all the same."""
    pool = rig.pool(data=rig.switch(64 * MIB))
    thin = pool.thin(0)
    thin.fill_blocks(0, 32, seed=1)
    pool.status()
    pool.data.spoil(0, 64 * MIB - 64 * KIB)
    thin.discard_blocks(0, 16)
    assert pool.status().used == 16
    pool.cycle()
    status = pool.status()
    assert (status.used, status.mode) == (16, "rw")
    pool.data.good()
    thin.zero_blocks(0, 16)
    thin.verify_blocks(16, 16, seed=1)
    thin.fill_blocks(0, 16, seed=2)
    thin.verify_blocks(0, 16, seed=2)


def test_ignore_discard(rig):
    pool = rig.pool(features=["ignore_discard"])
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    assert io.error_of(thin.discard_blocks, 0, 4) == errno.EOPNOTSUPP
    assert thin.attribute("discard_max_bytes") == 0
    thin.verify_blocks(0, 4, seed=1)


def test_holes_and_far_ranges(rig):
    pool = rig.pool()
    thin = pool.thin(0, sectors=1 << 26)  # 32 GiB
    thin.discard(0, 32 << 30)
    assert thin.status().text == "0 -"
    for block in (0, 1023, 1024, 5000, (1 << 19) - 1):
        thin.fill_blocks(block, 1, seed=1)
    thin.discard_blocks(1023, 2)
    assert thin.status().mapped == 3 * 128
    thin.discard(0, 32 << 30)
    assert thin.status().text == "0 -"
    assert pool.status().used == 0


def test_scattered_blocks(rig):
    """Mapped out of order, so a range on the thin is many on the data device."""
    pool = rig.pool()
    thin = pool.thin(0)
    order = [(n * 37) % 128 for n in range(128)]
    for block in order:
        thin.fill_blocks(block, 1, seed=1)
    thin.discard_blocks(10, 100)
    assert pool.status().used == 28
    thin.verify_blocks(0, 10, seed=1)
    thin.zero_blocks(10, 100)
    thin.verify_blocks(110, 18, seed=1)


def test_write_after_discard_reads_back(rig):
    pool = rig.pool(size=2 * MIB)
    thin = pool.thin(0)
    for seed in range(6):
        thin.fill(0, 2 * MIB, seed=seed)
        thin.verify(0, 2 * MIB, seed=seed)
        thin.discard(0, 2 * MIB)
        thin.verify_zero(0, 2 * MIB)
        assert pool.status().used == 0


def test_discards_among_writes(rig):
    """Neighbours of a range being discarded are written meanwhile and stay whole."""
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill(0, 16 * MIB, seed=1)
    for n in range(8):
        at = n * 2 * MIB
        jobs = [
            io.Job(io.discard, thin.path, at, MIB),
            io.Job(io.fill, thin.path, at + MIB, MIB, 2),
        ]
        for job in jobs:
            job.result()
    for n in range(8):
        thin.verify_zero(n * 2 * MIB, MIB)
        thin.verify(n * 2 * MIB + MIB, MIB, seed=2)
    assert pool.status().used == 128


def test_discard_survives_reopening(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 16, seed=1)
    thin.discard_blocks(4, 8)
    rig.restart(pool)
    thin = pool.activate(0)
    thin.verify_blocks(0, 4, seed=1)
    thin.zero_blocks(4, 8)
    thin.verify_blocks(12, 4, seed=1)
    assert pool.status().used == 8
