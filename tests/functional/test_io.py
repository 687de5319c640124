"""Reads, first writes and copy-on-write as seen from above."""

import os
import random

import pytest
from lib import dm, io, metadata, proc, tree
from lib.proc import wait_for
from lib.thin import KIB, MIB

BLOCK_SIZES = [128, 384, 2048]


@pytest.mark.parametrize("bs", BLOCK_SIZES)
def test_holes_read_zero_and_allocate_nothing(rig, bs):
    pool = rig.pool(bs=bs)
    io.fill(pool.data.path, 0, 8 * MIB, seed=9)  # what lies on the disk must not shine through
    thin = pool.thin(0)
    thin.verify_zero(0, 4 * MIB)
    assert thin.status().text == "0 -"
    assert pool.status().used == 0


def test_holes_are_read_without_the_disk(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 1, seed=1)
    before = dm.reads_done(pool.data)
    thin.zero_blocks(1, 100)
    assert dm.reads_done(pool.data) == before


def test_whole_blocks_are_written_once(rig):
    """Neither zeroed nor copied, new or shared."""
    pool = rig.pool()
    thin = pool.thin(0)
    before = dm.sectors_written(pool.data)
    thin.fill_blocks(0, 8, seed=1)
    assert dm.sectors_written(pool.data) == before + 8 * 128
    pool.snapshot(thin, 1)
    reads, before = dm.reads_done(pool.data), dm.sectors_written(pool.data)
    thin.fill_blocks(0, 8, seed=2)
    assert dm.sectors_written(pool.data) == before + 8 * 128
    assert dm.reads_done(pool.data) == reads
    pool.activate(1).verify_blocks(0, 8, seed=1)


@pytest.mark.parametrize("bs", BLOCK_SIZES)
@pytest.mark.parametrize("offset, length", [(0, 4 * KIB), (512, 512), (20 * KIB, 8 * KIB), (60 * KIB, 4 * KIB)])
def test_partial_first_write_zeroes_the_rest(rig, bs, offset, length):
    pool = rig.pool(size=16 * MIB, bs=bs)
    io.fill(pool.data.path, 0, 16 * MIB, seed=9)
    thin = pool.thin(0)
    for block in (0, 3):
        at = block * pool.block
        thin.fill(at + offset, length, seed=1)
        thin.verify(at + offset, length, seed=1)
        if offset:
            thin.verify_zero(at, offset)
        thin.verify_zero(at + offset + length, pool.block - offset - length)
    assert pool.status().used == 2


def test_skip_block_zeroing_keeps_stale_data(rig):
    pool = rig.pool(size=16 * MIB, features=["skip_block_zeroing"])
    io.fill(pool.data.path, 0, 16 * MIB, seed=9)
    thin = pool.thin(0)
    thin.fill(8 * KIB, 4 * KIB, seed=1)
    thin.verify(8 * KIB, 4 * KIB, seed=1)
    assert thin.read(0, 4 * KIB) == io.read(pool.data.path, 0, 4 * KIB) != bytes(4 * KIB)
    thin.zero_blocks(1, 1)  # a hole is a hole


@pytest.mark.parametrize("bs", BLOCK_SIZES)
@pytest.mark.parametrize("features", [[], ["skip_block_zeroing"]], ids=["zeroing", "skip"])
def test_write_across_blocks(rig, bs, features):
    pool = rig.pool(bs=bs, features=features)
    thin = pool.thin(0)
    thin.fill(0, 6 * MIB, seed=1)
    thin.verify(0, 6 * MIB, seed=1)
    # One request over many blocks, from the middle of one to the middle of another.
    thin.write(pool.block // 2, io.pattern(2, pool.block // 2, 3 * pool.block))
    thin.verify(pool.block // 2, 3 * pool.block, seed=2)
    thin.verify(0, pool.block // 2, seed=1)
    thin.verify(pool.block * 7 // 2, MIB, seed=1)


def test_many_writers_of_one_new_block(rig):
    """Writes that arrive while a block is being zeroed wait for it and are all kept."""
    pool = rig.pool(bs=2048)
    thin = pool.thin(0)
    for block in range(4):
        at = block * pool.block
        jobs = [io.Job(io.write, thin.path, at + n * 64 * KIB, io.pattern(1, at + n * 64 * KIB, 64 * KIB)) for n in range(16)]
        for job in jobs:
            job.result()
    thin.verify(0, 4 * MIB, seed=1)
    assert pool.status().used == 4


def test_random_writes_against_a_model(rig):
    """A thin, snapshots of it and of them: every sector is what was last written there."""
    chance = random.Random(7)
    pool = rig.pool(size=128 * MIB)
    sectors = 4096  # 2 MiB, 32 blocks
    models, thins = {0: bytearray(sectors * 512)}, {0: pool.thin(0, sectors=sectors)}
    for step in range(300):
        victim = chance.choice(list(models))
        what = chance.random()
        at = chance.randrange(sectors)
        length = min(sectors - at, chance.choice([1, 1, 8, 16, 128, 300]))
        if what < 0.72:
            data = io.pattern(step, at * 512, length * 512)
            thins[victim].write(at * 512, data)
            models[victim][at * 512 : (at + length) * 512] = data
        elif what < 0.84:
            first, last = -(-at // 128), (at + length) // 128
            thins[victim].discard(at * 512, length * 512)
            if last > first:
                models[victim][first * 65536 : last * 65536] = bytes((last - first) * 65536)
        elif what < 0.9 and len(models) < 6:
            new = step + 1
            pool.snapshot(thins[victim], new)
            thins[new] = pool.activate(new, sectors=sectors)
            models[new] = bytearray(models[victim])
        else:
            found = thins[victim].read(at * 512, length * 512)
            assert found == models[victim][at * 512 : (at + length) * 512], f"step {step}, thin {victim}"
    for thin_id, thin in thins.items():
        assert thin.read(0, sectors * 512) == models[thin_id], f"thin {thin_id} at the end"
    pool.status()
    rig.restart(pool)
    for thin_id, model in models.items():
        assert pool.activate(thin_id, sectors=sectors).read(0, sectors * 512) == model, f"thin {thin_id}, pool reopened"


# -- copy-on-write -----------------------------------------------------------------------


@pytest.mark.parametrize("bs", BLOCK_SIZES)
def test_snapshot_keeps_the_old_data(rig, bs):
    pool = rig.pool(bs=bs)
    thin = pool.thin(0)
    thin.fill_blocks(0, 8, seed=1)
    pool.snapshot(thin, 1)
    assert pool.status().used == 8
    thin.fill_blocks(1, 2, seed=2)  # whole blocks
    thin.fill(4 * pool.block + 4 * KIB, 4 * KIB, seed=3)  # part of one: the rest is copied
    assert pool.status().used == 11
    snap = pool.activate(1)
    snap.verify_blocks(0, 8, seed=1)
    thin.verify_blocks(0, 1, seed=1)
    thin.verify_blocks(1, 2, seed=2)
    thin.verify_blocks(3, 1, seed=1)
    thin.verify(4 * pool.block, 4 * KIB, seed=1)
    thin.verify(4 * pool.block + 4 * KIB, 4 * KIB, seed=3)
    thin.verify(4 * pool.block + 8 * KIB, pool.block - 8 * KIB, seed=1)


def test_writing_the_snapshot_leaves_the_origin(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 8, seed=1)
    pool.snapshot(thin, 1)
    snap = pool.activate(1)
    snap.fill(0, 2 * MIB, seed=2)
    thin.verify_blocks(0, 8, seed=1)
    thin.zero_blocks(8, 8)
    snap.verify(0, 2 * MIB, seed=2)
    assert pool.status().used == 40


def test_reads_and_flushes_break_no_sharing(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 8, seed=1)
    pool.snapshot(thin, 1)
    snap = pool.activate(1)
    snap.verify_blocks(0, 8, seed=1)
    thin.verify_blocks(0, 8, seed=1)
    snap.flush()
    thin.flush()
    assert pool.status().used == 8


def test_own_block_is_not_copied_again(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    pool.snapshot(thin, 1)
    for seed in range(2, 6):
        thin.fill(0, 4 * KIB, seed=seed)
        thin.fill_blocks(2, 1, seed=seed)
    assert pool.status().used == 6
    thin.verify(0, 4 * KIB, seed=5)
    thin.verify(4 * KIB, 60 * KIB, seed=1)


def test_freed_shared_blocks(rig):
    """A block two devices share is free when the last of them lets go."""
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 8, seed=1)
    pool.snapshot(thin, 1)
    thin.discard_blocks(0, 8)
    assert pool.status().used == 8
    snap = pool.activate(1)
    snap.verify_blocks(0, 8, seed=1)
    snap.discard_blocks(0, 4)
    assert pool.status().used == 4
    snap.verify_blocks(4, 4, seed=1)
    snap.zero_blocks(0, 4)


def test_snapshot_of_an_inactive_thin(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    thin.remove()
    pool.create_snap(1, 0)
    pool.delete(0)
    pool.activate(1).verify_blocks(0, 4, seed=1)
    assert pool.status().used == 4


def test_concurrent_writers_on_shared_blocks(rig):
    pool = rig.pool(bs=384)
    thin = pool.thin(0)
    thin.fill(0, 3 * MIB, seed=1)
    pool.snapshot(thin, 1)
    snap = pool.activate(1)
    jobs = []
    for n in range(12):
        for device, seed in ((thin, 2), (snap, 3)):
            jobs.append(io.Job(io.fill, device.path, n * 256 * KIB, 128 * KIB, seed))
    for job in jobs:
        job.result()
    for n in range(12):
        for device, seed in ((thin, 2), (snap, 3)):
            device.verify(n * 256 * KIB, 128 * KIB, seed)
            device.verify(n * 256 * KIB + 128 * KIB, 128 * KIB, seed=1)


# -- flush and FUA -----------------------------------------------------------------------


def test_flush_commits_what_was_written(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    for block in range(1, 20):
        thin.fill_blocks(block, 1, seed=1)
        thin.flush()
        assert metadata.Superblock(pool.meta).data_used == block


def test_fua_write_commits_its_mapping(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    for n in range(1, 20):
        if n % 2:
            thin.fill(n * pool.block, 4 * KIB, seed=1, fua=True)
        else:
            thin.fill(n * pool.block, pool.block, seed=1, fua=True)
        assert metadata.Superblock(pool.meta).data_used == n


def test_flush_without_changes_commits_nothing(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    pool.status()
    before = metadata.Superblock(pool.meta).raw
    thin.flush()
    thin.fill_blocks(0, 2, seed=2)
    thin.flush()
    thin.fill(0, 4 * KIB, seed=3, fua=True)
    assert metadata.Superblock(pool.meta).raw == before


def test_pool_commits_by_itself(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    wait_for(lambda: metadata.Superblock(pool.meta).data_used == 4, "the periodic commit")


# -- the pool device itself --------------------------------------------------------------


def test_pool_device_is_the_data_device(rig):
    pool = rig.pool(size=8 * MIB)
    io.fill(pool.path, 4 * MIB, MIB, seed=5)
    io.verify(pool.data.path, 4 * MIB, MIB, seed=5)
    io.verify(pool.path, 4 * MIB, MIB, seed=5)
    io.flush(pool.path)


def test_queue_limits(rig):
    pool = rig.pool(bs=1024)
    thin = pool.thin(0)
    assert thin.attribute("optimal_io_size") == pool.attribute("optimal_io_size") == 512 * KIB
    assert thin.attribute("discard_granularity") == 512 * KIB
    assert thin.attribute("discard_max_bytes") >= 512 * KIB
    with open(f"{thin.queue}/write_cache", encoding="ascii") as file:
        assert file.read().strip() == "write back"
    assert thin.attribute("fua") == 1


def test_throttled_copies(rig):
    """snapshot_copy_throttle is about their pace alone."""
    rig.parameter("snapshot_copy_throttle", 10)
    pool = rig.pool(bs=2048)
    thin = pool.thin(0)
    thin.fill_blocks(0, 8, seed=1)
    pool.snapshot(thin, 1)
    for block in range(8):
        thin.fill(block * pool.block + 4 * KIB, 4 * KIB, seed=2)
    for block in range(8):
        thin.verify(block * pool.block, 4 * KIB, seed=1)
        thin.verify(block * pool.block + 4 * KIB, 4 * KIB, seed=2)
        thin.verify(block * pool.block + 8 * KIB, MIB - 8 * KIB, seed=1)
    pool.activate(1).verify_blocks(0, 8, seed=1)


@pytest.mark.parametrize("fs", ["ext4", "xfs"])
def test_mkfs_and_fstrim(rig, fs):
    pool = rig.pool(size=512 * MIB)
    thin = pool.thin(0)
    tree.make_filesystem(fs, thin)
    where = os.path.join(rig.directory, "mnt")
    os.makedirs(where, exist_ok=True)
    proc.run("mount", thin, where)
    try:
        with open(f"{where}/big", "wb") as file:
            for n in range(32):
                file.write(io.pattern(n, 0, MIB))
            file.flush()
            os.fsync(file.fileno())
        full = pool.status().used
        os.unlink(f"{where}/big")
        proc.run("sync", "-f", where)

        def has_come_back():
            proc.run("fstrim", where)
            return pool.status().used <= full - 32 * 16 + 16

        # xfs frees a deleted file's blocks behind the back of who deletes it.
        wait_for(has_come_back, "the space comes back", timeout=60)
    finally:
        proc.run("umount", where)


@pytest.mark.parametrize("fs", ["ext4", "xfs"])
def test_second_file_system_frees_the_first(rig, fs):
    """mkfs discards the whole device before it begins."""
    pool = rig.pool(size=512 * MIB)
    thin = pool.thin(0)
    tree.make_filesystem(fs, thin)
    empty = pool.status().used
    where = os.path.join(rig.directory, "mnt")
    os.makedirs(where, exist_ok=True)
    tree.mount(fs, thin, where)
    try:
        with open(f"{where}/big", "wb") as file:
            file.write(bytes(range(256)) * (24 * MIB // 256))
    finally:
        tree.unmount(where)
    assert pool.status().used >= empty + 24 * 16
    below = pool.data.used_bytes()
    tree.make_filesystem(fs, thin)
    # Where a log lies in a block that no longer is all of it, a few more or less.
    assert pool.status().used <= empty + 16
    wait_for(lambda: pool.data.used_bytes() <= below - 20 * MIB, "the disk below has the space back")
    proc.run("blkdiscard", thin)
    assert pool.status().used == 0
    assert thin.status().text == "0 -"


# -- blocks that are shared no more ------------------------------------------------------


def lose_by_delete(pool, thin):
    pool.snapshot(thin, 1)
    pool.delete(1)


def lose_by_discard(pool, thin):
    pool.snapshot(thin, 1)
    snap = pool.activate(1)
    snap.discard_blocks(0, 8)
    snap.remove()


def lose_by_release(pool, thin):
    pool.snapshot(thin, 1)
    pool.message("reserve_metadata_snap")
    pool.delete(1)
    pool.message("release_metadata_snap")


@pytest.mark.improvement("B20")
@pytest.mark.parametrize("lose", [lose_by_delete, lose_by_discard, lose_by_release])
def test_last_owner_of_a_block_writes_in_place(rig, lose):
    """In a pool without a free block, so that no copy can be made."""
    pool = rig.pool(size=8 * 65536, features=["error_if_no_space"])
    thin = pool.thin(0)
    thin.fill_blocks(0, 8, seed=1)
    lose(pool, thin)
    for block in range(8):
        thin.write(block * pool.block + 4096, bytes(4096))
    thin.verify(0, 4096, seed=1)
    thin.verify_zero(4096, 4096)
    thin.verify(8192, pool.block - 8192, seed=1)
    status = pool.status()
    assert (status.mode, status.used) == ("rw", 8)


def test_block_that_others_have_is_copied(rig):
    pool = rig.pool(size=16 * 65536)
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    pool.snapshot(thin, 1)
    pool.snapshot(thin, 2)
    pool.delete(1)
    thin.fill_blocks(0, 4, seed=2)
    pool.activate(2).verify_blocks(0, 4, seed=1)
    thin.verify_blocks(0, 4, seed=2)
    assert pool.status().used == 8


def test_lookups_read_beside_each_other(rig):
    """Each of another leaf of the mapping tree, behind one that is slow."""
    pool = rig.pool(meta=rig.switch(), size=160 * MIB)
    thin = pool.thin(0, sectors=2000 * 128)
    io.scatter(thin.path, [n * pool.block for n in range(2000)])
    rig.restart(pool)
    thin = pool.activate(0, sectors=2000 * 128)
    thin.read(0, 4 * KIB)  # what is above the leaves is in memory from here on
    pool.meta.slow(reads=3000)
    jobs = [io.Job(io.read, thin.path, n * 260 * pool.block, 4 * KIB) for n in range(1, 8)]
    most = 0
    while not all(job.done() for job in jobs):
        most = max(most, pool.meta.held()[0])
    for job in jobs:
        assert job.result() == b"x" * 4 * KIB
    pool.meta.good()
    assert most >= 4
