"""The shortest list of what user space relies on, one test a line of it."""

import errno

import pytest
from lib import io, metadata
from lib.dm import error_of
from lib.proc import wait_for
from lib.thin import KIB, MIB


def test_fresh_pool_status(rig):
    pool = rig.pool(size=64 * MIB, bs=128, meta=4 * MIB)
    assert pool.status_line() == "0 131072 thin-pool 0 111/1024 0/1024 - rw discard_passdown queue_if_no_space - 256 "


def test_create_thin_twice(rig):
    pool = rig.pool()
    assert error_of(pool.create_thin, 0) is None
    assert error_of(pool.create_thin, 0) == errno.EEXIST


def test_create_snap_of_missing_origin(rig):
    pool = rig.pool()
    assert error_of(pool.create_snap, 9, 99) == errno.ENODATA


def test_set_transaction_id(rig):
    pool = rig.pool()
    assert error_of(pool.message, "set_transaction_id 0 7") is None
    assert error_of(pool.message, "set_transaction_id 0 8") == errno.EINVAL
    assert pool.status(noflush=True).transaction_id == 7


def test_reserve_and_release_metadata_snapshot(rig):
    pool = rig.pool()
    assert error_of(pool.message, "reserve_metadata_snap") is None
    assert error_of(pool.message, "reserve_metadata_snap") == errno.EBUSY
    assert error_of(pool.message, "release_metadata_snap") is None
    assert error_of(pool.message, "release_metadata_snap") == errno.EINVAL


def test_thin_table_on_missing_id(rig):
    pool = rig.pool()
    assert error_of(pool.activate, 5) == errno.ENODATA


def test_delete_while_active(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    assert error_of(pool.delete, 0) == errno.EBUSY
    thin.remove()
    assert error_of(pool.delete, 0) is None


def test_empty_thin_status(rig):
    thin = rig.pool().thin(0, sectors=4096)
    assert thin.status_line() == "0 4096 thin 0 -"


def test_status_after_a_write_at_block_9(rig):
    thin = rig.pool().thin(0)
    thin.fill_blocks(9, 1, seed=1)
    assert thin.status().text == "128 1279"


def test_discard_of_no_whole_block_changes_nothing(rig):
    thin = rig.pool().thin(0)
    thin.fill_blocks(0, 2, seed=1)
    thin.discard(4 * KIB, 64 * KIB)
    assert thin.status().text == "256 255"
    thin.verify_blocks(0, 2, seed=1)


def _overfill(rig, features=(), low_water=0):
    """A full pool of 32 blocks with a writer waiting for a 33rd."""
    rig.parameter("no_space_timeout", 0)
    pool = rig.pool(size=2 * MIB, features=features, low_water=low_water)
    thin = pool.thin(0, sectors=8192)
    thin.fill_blocks(0, 32, seed=1)
    return pool, thin


@pytest.mark.parametrize("low_water", [0, 8])
def test_fill_beyond_size_queueing(rig, low_water):
    pool, thin = _overfill(rig, low_water=low_water)
    # With a low water mark its event came on the way; without one it comes just before the mode's.
    assert pool.events == (1 if low_water else 0)
    before = pool.events
    writer = io.Job(io.write, thin.path, 32 * pool.block, b"x" * pool.block)
    wait_for(lambda: pool.status(noflush=True).mode == "out_of_data_space", "the pool is out of data space")
    status = pool.status(noflush=True)
    assert (status.used, status.total) == (32, 32)
    assert status.no_space == "queue_if_no_space"
    assert pool.events == before + (1 if low_water else 2)
    assert not writer.done()
    pool.data.grow(8192)
    pool.change(sectors=8192)
    writer.result()


def test_after_the_timeout(rig):
    rig.parameter("no_space_timeout", 2)
    pool = rig.pool(size=2 * MIB)
    thin = pool.thin(0, sectors=8192)
    thin.fill_blocks(0, 32, seed=1)
    writer = io.Job(io.write, thin.path, 32 * pool.block, b"x" * pool.block)
    wait_for(lambda: pool.status(noflush=True).mode == "out_of_data_space", "the pool is out of data space")
    queued = pool.events if pool.status(noflush=True).no_space == "queue_if_no_space" else None
    assert writer.errno() == errno.ENOSPC
    status = pool.status(noflush=True)
    assert (status.mode, status.no_space) == ("out_of_data_space", "error_if_no_space")
    if queued is not None:
        assert pool.events == queued + 1
    assert pool.events == 3  # low water, out of space, timeout


def test_suspend_and_resume_return_to_queueing(rig):
    rig.parameter("no_space_timeout", 1)
    pool = rig.pool(size=2 * MIB)
    thin = pool.thin(0, sectors=8192)
    thin.fill_blocks(0, 32, seed=1)
    assert io.Job(io.write, thin.path, 32 * pool.block, b"x" * pool.block).errno() == errno.ENOSPC
    rig.parameter("no_space_timeout", 0)
    before = pool.events
    pool.cycle()
    status = pool.status(noflush=True)
    assert (status.mode, status.no_space) == ("out_of_data_space", "queue_if_no_space")
    assert pool.events == before


def test_growing_the_data_device_completes_held_writes(rig):
    pool, thin = _overfill(rig)
    writer = io.Job(io.fill, thin.path, 32 * pool.block, pool.block, 2)
    wait_for(lambda: pool.status(noflush=True).mode == "out_of_data_space", "the pool is out of data space")
    pool.data.grow(8192)
    pool.change(sectors=8192)
    assert writer.errno() is None
    status = pool.status()
    assert (status.mode, status.used, status.total) == ("rw", 33, 64)
    thin.verify_blocks(0, 32, seed=1)
    thin.verify_blocks(32, 1, seed=2)


def test_smaller_pool_is_refused_at_resume(rig):
    pool = rig.pool(size=64 * MIB)
    pool.load(pool.table(sectors=65536))
    pool.suspend()
    assert error_of(pool.resume) == errno.EINVAL
    assert pool.suspended
    pool.load(pool.table())
    pool.resume()
    assert pool.status().total == 1024


def test_metadata_write_errors(rig):
    meta = rig.switch()
    pool = rig.pool(meta=meta)
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    pool.status()  # commits
    meta.fail_writes()
    error_of(pool.create_thin, 1)  # its own result is not told everywhere
    wait_for(lambda: pool.status_line(noflush=True).endswith("Fail") or pool.status(noflush=True).mode == "ro", "the pool is read-only")
    status = pool.status(noflush=True)
    assert (status.mode, status.needs_check) == ("ro", True)
    thin.verify_blocks(0, 4, seed=1)
    thin.fill_blocks(1, 1, seed=2)
    thin.verify_blocks(1, 1, seed=2)
    assert io.error_of(thin.write, 100 * pool.block, b"x" * pool.block) == errno.EIO
    assert error_of(pool.create_thin, 2) == errno.EOPNOTSUPP
    meta.good()
    # Whether the mark reaches a disk that failed is luck; what the disk holds must be consistent.
    rig.stop_quietly(pool)
    metadata.check(meta)


def test_metadata_unreadable(rig):
    meta = rig.switch()
    pool = rig.pool(meta=meta)
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    meta.fail_all()
    assert pool.status().text in ("Error", "Fail")
    assert pool.status().text == "Fail"
    assert thin.status().text == "Fail"
    assert io.error_of(thin.read, 0, 4096) == errno.EIO
    assert io.error_of(thin.write, 0, b"x" * 4096) == errno.EIO
    assert error_of(pool.create_thin, 1) == errno.EOPNOTSUPP
    meta.good()
    rig.stop_quietly(pool)
    metadata.check(meta)
