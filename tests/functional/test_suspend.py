"""Suspending, resuming, resizing and removing, alone and nested."""

import errno
import os
import signal

import pytest
from lib import io, metadata, proc
from lib.dm import Device, dmsetup, error_of
from lib.proc import wait_for
from lib.thin import GIB, MIB


def test_pool_cycle_with_active_thins(rig):
    pool = rig.pool()
    thins = [pool.thin(n) for n in range(5)]
    for n, thin in enumerate(thins):
        thin.fill_blocks(0, 4, seed=n)
    for noflush in (False, True):
        pool.cycle(noflush)
        for n, thin in enumerate(thins):
            thin.verify_blocks(0, 4, seed=n)
            thin.fill_blocks(4, 4, seed=n)
    assert all(not thin.suspended for thin in thins)


def test_io_waits_for_a_suspended_pool(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    pool.suspend()
    reader = io.Job(io.read, thin.path, 0, 4096)
    writer = io.Job(io.fill, thin.path, 4 * pool.block, pool.block, 1)
    assert not reader.done(0.5) and not writer.done()
    pool.resume()
    assert reader.result() == io.pattern(1, 0, 4096)
    writer.result()
    thin.verify_blocks(0, 5, seed=1)


def test_io_waits_for_a_suspended_thin(rig):
    pool = rig.pool()
    thin, other = pool.thin(0), pool.thin(1)
    thin.suspend()
    writer = io.Job(io.fill, thin.path, 0, pool.block, 1)
    assert not writer.done(0.5)
    other.fill_blocks(0, 4, seed=2)
    thin.resume()
    writer.result()
    thin.verify_blocks(0, 1, seed=1)
    other.verify_blocks(0, 4, seed=2)


def test_thin_suspended_by_its_user_stays_so(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.suspend()
    pool.cycle()
    assert thin.suspended
    writer = io.Job(io.fill, thin.path, 0, pool.block, 1)
    assert not writer.done(0.5)
    thin.resume()
    writer.result()


def test_thin_removed_while_the_pool_is_suspended(rig):
    pool = rig.pool()
    thin, other = pool.thin(0), pool.thin(1)
    thin.fill_blocks(0, 4, seed=1)
    pool.suspend()
    thin.remove()
    pool.resume()
    other.fill_blocks(0, 4, seed=1)
    pool.delete(0)
    assert pool.status().used == 4


def test_suspend_flushes_what_is_in_flight(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    jobs = [io.Job(io.fill, thin.path, n * MIB, MIB, 1) for n in range(4)]
    for _ in range(5):
        thin.cycle()
    for job in jobs:
        job.result()
    thin.verify(0, 4 * MIB, seed=1)


def test_noflush_cycles_under_load_lose_nothing(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    jobs = [io.Job(io.fill, thin.path, n * 4 * MIB, 4 * MIB, 1) for n in range(3)]
    while not all(job.done() for job in jobs):
        thin.cycle(noflush=True)
        pool.cycle(noflush=True)
    for job in jobs:
        job.result()
    thin.verify(0, 12 * MIB, seed=1)


def test_suspend_commits(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 9, seed=1)
    pool.suspend()
    assert metadata.Superblock(pool.meta).data_used == 9
    pool.resume()


def test_snapshots_while_written(rig):
    """Each snapshot is a point in time: of writes made in order, it has the first ones only."""
    pool = rig.pool(size=128 * MIB)
    thin = pool.thin(0, sectors=32768)
    job = io.Job(io.fill, thin.path, 0, 16 * MIB, 1)
    snaps = []
    while not job.done() and len(snaps) < 20:
        snaps.append(len(snaps) + 1)
        pool.snapshot(thin, snaps[-1])
    job.result()
    for snap_id in snaps:
        snap = pool.activate(snap_id, sectors=32768)
        written = snap.status().mapped * 512
        # fill() writes a MiB a request, so only the last one may be there in part.
        whole = written // MIB * MIB - MIB
        if whole > 0:
            snap.verify(0, whole, seed=1)
        snap.remove()
    thin.verify(0, 16 * MIB, seed=1)


def test_thin_suspended_while_its_pool_is(rig):
    """The one waits for the other, and stays suspended."""
    pool = rig.pool()
    thin, other = pool.thin(0), pool.thin(1)
    pool.suspend()
    child = proc.start("dmsetup", "suspend", thin.name)
    try:
        with pytest.raises(proc.subprocess.TimeoutExpired):
            child.wait(0.5)
        pool.resume()
        assert child.wait(proc.DEADLINE) == 0
    finally:
        child.kill()
    assert thin.suspended and not other.suspended
    other.fill_blocks(0, 1, seed=1)
    pool.cycle()
    assert thin.suspended
    thin.resume()
    thin.fill_blocks(0, 1, seed=1)


def test_interrupted_suspend_of_a_pool(rig):
    """What makes it wait is I/O on the pool's own device; its thins rest by then, and must work on."""
    pool = rig.pool(data=rig.switch(64 * MIB))
    thin, other = pool.thin(0), pool.thin(1)
    thin.fill_blocks(0, 4, seed=1)
    other.suspend()
    pool.status()
    pool.data.hold(reads=True)
    reader = io.Job(io.read, pool.path, 0, 4096)
    wait_for(lambda: pool.data.held()[0], "a read is at the data device")
    suspend = proc.start("dmsetup", "suspend", pool.name)

    def blocked():
        probe = io.Job(io.read, thin.path, MIB, 4096)  # of a hole
        if not probe.done(0.5):
            return probe
        probe.result()

    waiting = wait_for(blocked, "the thin takes no I/O any more")
    suspend.send_signal(signal.SIGINT)
    suspend.communicate(timeout=proc.DEADLINE)
    assert suspend.returncode and not pool.suspended
    assert waiting.result() == bytes(4096)
    assert other.suspended and not reader.done()
    pool.data.good()
    reader.result()
    other.resume()
    thin.verify_blocks(0, 4, seed=1)
    for device in (thin, other):
        device.fill_blocks(4, 4, seed=1)
    pool.cycle()
    pool.activate(0).verify_blocks(0, 8, seed=1)


def test_suspended_twice_resumed_twice(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    for device in (pool, thin, pool):
        for _ in range(2):
            error_of(device.suspend)  # the second has nothing to do
            assert device.suspended
        for _ in range(2):
            error_of(device.resume)
            assert not device.suspended
        thin.fill_blocks(0, 1, seed=1)


def test_snapshot_of_a_thin_in_a_suspended_pool(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    pool.suspend()
    pool.create_snap(1, 0)
    pool.create_thin(2)
    pool.resume()
    thin.fill_blocks(0, 2, seed=2)
    pool.activate(1).verify_blocks(0, 4, seed=1)
    thin.verify_blocks(0, 2, seed=2)
    thin.verify_blocks(2, 2, seed=1)


# -- changed tables ----------------------------------------------------------------------


def test_thin_turned_into_another(rig):
    """The same device, another id, as one rolls back to a snapshot."""
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    pool.snapshot(thin, 1)
    thin.fill_blocks(0, 4, seed=2)
    thin.id = 1
    thin.reload(thin.table())
    thin.verify_blocks(0, 4, seed=1)
    assert error_of(pool.delete, 0) is None
    assert error_of(pool.delete, 1) == errno.EBUSY
    thin.fill_blocks(1, 1, seed=3)
    assert pool.status().used == 4


def test_thin_turned_into_something_else_and_back(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    thin.reload(f"0 {thin.sectors} zero")
    thin.verify_zero(0, MIB)
    assert pool.open_count == 0
    thin.reload(f"0 {thin.sectors} error", noflush=True)
    assert io.error_of(thin.read, 0, 4096) == errno.EIO
    thin.reload(thin.table(), noflush=True)
    thin.verify_blocks(0, 4, seed=1)


def test_tables_changed_below_io(rig):
    pool = rig.pool(size=256 * MIB)
    thin = pool.thin(0, sectors=65536)
    job = io.Job(io.fill, thin.path, 0, 24 * MIB, 1)
    turn = 0
    words = [[], ["no_discard_passdown"], ["skip_block_zeroing"], ["error_if_no_space", "skip_block_zeroing"]]
    while not job.done():
        pool.change(features=words[turn % 4], low_water=turn, noflush=bool(turn % 2))
        thin.reload(thin.table(sectors=65536 + turn % 3 * 128), noflush=bool(turn % 2))
        turn += 1
    job.result()
    thin.reload(thin.table())
    thin.verify(0, 24 * MIB, seed=1)


def test_table_loaded_twice_counts_once(rig):
    """The last one loaded is the one that is resumed; the others are forgotten."""
    pool = rig.pool(low_water=1)
    thin = pool.thin(0, sectors=2048)
    for mark in (2, 3, 4):
        pool.load(pool.table(low_water=mark))
        thin.load(thin.table(sectors=2048 * mark))
    pool.cycle()
    thin.cycle()
    assert pool.table_text().split()[3] == "4"
    assert io.size(thin.path) == 4 * MIB
    thin.load(thin.table(sectors=4096))
    thin.clear()
    thin.cycle()
    assert io.size(thin.path) == 4 * MIB
    pool.low_water = 4


# -- sizes -------------------------------------------------------------------------------


def test_growing_the_data_device(rig):
    pool = rig.pool(size=16 * MIB)
    thin = pool.thin(0, sectors=131072)
    thin.fill(0, 16 * MIB, seed=1)
    pool.data.grow(131072)
    pool.change(sectors=131072)
    assert pool.status().total == 1024
    thin.fill(16 * MIB, 48 * MIB, seed=1)
    status = pool.status()
    assert (status.used, status.mode) == (1024, "rw")
    thin.verify(0, 64 * MIB, seed=1)
    rig.restart(pool)
    assert pool.status().total == 1024


def test_growing_over_many_bitmaps(rig):
    """A bitmap counts 16320 blocks: growth from inside the first to the third."""
    pool = rig.pool(size=1000 * 65536, meta=8 * MIB)
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    for blocks in (16320, 16321, 40000):
        pool.data.grow(blocks * 128)
        pool.change(sectors=blocks * 128)
        assert pool.status().total == blocks
    thin.verify_blocks(0, 4, seed=1)
    rig.restart(pool)
    assert pool.status().total == 40000


def test_growth_takes_place_at_resume(rig):
    pool = rig.pool(size=16 * MIB)
    pool.data.grow(65536)
    pool.load(pool.table(sectors=65536))
    assert pool.status().total == 256
    pool.suspend()
    pool.resume()
    assert pool.status().total == 512
    pool.sectors = 65536


def test_growing_the_metadata_device_needs_no_reload(rig):
    pool = rig.pool(meta=4 * MIB)
    pool.meta.grow(16 * 2048)
    assert pool.status().meta_total == 1024
    pool.cycle()
    status = pool.status()
    assert (status.meta_total, status.meta_low) == (4096, 1024)
    assert 409 + 9 <= status.meta_used <= 409 + 20
    thin = pool.thin(0)
    thin.fill_blocks(0, 16, seed=1)
    rig.restart(pool)
    assert pool.status().meta_total == 4096


def test_metadata_device_became_smaller(rig):
    pool = rig.pool(meta=8 * MIB)
    pool.create_thin(0)
    rig.stop(pool)
    smaller = rig.device(f"0 8192 linear {pool.meta} 0")
    again = rig.pool(meta=smaller, data=pool.data, start=False)
    again.create_empty()
    again.load(again.table())
    assert error_of(again.resume) == errno.EINVAL
    again.checked = False


def test_pool_of_a_terabyte(rig):
    pool = rig.pool(size=1024 * GIB, bs=2048, meta=64 * MIB)
    assert pool.status().total == 1 << 20
    thin = pool.thin(0)
    thin.fill((1 << 40) - MIB, MIB, seed=1)
    thin.verify((1 << 40) - MIB, MIB, seed=1)


# -- removal -----------------------------------------------------------------------------


def test_reuse_of_the_disks_after_removal(rig):
    """Nothing holds them any more: not even an exclusive open is refused."""
    pool = rig.pool()
    pool.thin(0).fill_blocks(0, 4, seed=1)
    rig.stop(pool)
    again = rig.pool(meta=pool.meta, data=pool.data)
    again.activate(0).verify_blocks(0, 4, seed=1)


@pytest.mark.improvement("B21")
def test_forced_removal_of_a_pool_fails_its_thins(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    thin.flush()
    error_of(pool.remove, force=True, retry=False)  # the thins keep the device itself
    try:
        assert io.Job(io.read, thin.path, 0, 4096).errno(timeout=20) == errno.EIO
        assert io.Job(io.fill, thin.path, 0, 4096, 2).errno(timeout=20) == errno.EIO
        assert io.Job(io.flush, thin.path).errno(timeout=20) == errno.EIO
    finally:
        pool.reload(pool.table())
    thin.remove()
    pool.activate(0).verify_blocks(0, 4, seed=1)


def test_forced_removal_of_a_thin_in_use(rig):
    """Whoever has it open gets errors from then on; the pool and its other thins do not mind."""
    pool = rig.pool()
    thin, other = pool.thin(0), pool.thin(1)
    thin.fill_blocks(0, 4, seed=1)
    thin.flush()
    holder = os.open(thin.path, os.O_RDONLY | os.O_DIRECT)
    try:
        error_of(thin.remove, force=True, retry=False)  # it is open, so only its table goes
        assert thin.exists()
        assert io.error_of(thin.read, 0, 4096) == errno.EIO
        other.fill_blocks(0, 2, seed=2)
        wait_for(lambda: error_of(pool.create_snap, 2, 0) is None, "the id is free")
    finally:
        os.close(holder)
    Device.remove(thin)
    other.verify_blocks(0, 2, seed=2)
    pool.activate(0).verify_blocks(0, 4, seed=1)
    pool.activate(2).verify_blocks(0, 4, seed=1)


def test_forced_removal_of_a_thin_under_load(rig):
    pool = rig.pool(size=128 * MIB)
    thin = pool.thin(0)
    job = io.Job(io.fill, thin.path, 0, 48 * MIB, 1)
    wait_for(lambda: thin.status().mapped > 8192, "the writer is at work")
    error_of(thin.remove, force=True, retry=False)
    # It opens the device anew for every piece.
    assert job.errno() in (errno.EIO, errno.ENXIO, None)
    if thin.exists():
        wait_for(lambda: thin.open_count == 0, "the writer has let go")
        Device.remove(thin)
    again = pool.activate(0)
    whole = again.status().mapped * 512 // MIB * MIB - 2 * MIB
    assert whole > 0
    again.verify(0, whole, seed=1)


def is_let_go(disk):
    try:
        os.close(os.open(disk.path, os.O_RDONLY | os.O_EXCL))
    except OSError as error:
        assert error.errno == errno.EBUSY
        return False
    return True


def test_deferred_remove(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    dmsetup("remove", "--deferred", pool.name)
    assert pool.exists()
    thin.fill_blocks(0, 1, seed=1)
    thin.remove()
    wait_for(lambda: not pool.exists(), "the pool goes with its last thin")
    # Its name goes first.
    wait_for(lambda: is_let_go(pool.meta), "the pool has closed its metadata")


def test_many_short_lives(rig):
    pool = rig.pool()
    pool.create_thin(0)
    for n in range(8):
        thin = pool.activate(0)
        thin.fill_blocks(n, 1, seed=n)
        rig.restart(pool)
    thin = pool.activate(0)
    for n in range(8):
        thin.verify_blocks(n, 1, seed=n)


@pytest.mark.parametrize("count", [2])
def test_several_pools_at_once(rig, count):
    pools = [rig.pool(bs=128 * (n + 1)) for n in range(count)]
    thins = [pool.thin(0) for pool in pools]
    for n, thin in enumerate(thins):
        thin.fill(0, 2 * MIB, seed=n)
    pools[0].cycle()
    for n, thin in enumerate(thins):
        thin.verify(0, 2 * MIB, seed=n)
