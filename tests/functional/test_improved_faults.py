"""Where the kernel's own module goes wrong when I/O, commits and suspends fail, and in modes that change nothing."""

import errno
import os
import signal

import pytest
from lib import io, metadata, proc, tree
from lib.disks import Worn
from lib.dm import error_of
from lib.proc import wait_for
from lib.thin import GIB, KIB, MIB
from test_bad_sectors import BLOCKS, populated, prove_all


@pytest.fixture
def breakable(rig):
    """A pool whose metadata device can fail, with thin 0 of 4 committed blocks; its disk is clean at the end."""
    pool = rig.pool(meta=rig.switch())
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    pool.status()
    yield pool, thin
    pool.meta.good()
    rig.stop_quietly(pool)
    metadata.check(pool.meta)


# -- what cannot be read -----------------------------------------------------------------


@pytest.mark.improvement("worn-sector")
def test_worn_sector_is_no_hole(rig):
    """The kernel's errno for a worn medium is the one that says "no such key" inside."""
    if not Worn.possible():
        pytest.skip("this kernel has no scsi_debug")
    pool, slots, frozen = populated(rig)
    leaf = metadata.one_of_each_kind(pool.meta)["leaf"]
    pool.meta = rig.worn_copy(pool.meta, leaf * metadata.BLOCK, metadata.BLOCK)
    pool.meta.lose()
    pool.start()
    thin = pool.activate(0, sectors=BLOCKS * 128)
    assert io.error_of(thin.read, 0, 4 * KIB) == errno.EIO
    assert io.error_of(thin.write, 8 * KIB, bytes(4 * KIB)) == errno.EIO
    rig.down(pool)
    pool.meta.good()
    rig.recover(pool)
    prove_all(rig, pool, slots, frozen)


# -- commits that fail -------------------------------------------------------------------


@pytest.mark.improvement("B7")
@pytest.mark.parametrize("text", ["create_thin 1", "create_snap 1 0", "delete 5", "set_transaction_id 0 7"])
def test_message_tells_of_its_lost_commit(breakable, text):
    pool, _ = breakable
    pool.create_thin(5)
    pool.meta.fail_writes()
    assert error_of(pool.message, text) == errno.EIO
    status = pool.status()
    assert (status.mode, status.transaction_id) == ("ro", 0)


@pytest.mark.improvement("B8")
def test_lost_mappings_are_not_counted(breakable):
    pool, thin = breakable
    before = thin.status().text
    pool.meta.fail_writes()
    thin.fill_blocks(6, 1, seed=2)
    pool.status()
    assert pool.status().mode == "ro"
    assert thin.status().text == before == "512 511"
    thin.zero_blocks(6, 1)


@pytest.mark.improvement("B8")
def test_lost_transaction_id_is_not_shown(breakable):
    pool, _ = breakable
    pool.message("set_transaction_id 0 3")
    pool.meta.fail_writes()
    error_of(pool.message, "set_transaction_id 3 4")
    assert pool.status().transaction_id == 3


def test_lost_thin_cannot_be_opened(rig, breakable):
    pool, _ = breakable
    pool.meta.fail_writes()
    error_of(pool.create_thin, 1)
    pool.meta.good()
    assert pool.status().mode == "ro"
    assert error_of(rig.device().create, f"0 8192 thin {pool} 1") == errno.ENODATA


@pytest.mark.improvement("B17")
def test_needs_check_is_on_the_disk_at_once(rig):
    data = rig.switch(64 * MIB)
    pool = rig.pool(data=data)
    pool.thin(0).fill_blocks(0, 4, seed=1)
    pool.status()
    data.fail_writes()
    error_of(pool.create_thin, 1)  # its commit cannot flush the data device
    assert pool.status().needs_check
    assert metadata.Superblock(pool.meta).needs_check
    pool.expect_needs_check = True
    data.good()


@pytest.mark.improvement("lost-flush")
def test_journal_does_not_vouch_for_what_is_lost(rig, directory):
    """A file system's fsync is one write after a flush, when its blocks are all there."""
    where = f"{directory}/mnt"
    data = rig.switch(80 * MIB)
    pool = rig.pool(data=data, features=["skip_block_zeroing", "ignore_discard"])
    thin = pool.thin(0, sectors=131072)
    thin.fill_blocks(0, 64 * MIB // pool.block, seed=1)
    tree.make_filesystem("ext4", thin)
    os.makedirs(where, exist_ok=True)
    proc.run("mount", "-o", "commit=300", thin, where)  # nothing but fsync writes to the journal
    try:
        with open(f"{where}/file", "wb", buffering=0) as file:
            file.write(b"x" * KIB)
            os.fsync(file.fileno())
            pool.status()
            data.fail_flushes()
            file.write(b"y" * 100 * KIB)
            with pytest.raises(OSError) as caught:
                os.fsync(file.fileno())
        assert caught.value.errno == errno.EIO
        assert pool.status().mode == "rw"
    finally:
        data.good()
        tree.unmount(where)
    proc.run("e2fsck", "-fy", thin, check=False)
    tree.check_filesystem("ext4", thin)


def test_lost_flush_leaves_others_alone(rig):
    """Its own caller has been told; who writes by himself has not asked for it."""
    data = rig.switch(64 * MIB)
    pool = rig.pool(data=data)
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    pool.status()
    data.fail_flushes()
    assert io.error_of(thin.flush) == errno.EIO
    data.good()
    thin.write(0, b"y" * 4 * KIB, fua=True)
    thin.flush()
    assert thin.read(0, 4 * KIB) == b"y" * 4 * KIB


# -- I/O that fails ----------------------------------------------------------------------


@pytest.mark.improvement("B6")
@pytest.mark.parametrize("what", ["zero", "copy", "overwrite"])
def test_failed_first_write_leaks_nothing(rig, what):
    data = rig.switch(2 * MIB)
    pool = rig.pool(size=2 * MIB, data=data)
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    if what == "copy":
        pool.snapshot(thin, 1)
    before = pool.status().used
    data.fail_all()
    length = pool.block if what == "overwrite" else 4 * KIB
    assert io.error_of(thin.fill, 0 if what == "copy" else 8 * pool.block, length, 2) == errno.EIO
    data.good()
    assert pool.status().used == before
    thin.verify_blocks(0, 4, seed=1)
    # Every block of the device can still be had.
    thin.fill_blocks(4, 28, seed=3)
    assert pool.status().used == 32
    rig.stop(pool)


@pytest.mark.parametrize("bs", [128, 16384])
def test_device_that_cannot_zero_after_all(rig, bs):
    """A loop device finds out on the first try that its file system cannot, while others are under way."""
    data = rig.switch(64 * MIB)
    pool = rig.pool(bs=bs, data=data)
    thin = pool.thin(0)
    data.suspend(noflush=True)  # what comes waits, with the limits that it found
    jobs = [io.Job(io.fill, thin.path, n * pool.block + 8 * KIB, 4 * KIB, 1) for n in range(4)]
    assert not jobs[0].done(1)
    io.zeroout(data.lower.path, 63 * MIB, MIB)
    data.resume()
    for job in jobs:
        job.result()
    for n in range(4):
        thin.verify_zero(n * pool.block, 8 * KIB)
        thin.verify(n * pool.block + 8 * KIB, 4 * KIB, seed=1)
        thin.verify_zero(n * pool.block + 12 * KIB, pool.block - 12 * KIB)


@pytest.mark.improvement("B4")
def test_interrupted_noflush_suspend(rig):
    data = rig.switch(64 * MIB)
    pool = rig.pool(data=data)
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    pool.status()
    data.hold(reads=True)
    reader = io.Job(io.read, thin.path, 0, 4096)
    wait_for(lambda: data.held()[0], "a read is at the data device")
    suspend = proc.start("dmsetup", "suspend", "--noflush", "--nolockfs", thin.name)

    def blocked():
        probe = io.Job(io.read, thin.path, MIB, 4096)  # of a hole
        if not probe.done(0.5):
            return probe
        probe.result()

    waiting = wait_for(blocked, "the thin takes no I/O any more")
    suspend.send_signal(signal.SIGINT)
    suspend.communicate()
    assert suspend.returncode
    data.good()
    assert reader.result() == io.pattern(1, 0, 4096)
    assert waiting.result() == bytes(4096)
    thin.verify_blocks(0, 4, seed=1)
    thin.fill_blocks(4, 4, seed=1)
    thin.verify_blocks(0, 8, seed=1)


# -- modes that give no space ------------------------------------------------------------


def out_of_data_space(rig):
    pool = rig.pool(size=2 * MIB, features=["error_if_no_space"])
    thin = pool.thin(0, sectors=8192)
    thin.fill_blocks(1, 32, seed=1)
    assert io.error_of(thin.fill_blocks, 40, 1, 1) == errno.ENOSPC
    pool.status()
    return pool, thin


def read_only(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(1, 4, seed=1)
    pool.change(features=["read_only"])
    return pool, thin


MODES = pytest.mark.parametrize("mode", [out_of_data_space, read_only])


@pytest.mark.improvement("B5")
@MODES
def test_flush_needs_no_block(rig, mode):
    """Block 0 is a hole."""
    pool, thin = mode(rig)
    thin.flush()
    assert pool.status().mode != "rw"
    thin.verify_blocks(1, 4, seed=1)


@pytest.mark.improvement("B10")
@MODES
@pytest.mark.parametrize("sectors", [2048, 2048 + 24], ids=["aligned", "straddled"])
def test_reads_beyond_a_small_origin(rig, mode, sectors):
    pool, _ = mode(rig)
    origin = rig.disk(sectors * 512)
    io.fill(origin.path, 0, sectors * 512, seed=5)
    thin = pool.activate(0, sectors=8192, origin=origin)
    thin.verify_blocks(1, 4, seed=1)
    if mode is read_only:
        thin.verify_blocks(5, 11, seed=5)
        thin.verify(MIB, sectors * 512 - MIB, seed=5)
        thin.verify_zero(sectors * 512, MIB)
    thin.zero_blocks(40, 2)


@pytest.mark.improvement("B11")
@pytest.mark.parametrize("grown", ["data", "metadata"])
def test_read_only_pool_on_grown_devices(rig, grown):
    pool = rig.pool()
    pool.thin(0).fill_blocks(0, 4, seed=1)
    rig.restart(pool)
    pool.remove()
    if grown == "data":
        pool.data.grow(3 * GIB // 512)
        pool.sectors = 3 * GIB // 512
    else:
        pool.meta.grow(128 * MIB // 512)
    pool.features = ("read_only",)
    pool.start()
    status = pool.status()
    assert status.mode == "ro"
    assert (status.needs_check, status.total, status.meta_total) == (False, 1024, 1024)
    pool.activate(0).verify_blocks(0, 4, seed=1)
    pool.change(features=())
    status = pool.status()
    assert status.mode == "rw"
    assert (status.total, status.meta_total) == ((49152, 1024) if grown == "data" else (1024, 32768))


@pytest.mark.improvement("B2")
def test_discard_that_ends_in_read_only_mode(rig):
    data = rig.switch(64 * MIB)
    pool = rig.pool(data=data, meta=rig.switch())
    thin = pool.thin(0)
    thin.fill_blocks(0, 8, seed=1)
    pool.status()
    data.hold(writes=True)
    job = io.Job(io.discard, thin.path, 0, 8 * pool.block)
    wait_for(lambda: thin.status().mapped == 0, "the discard has unmapped its blocks")
    wait_for(lambda: data.held()[1], "a discard is at the data device")
    pool.meta.fail_writes()
    error_of(pool.create_thin, 1)
    assert pool.status().mode == "ro"
    pool.meta.good()
    data.good()
    failed = job.errno()
    assert pool.status().mode == "ro"
    assert failed is None
    assert io.read(thin.path, 0, 4096)
    rig.stop_quietly(pool)
    metadata.check(pool.meta)
