"""Where the kernel's own module is wrong about space: what is free, what is left, and who is told."""

import errno

import pytest
from lib import io, metadata
from lib.dm import error_of
from lib.proc import wait_for
from lib.thin import KIB, MIB
from test_modes import MAPPED, exhaust_metadata

BLOCK = 64 * KIB
# Sectors of more blocks than 2 MiB of metadata can count.
TOO_MANY = (1 << 40) // 512


def full_pool(rig, features, data=2 * MIB):
    """32 blocks, all of them used by thin 0, which is twice as large, and committed."""
    pool = rig.pool(size=2 * MIB, data=data, features=features)
    thin = pool.thin(0, sectors=8192)
    thin.fill_blocks(0, 32, seed=1)
    assert pool.status().used == 32
    return pool, thin


# -- freed data blocks -------------------------------------------------------------------


@pytest.mark.improvement("B1")
def test_space_that_a_slow_passdown_frees_is_noticed(rig):
    """Nobody asks for a commit after the discard of the data device has ended."""
    pool, thin = full_pool(rig, ["error_if_no_space"], data=rig.switch(2 * MIB))
    assert io.error_of(thin.fill_blocks, 32, 1, 2) == errno.ENOSPC
    pool.data.hold(writes=True)
    job = io.Job(io.discard, thin.path, 0, 8 * BLOCK)
    wait_for(lambda: thin.status().mapped == 24 * 128, "the discard has unmapped its blocks")
    wait_for(lambda: pool.status() and pool.data.held()[1], "a discard is at the data device")
    pool.status()
    pool.data.good()
    job.result()
    wait_for(lambda: pool.status(noflush=True).mode == "rw", "the pool notices its free blocks", timeout=30)
    thin.fill_blocks(32, 8, seed=2)


@pytest.mark.improvement("B15")
@pytest.mark.parametrize("features", [[], ["no_discard_passdown"]], ids=["passdown", "no-passdown"])
def test_blocks_just_freed_count_as_space(rig, features):
    """Ten times, since a commit between the two happens to help."""
    pool, thin = full_pool(rig, ["error_if_no_space", *features])
    for n in range(10):
        thin.discard_blocks(32 if n % 2 else 0, 4)
        thin.fill_blocks(0 if n % 2 else 32, 4, seed=n)
    thin.verify_blocks(0, 4, seed=9)
    thin.verify_blocks(4, 28, seed=1)
    assert (pool.events, pool.status().mode) == (0, "rw")


# -- metadata space ----------------------------------------------------------------------


def restored(rig, mapped, meta, spare=100):
    """A pool of so much metadata, with thin 0 of so many blocks."""
    meta = rig.disk(meta)
    metadata.restore(
        meta,
        f'<superblock uuid="" time="0" transaction="0" data_block_size="128" nr_data_blocks="{mapped + spare}">\n'
        f'<device dev_id="0" mapped_blocks="{mapped}" transaction="0" creation_time="0" snap_time="0">\n'
        f'<range_mapping origin_begin="0" data_begin="0" length="{mapped}" time="0"/>\n'
        "</device>\n</superblock>\n",
    )
    return rig.pool(size=(mapped + spare) * BLOCK, meta=meta)


@pytest.mark.improvement("grow-unrecorded")
def test_data_that_metadata_cannot_count_waits_for_it(rig):
    pool = rig.pool(meta=2 * MIB)
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    pool.data.grow(TOO_MANY)
    pool.change(sectors=TOO_MANY)
    status = pool.status()
    assert (status.mode, status.needs_check, status.total) == ("rw", False, 1024)
    thin.fill_blocks(4, 4, seed=1)
    rig.restart(pool)
    pool.meta.grow(32768)
    pool.cycle()
    assert pool.status().total == TOO_MANY // 128
    thin = pool.activate(0)
    thin.fill_blocks(8, 4, seed=1)
    thin.verify_blocks(0, 12, seed=1)


@pytest.mark.improvement("grow-unrecorded")
def test_data_grows_when_no_metadata_is_left_at_all(rig):
    pool, thin = exhaust_metadata(rig)
    pool.data.grow(TOO_MANY)
    pool.change(sectors=TOO_MANY)
    status = pool.status()
    assert (status.needs_check, status.total) == (False, MAPPED + 100)
    thin.verify_blocks(7, 2, seed=1)
    rig.restart(pool)
    assert pool.status().total == MAPPED + 100
    pool.meta.grow(32768)
    pool.cycle()
    status = pool.status()
    assert (status.mode, status.needs_check, status.total) == ("rw", False, TOO_MANY // 128)


@pytest.mark.improvement("grow-unrecorded")
def test_new_pool_that_metadata_cannot_count(rig):
    pool = rig.pool(meta=2 * MIB, start=False)
    pool.data.grow(TOO_MANY)
    pool.sectors = TOO_MANY
    assert error_of(pool.start) == errno.ENOSPC
    pool.meta.grow(32768)
    pool.start()
    status = pool.status()
    assert (status.mode, status.total) == ("rw", TOO_MANY // 128)


@pytest.mark.improvement("B9")
@pytest.mark.heavy
def test_large_metadata_warns_before_it_is_full(rig):
    """11264 blocks: what is kept in reserve is more than the low water mark."""
    pool = restored(rig, mapped=2474000, meta=44 * MIB)
    events = []
    for thin_id in range(1, 300):
        refused = error_of(pool.create_thin, thin_id)
        events.append(pool.events)
        if refused is not None:
            break
    assert (refused, pool.status().mode) == (errno.EOPNOTSUPP, "ro")
    assert list(dict.fromkeys(events)) == [1, 2]  # low water, then the mode


@pytest.mark.improvement("B9")
def test_metadata_low_water_is_told_once(rig):
    """Messages whose transactions make the free space swing around the mark, wherever that lies."""
    pool = restored(rig, mapped=158000, meta=4 * MIB)
    for thin_id in range(1, 180):
        pool.create_thin(thin_id)
    assert (pool.events, pool.status().mode) == (1, "rw")


# -- what the metadata says of itself ----------------------------------------------------


@pytest.fixture
def unused(rig):
    """The inactive pool of 32 blocks, 20 of them used by thin 0."""
    pool = rig.pool(size=2 * MIB)
    thin = pool.thin(0, sectors=8192)
    thin.fill_blocks(0, 20, seed=1)
    thin.remove()
    pool.remove()
    return pool


def fill_the_rest(rig, pool):
    pool.start()
    thin = pool.activate(0, sectors=8192)
    rig.parameter("no_space_timeout", 1)
    thin.fill_blocks(20, 12, seed=1)
    assert pool.status().mode == "rw"
    assert io.error_of(thin.fill_blocks, 32, 1, 1) == errno.ENOSPC
    assert pool.status().used == 32
    thin.verify_blocks(0, 32, seed=1)


@pytest.mark.improvement("hints")
@pytest.mark.parametrize("nr_free, none_free_before", [(0, 20), (16300, 16320), (0, 16320)])
def test_wrong_hints_of_the_data_map(rig, unused, nr_free, none_free_before):
    metadata.FirstBitmap(unused.meta, of_data=True).set_hints(nr_free, none_free_before)
    fill_the_rest(rig, unused)


@pytest.mark.improvement("hints")
@pytest.mark.parametrize("nr_free, none_free_before", [(0, 20), (16000, 16320), (0, 16320)])
def test_wrong_hints_of_the_metadata_map(rig, unused, nr_free, none_free_before):
    metadata.FirstBitmap(unused.meta, of_data=False).set_hints(nr_free, none_free_before)
    fill_the_rest(rig, unused)


@pytest.mark.improvement("B31")
def test_metadata_that_finds_no_block_is_not_full_data(rig, unused):
    """Whatever the metadata's allocator says, 12 data blocks are free."""
    metadata.FirstBitmap(unused.meta, of_data=False).set_hints(0, 16320)
    unused.features = ("error_if_no_space",)
    unused.start()
    failed = io.error_of(unused.activate(0).fill_blocks, 20, 1, 1)
    assert (unused.status(noflush=True).mode, unused.events) == ("rw", 0)
    assert failed is None


def test_tiny_metadata_is_full_before_the_data(rig):
    pool = rig.pool(size=1024 * MIB, meta=16 * metadata.BLOCK, features=["error_if_no_space"])
    pool.create_thin(0)
    thin = pool.activate(0)
    failed = None
    for n in range(4000):
        failed = io.error_of(thin.write, n * 37 % 4000 * BLOCK, bytes(BLOCK))
        if failed:
            break
    assert (failed, pool.status().mode) == (errno.EIO, "ro")
    pool.expect_needs_check = pool.status().needs_check


@pytest.mark.improvement("hints")
def test_wrong_number_of_used_blocks(rig, unused):
    metadata.patch_superblock(unused.meta, {64 + 8: (3).to_bytes(8, "little")})
    fill_the_rest(rig, unused)


@pytest.mark.improvement("hints")
def test_leak_that_thin_check_repaired(rig, unused):
    """It frees the block, but leaves the hint that the search should begin behind it."""
    bitmap = metadata.FirstBitmap(unused.meta, of_data=True)
    bitmap.set_count_to_one(20)
    bitmap.set_hints(16299, 21)
    metadata.patch_superblock(unused.meta, {64 + 8: (21).to_bytes(8, "little")})
    metadata.repair(unused.meta)
    fill_the_rest(rig, unused)


@pytest.mark.improvement("B20")
def test_the_snapshot_clock_ends(rig, unused):
    """It has 24 bits in a mapping; behind them come those of the data block."""
    metadata.patch_superblock(unused.meta, {44: (0xFFFFFF).to_bytes(4, "little")})
    unused.start()
    thin = unused.activate(0)
    assert error_of(unused.create_snap, 1, 0) == errno.EOVERFLOW
    unused.create_thin(2)
    thin.fill_blocks(20, 4, seed=1)
    rig.restart(unused)
    thin = unused.activate(0)
    thin.verify_blocks(0, 24, seed=1)
    status = unused.status()
    assert (status.mode, status.used) == ("rw", 24)
