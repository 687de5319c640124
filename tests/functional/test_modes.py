"""Modes of a pool, and every way from one to another that user space can bring about."""

import errno
import signal

import pytest
from lib import io, metadata, proc
from lib.dm import error_of
from lib.proc import wait_for
from lib.thin import KIB, MIB


def mode(pool):
    return pool.status(noflush=True).mode


def full_pool(rig, features=(), timeout=0, **named):
    """32 blocks, all of them used by thin 0, which is twice as large."""
    rig.parameter("no_space_timeout", timeout)
    pool = rig.pool(size=2 * MIB, features=features, **named)
    thin = pool.thin(0, sectors=8192)
    thin.fill_blocks(0, 32, seed=1)
    return pool, thin


def hold_a_write(pool, thin, seed=2, block=32):
    job = io.Job(io.fill, thin.path, block * pool.block, pool.block, seed)
    wait_for(lambda: mode(pool) == "out_of_data_space", "the pool is out of data space")
    assert not job.done(0.2)
    return job


# -- out of data space -------------------------------------------------------------------


def test_exactly_full_is_not_out_of_space(rig):
    pool, thin = full_pool(rig)
    status = pool.status()
    assert (status.mode, status.used) == ("rw", 32)
    thin.fill_blocks(0, 32, seed=2)
    assert pool.status().mode == "rw"


def test_error_policy(rig):
    pool, thin = full_pool(rig, ["error_if_no_space"])
    assert io.error_of(thin.fill_blocks, 32, 1, 2) == errno.ENOSPC
    status = pool.status(noflush=True)
    assert (status.mode, status.no_space) == ("out_of_data_space", "error_if_no_space")
    # What is mapped works on, holes read as zeros, messages are taken.
    thin.fill_blocks(3, 1, seed=3)
    thin.verify_blocks(3, 1, seed=3)
    thin.zero_blocks(40, 2)
    pool.create_thin(1)
    assert io.error_of(thin.fill_blocks, 33, 1, 2) == errno.ENOSPC


def test_queue_policy_serves_what_needs_no_space(rig):
    pool, thin = full_pool(rig)
    job = hold_a_write(pool, thin)
    thin.fill_blocks(3, 1, seed=3)
    thin.verify_blocks(3, 1, seed=3)
    thin.zero_blocks(40, 2)
    pool.create_thin(1)
    thin.discard_blocks(10, 4)
    pool.status()  # commits, so that the freed blocks can be used
    job.result()
    thin.verify_blocks(32, 1, seed=2)
    assert pool.status().mode == "rw"


def test_shared_block_written_when_full(rig):
    pool, thin = full_pool(rig, ["error_if_no_space"])
    pool.snapshot(thin, 1)
    assert io.error_of(thin.fill, 0, 4 * KIB, 2) == errno.ENOSPC
    thin.verify_blocks(0, 32, seed=1)
    snap = pool.activate(1)
    snap.verify_blocks(0, 32, seed=1)


def test_deleting_a_thin_makes_room(rig):
    pool, thin = full_pool(rig)
    spare = pool.thin(1)
    thin.discard_blocks(0, 8)
    pool.status()
    spare.fill_blocks(0, 8, seed=1)
    job = hold_a_write(pool, thin)
    spare.remove()
    pool.delete(1)
    job.result()
    status = pool.status()
    assert (status.mode, status.used) == ("rw", 25)


@pytest.mark.parametrize("noflush", [False, True])
def test_growth_makes_room(rig, noflush):
    pool, thin = full_pool(rig)
    jobs = [hold_a_write(pool, thin, block=32 + n) for n in range(3)]
    pool.data.grow(8192)
    pool.change(sectors=8192, noflush=noflush)
    for job in jobs:
        job.result()
    thin.verify_blocks(32, 3, seed=2)
    assert pool.status().mode == "rw"


def test_held_writes_do_not_block_a_pool_suspend(rig):
    pool, thin = full_pool(rig)
    job = hold_a_write(pool, thin)
    for _ in range(3):
        pool.cycle()
    assert not job.done(0.2)
    assert mode(pool) == "out_of_data_space"
    pool.data.grow(8192)
    pool.change(sectors=8192)
    job.result()


def test_noflush_suspend_of_a_thin_with_held_writes(rig):
    pool, thin = full_pool(rig)
    job = hold_a_write(pool, thin)
    thin.suspend(noflush=True)
    assert not job.done(0.2)
    thin.resume()
    assert not job.done(0.2)
    pool.data.grow(8192)
    pool.change(sectors=8192)
    job.result()
    thin.verify_blocks(32, 1, seed=2)


def test_reload_with_error_policy_fails_held_writes(rig):
    pool, thin = full_pool(rig)
    job = hold_a_write(pool, thin)
    before = pool.events
    pool.change(features=["error_if_no_space"])
    assert job.errno() == errno.ENOSPC
    wait_for(lambda: mode(pool) == "out_of_data_space", "the pool is out of data space again")
    assert pool.status(noflush=True).no_space == "error_if_no_space"
    assert pool.events == before + 3  # write mode, low water, out of space


def test_timeout_value_zero_holds(rig):
    pool, thin = full_pool(rig, timeout=0)
    job = hold_a_write(pool, thin)
    assert not job.done(3)
    assert pool.status(noflush=True).no_space == "queue_if_no_space"
    pool.change(features=["error_if_no_space"])
    assert job.errno() == errno.ENOSPC


def test_new_timeout_leaves_a_wait_alone(rig):
    """It is looked at when the pool runs full, and when it is resumed full."""
    pool, thin = full_pool(rig, timeout=0)
    job = hold_a_write(pool, thin)
    rig.parameter("no_space_timeout", 1)
    assert not job.done(3)
    rig.parameter("no_space_timeout", 2)
    pool.cycle()
    rig.parameter("no_space_timeout", 0)
    assert job.errno() == errno.ENOSPC
    assert pool.status(noflush=True).no_space == "error_if_no_space"


def test_each_resume_begins_the_wait_anew(rig):
    pool, thin = full_pool(rig, timeout=1)
    for _ in range(3):
        assert io.Job(io.fill, thin.path, 32 * pool.block, pool.block, 2).errno() == errno.ENOSPC
        assert pool.status(noflush=True).no_space == "error_if_no_space"
        pool.cycle()
        assert pool.status(noflush=True).no_space == "queue_if_no_space"


def nothing(pool, thin):
    pass


def flush(pool, thin):
    thin.flush()


def message(pool, thin):
    pool.create_thin(9)


def status(pool, thin):
    pool.status()


@pytest.mark.parametrize("commit", [nothing, flush, message, status])
def test_every_commit_finds_the_space_that_was_freed(rig, commit):
    """The last one is the pool's own, within a second."""
    pool, thin = full_pool(rig, ["no_discard_passdown"])
    job = hold_a_write(pool, thin)
    thin.discard_blocks(0, 4)
    commit(pool, thin)
    job.result()
    wait_for(lambda: mode(pool) == "rw", "the pool is in write mode")
    thin.verify_blocks(32, 1, seed=2)


def test_flushing_suspend_waits_for_held_writes(rig):
    pool, thin = full_pool(rig)
    thin.discard_blocks(0, 4)
    pool.status()
    spare = pool.thin(1)
    spare.fill_blocks(0, 4, seed=1)
    job = hold_a_write(pool, thin)

    def suspending():
        child = proc.start("dmsetup", "suspend", thin.name)
        with pytest.raises(proc.subprocess.TimeoutExpired):
            child.wait(1)
        return child

    # A signal ends the wait, and nothing has changed.
    child = suspending()
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=proc.DEADLINE)
    assert child.returncode and not thin.suspended and not job.done()
    thin.verify_blocks(4, 28, seed=1)

    # Space does, too; but not growth, since the pool cannot be suspended meanwhile.
    child = suspending()
    spare.discard_blocks(0, 4)
    pool.status()
    job.result()
    child.communicate(timeout=proc.DEADLINE)
    assert child.returncode == 0 and thin.suspended
    thin.resume()
    thin.verify_blocks(32, 1, seed=2)


def test_held_writes_when_the_pool_gets_worse(rig):
    """What waited for space fails for want of space, whatever ended the wait."""
    pool, thin = full_pool(rig, meta=rig.switch())
    job = hold_a_write(pool, thin)
    pool.meta.fail_writes()
    error_of(pool.create_thin, 9)
    assert job.errno() == errno.ENOSPC
    assert io.error_of(thin.fill_blocks, 33, 1, 2) == errno.EIO
    assert pool.status().mode == "ro"
    pool.meta.good()
    rig.stop_quietly(pool)
    metadata.check(pool.meta)


def test_write_after_the_timeout_fails_at_once(rig):
    pool, thin = full_pool(rig, timeout=1)
    assert io.Job(io.fill, thin.path, 32 * pool.block, pool.block, 2).errno() == errno.ENOSPC
    assert io.error_of(thin.fill_blocks, 33, 1, 2) == errno.ENOSPC
    thin.discard_blocks(0, 4)
    status = pool.status()
    assert (status.mode, status.no_space) == ("rw", "queue_if_no_space")
    thin.fill_blocks(33, 1, seed=2)


def test_out_of_space_survives_reactivation(rig):
    pool, thin = full_pool(rig, ["error_if_no_space"])
    assert io.error_of(thin.fill_blocks, 32, 1, 2) == errno.ENOSPC
    rig.restart(pool)
    assert pool.status().used == 32
    thin = pool.activate(0, sectors=8192)
    thin.verify_blocks(0, 32, seed=1)
    assert io.error_of(thin.fill_blocks, 32, 1, 2) == errno.ENOSPC


# -- out of metadata space ---------------------------------------------------------------


MAPPED = 50000


def exhaust_metadata(rig):
    """A pool whose metadata ran out, and its thin 0 with all of the data device mapped but a little.

    thin_restore fills most of 256 metadata blocks; every further device takes one more.
    """
    meta = rig.disk(256 * 4 * KIB)
    metadata.restore(
        meta,
        f'<superblock uuid="" time="0" transaction="0" data_block_size="128" nr_data_blocks="{MAPPED + 100}">\n'
        f'<device dev_id="0" mapped_blocks="{MAPPED}" transaction="0" creation_time="0" snap_time="0">\n'
        f'<range_mapping origin_begin="0" data_begin="0" length="{MAPPED}" time="0"/>\n'
        "</device>\n</superblock>\n",
    )
    pool = rig.pool(size=(MAPPED + 100) * 65536, meta=meta)
    thin = pool.activate(0)
    thin.fill_blocks(7, 2, seed=1)
    for thin_id in range(1, 256):
        if error_of(pool.create_thin, thin_id) is not None:
            break
    assert mode(pool) == "ro"
    return pool, thin


def test_out_of_metadata_space(rig):
    pool, thin = exhaust_metadata(rig)
    status = pool.status()
    assert (status.mode, status.needs_check) == ("ro", False)
    assert error_of(pool.create_thin, 1000) == errno.EOPNOTSUPP
    assert error_of(pool.create_snap, 1000, 0) == errno.EOPNOTSUPP
    thin.verify_blocks(7, 2, seed=1)
    thin.fill_blocks(7, 1, seed=2)  # mapped
    thin.verify_blocks(7, 1, seed=2)
    assert io.error_of(thin.fill_blocks, MAPPED + 10, 1, 2) == errno.EIO
    thin.zero_blocks(MAPPED + 10, 1)
    thin.discard_blocks(7, 1)  # accepted, without effect
    thin.verify_blocks(7, 1, seed=2)
    pool.cycle()
    status = pool.status()
    assert (status.mode, status.needs_check) == ("ro", False)


def test_growing_the_metadata_brings_it_back(rig):
    pool, thin = exhaust_metadata(rig)
    pool.meta.grow(8192)
    pool.cycle()
    status = pool.status()
    assert (status.mode, status.needs_check, status.meta_total, status.meta_low) == ("rw", False, 1024, 256)
    thin.fill_blocks(MAPPED + 10, 1, seed=2)
    thin.verify_blocks(MAPPED + 10, 1, seed=2)
    thin.verify_blocks(7, 2, seed=1)
    pool.create_thin(1000)


def test_reload_brings_it_back_only_to_be_full_again(rig):
    pool, thin = exhaust_metadata(rig)
    before = pool.events
    pool.reload(pool.table())
    wait_for(lambda: pool.events > before, "the pool is in write mode")
    for thin_id in range(1000, 1020):
        if error_of(pool.create_thin, thin_id):
            break
    status = pool.status()
    assert (status.mode, status.needs_check) == ("ro", False)
    thin.verify_blocks(7, 2, seed=1)


@pytest.mark.improvement("B16")
def test_deleting_thins_brings_it_back(rig):
    pool, thin = exhaust_metadata(rig)
    for thin_id in range(1, 20):
        pool.delete(thin_id)
        assert error_of(pool.delete, thin_id) == errno.ENODATA
    status = pool.status()
    assert (status.mode, status.needs_check) == ("rw", False)
    thin.fill_blocks(MAPPED + 10, 1, seed=2)
    thin.verify_blocks(MAPPED + 10, 1, seed=2)
    thin.verify_blocks(7, 2, seed=1)


@pytest.mark.improvement("B16")
def test_deleting_a_large_thin_out_of_metadata_space(rig):
    pool, thin = exhaust_metadata(rig)
    thin.remove()
    pool.delete(0)
    status = pool.status()
    assert (status.mode, status.needs_check, status.used) == ("rw", False, 0)


def test_reactivation_after_out_of_metadata_allows_delete(rig):
    pool, thin = exhaust_metadata(rig)
    rig.restart(pool)
    assert mode(pool) == "rw"
    for thin_id in range(1, 12):
        pool.delete(thin_id)
    status = pool.status()
    assert (status.mode, status.needs_check) == ("rw", False)
    pool.activate(0).fill_blocks(MAPPED + 10, 1, seed=2)


# -- needs_check and read-only -----------------------------------------------------------


def break_metadata(rig):
    """A pool that lost a commit to write errors of its metadata device, which is good again."""
    meta = rig.switch()
    pool = rig.pool(meta=meta)
    thin = pool.thin(0)
    thin.fill_blocks(0, 8, seed=1)
    pool.status()
    meta.fail_writes()
    # The periodic commit may come first and make this write fail; lost it is in either case.
    io.error_of(thin.fill_blocks, 8, 1, 1)
    pool.status()
    assert pool.status().mode == "ro"
    meta.good()
    return pool, thin


def set_needs_check(disk):
    metadata.patch_superblock(disk, {4: b"\1"})


@pytest.mark.improvement("lost-commit")
def test_fsync_after_a_lost_commit(rig):
    pool, thin = break_metadata(rig)
    assert io.error_of(thin.flush) == errno.EIO
    thin.verify_blocks(0, 8, seed=1)
    assert io.error_of(thin.fill, 0, 4 * KIB, 2, fua=True) == errno.EIO
    # Closing the thin does not make it forget; taking the pool down does.
    thin.remove()
    thin = pool.activate(0)
    assert io.error_of(thin.flush) == errno.EIO
    rig.restart(pool)
    pool.activate(0).flush()
    rig.stop_quietly(pool)
    metadata.check(pool.meta)


def test_mapping_that_cannot_be_read(rig):
    """Only who asked for it hears of that."""
    pool = rig.pool(meta=rig.switch())
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    rig.restart(pool)
    thin = pool.activate(0)
    pool.meta.fail_all()
    assert io.error_of(thin.read, 0, 4096) == errno.EIO
    assert io.error_of(thin.read, MIB, 4096) == errno.EIO
    assert mode(pool) == "rw"
    pool.meta.good()
    thin.verify_blocks(0, 4, seed=1)
    thin.zero_blocks(4, 16)
    thin.fill_blocks(4, 4, seed=1)
    assert pool.status().mode == "rw"


@pytest.mark.parametrize("grown", ["data", "metadata"])
def test_growth_that_cannot_be_recorded(rig, grown):
    """Whatever the resume says: the pool has its old size, and grows when the device is mended and checked."""
    pool = rig.pool(meta=rig.switch())
    pool.thin(0).fill_blocks(0, 4, seed=1)
    pool.status()
    if grown == "data":
        pool.data.grow(262144)
        pool.sectors = 262144
        pool.load(pool.table())
    else:
        pool.meta.lower.grow(32768)
        pool.meta.sectors = 32768
    pool.meta.fail_writes()
    pool.suspend()
    error_of(pool.resume)
    status = pool.status()
    assert (status.mode, status.needs_check, status.total, status.meta_total) == ("ro", True, 1024, 1024)
    pool.meta.good()
    for thin in list(rig.thins):
        thin.verify_blocks(0, 4, seed=1)
        thin.remove()
    pool.remove()
    metadata.clear_needs_check(pool.meta)
    pool.start()
    status = pool.status()
    assert status.mode == "rw"
    assert (status.total, status.meta_total) == ((2048, 1024) if grown == "data" else (1024, 4096))
    pool.activate(0).verify_blocks(0, 4, seed=1)


def test_commit_that_the_data_device_cannot_flush(rig):
    data = rig.switch(64 * MIB)
    pool = rig.pool(data=data)
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    pool.status()
    data.fail_writes()
    error_of(pool.create_thin, 1)  # something to commit; its own result is not told everywhere
    assert io.error_of(thin.flush) == errno.EIO
    status = pool.status()
    assert (status.mode, status.needs_check) == ("ro", True)
    data.good()
    thin.verify_blocks(0, 4, seed=1)
    pool.expect_needs_check = True
    rig.stop(pool)
    assert list(metadata.mappings(pool.meta)) == [0]  # rolled back


def test_needs_check_on_disk(rig):
    pool = rig.pool()
    pool.thin(0).fill_blocks(0, 4, seed=1)
    rig.restart(pool)
    pool.remove()
    set_needs_check(pool.meta)
    pool.start()
    status = pool.status()
    assert (status.mode, status.needs_check) == ("ro", True)
    assert pool.events == 1
    assert error_of(pool.create_thin, 1) == errno.EOPNOTSUPP
    pool.cycle()
    assert pool.status().mode == "ro"
    pool.reload(pool.table())
    assert pool.status().mode == "ro"
    # Growth is refused, but the resume succeeds.
    pool.data.grow(262144)
    pool.reload(pool.table(sectors=262144))
    assert pool.status().total == 1024
    pool.meta.grow(16384)
    pool.cycle()
    assert pool.status().meta_total == 1024
    thin = pool.activate(0)
    thin.verify_blocks(0, 4, seed=1)
    thin.remove()
    pool.remove()
    metadata.clear_needs_check(pool.meta)
    pool.start()
    status = pool.status()
    assert (status.mode, status.needs_check) == ("rw", False)
    pool.create_thin(1)


def test_read_only_table_and_back(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    pool.change(features=["read_only"])
    status = pool.status()
    assert (status.mode, status.needs_check) == ("ro", False)
    assert error_of(pool.create_thin, 1) == errno.EOPNOTSUPP
    assert io.error_of(thin.fill_blocks, 4, 1, 2) == errno.EIO
    thin.fill_blocks(0, 1, seed=2)
    thin.discard_blocks(0, 4)
    thin.verify_blocks(0, 1, seed=2)
    thin.verify_blocks(1, 3, seed=1)
    pool.change(features=[])
    assert pool.status().mode == "rw"
    thin.fill_blocks(4, 1, seed=2)
    pool.create_thin(1)


def test_read_only_pool_does_not_break_sharing(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    pool.snapshot(thin, 1)
    pool.change(features=["read_only"])
    assert io.error_of(thin.fill, 0, 4 * KIB, 2) == errno.EIO
    pool.activate(1).verify_blocks(0, 4, seed=1)
    pool.change(features=[])


# -- fail --------------------------------------------------------------------------------


@pytest.fixture
def failed(rig):
    meta = rig.switch()
    pool = rig.pool(meta=meta)
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    pool.status()
    thin.fill_blocks(4, 4, seed=1)
    meta.fail_all()
    pool.status()
    assert pool.status().failed
    yield pool, thin
    meta.good()
    rig.stop_quietly(pool)
    metadata.check(meta)


def test_failed_pool(rig, failed):
    pool, thin = failed
    assert pool.status(noflush=True).text == thin.status().text == "Fail"
    for function, args in ((thin.read, (0, 4096)), (thin.write, (0, b"x" * 4096)), (thin.write, (1 << 20, b"x" * 4096)), (thin.flush, ())):
        assert io.error_of(function, *args) == errno.EIO
    assert io.error_of(thin.discard_blocks, 0, 1) == errno.EIO
    for text in ("create_thin 1", "delete 0", "set_transaction_id 0 1", "nonsense"):
        assert error_of(pool.message, text) == errno.EOPNOTSUPP
    assert error_of(pool.load, pool.table()) == errno.EINVAL
    pool.cycle()
    assert pool.status().failed
    io.read(pool.path, 0, 4096)  # the pool device itself still leads to the data


def test_failed_pool_keeps_its_table_line(rig, failed):
    pool, _ = failed
    assert pool.table_text().endswith(" 128 0 0 ")


@pytest.mark.improvement("B12")
def test_thin_of_a_failed_pool_keeps_its_table_line(rig, failed):
    pool, thin = failed
    assert thin.table_text() == f"{pool.number} 0"


def test_failed_pool_works_after_reactivation(rig, failed):
    pool, thin = failed
    thin.remove()
    pool.remove()
    pool.meta.good()
    pool.start()
    assert pool.status().mode in ("rw", "ro")
    thin = pool.activate(0)
    thin.verify_blocks(0, 4, seed=1)
