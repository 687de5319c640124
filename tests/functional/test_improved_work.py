"""Where the kernel's own module does too much, too little or the wrong thing: discards, deletion, commits, origins."""

import os

import pytest
from lib import dm, io, metadata, proc
from lib.proc import wait_for
from lib.thin import KIB, MIB

# -- discards ----------------------------------------------------------------------------


@pytest.mark.parametrize("copier", ["snapshot", pytest.param("itself", marks=pytest.mark.improvement("B18"))])
def test_discard_around_a_block_that_is_being_copied(rig, copier):
    """Its range is two on the data device, and the first block of the first is just being copied."""
    pool = rig.pool(size=256 * MIB, data=rig.switch(256 * MIB))
    spacer, thin = pool.thin(9), pool.thin(0)
    spacer.fill_blocks(0, 512, seed=9)
    thin.fill_blocks(0, 1024, seed=1)  # data blocks 512 to 1535
    pool.snapshot(thin, 1)
    snap = pool.activate(1)
    pool.status()
    pool.data.hold(reads=True)
    writer = snap if copier == "snapshot" else thin
    copy = io.Job(io.fill, writer.path, 0, 4 * KIB, 2)
    wait_for(lambda: pool.data.held()[0], "the copy reads its source")
    discard = io.Job(io.discard, thin.path, 0, 1024 * pool.block)
    discard.done(3)
    pool.data.good()
    copy.result()
    discard.result()
    assert thin.status().text == "0 -"
    thin.zero_blocks(0, 1024)
    if copier == "snapshot":
        snap.verify(0, 4 * KIB, seed=2)
        snap.verify(4 * KIB, 1024 * pool.block - 4 * KIB, seed=1)
    else:
        snap.verify_blocks(0, 1024, seed=1)
    assert pool.status().used == 512 + 1024


def test_discards_end_under_a_load_of_writes(rig):
    """Writers on the very range that is discarded go on until all discards have ended."""
    pool = rig.pool()
    thin = pool.thin(0)
    jobs = [io.Job(io.rewrite, thin.path, n * 4 * MIB, 4 * MIB, f"{rig.directory}/stop") for n in range(3)]
    for _ in range(20):
        wait_for(lambda: thin.status().mapped, "the writers have begun anew", pause=0.005)
        thin.discard(0, 12 * MIB)
    with open(f"{rig.directory}/stop", "w", encoding="ascii"):
        pass
    for job in jobs:
        assert job.result() > 0
    os.unlink(f"{rig.directory}/stop")
    thin.discard(0, 12 * MIB)
    assert pool.status().used == 0


def test_writes_end_under_a_load_of_discards(rig):
    """Of the very range; there is always one under way and others that wait for it."""
    pool = rig.pool()
    thin = pool.thin(0)
    stop = f"{rig.directory}/stop"
    # The kernel discards on one device after the other.
    beside = [rig.device(f"0 {thin.sectors} linear {thin} 0") for _ in range(4)]
    jobs = [io.Job(io.discard_again, device.path, 0, (n + 1) * 4 * MIB, stop) for n, device in enumerate(beside)]
    for job in jobs:
        wait_for(job.sleeps, "its discards have begun", pause=0.001)
    writer = io.Job(io.step, thin.path, [at * pool.block for at in range(32)] * 8, 4 * KIB)
    assert writer.errno() is None
    with open(stop, "w", encoding="ascii"):
        pass
    for job in jobs:
        assert job.result() > 0
    os.unlink(stop)
    for device in beside:
        device.remove()
    thin.discard(0, 16 * MIB)
    assert pool.status().used == 0


@pytest.mark.improvement("B25")
def test_discard_does_not_wait_for_later_writes(rig):
    """One write to its range has begun before it, one begins while it waits for that."""
    pool = rig.pool(data=rig.switch(64 * MIB))
    thin = pool.thin(0)
    # As above: others come by another one.
    beside = rig.device(f"0 {thin.sectors} linear {thin} 0")
    pool.data.hold(writes=True)
    jobs = []
    for operation, first, blocks, *seed in (io.fill, 0, 1, 1), (io.discard, 0, 8), (io.fill, 4, 1, 2):
        jobs.append(io.Job(operation, thin.path, first * pool.block, blocks * pool.block, *seed))
        wait_for(jobs[-1].sleeps, "the request is on its way")
        # Nothing to do, but its turn comes after that of what is there already.
        io.discard(beside.path, 100 * pool.block, pool.block)
    assert not any(job.done() for job in jobs)
    pool.data.good()
    for job in jobs:
        assert job.errno() is None
    beside.remove()
    assert pool.status().used == 1
    thin.zero_blocks(0, 4)
    thin.verify(4 * pool.block, pool.block, 2)


# -- deletion ----------------------------------------------------------------------------


@pytest.mark.improvement("B22")
def test_writes_go_on_while_a_large_thin_is_deleted(rig):
    """Reads of the metadata are slow, so that the deletion takes its time."""
    blocks = 400000
    meta = rig.switch(32 * MIB)
    metadata.restore(
        meta,
        f'<superblock uuid="" time="0" transaction="0" data_block_size="128" nr_data_blocks="{blocks + 100}">\n'
        f'<device dev_id="0" mapped_blocks="{blocks}" transaction="0" creation_time="0" snap_time="0">\n'
        f'<range_mapping origin_begin="0" data_begin="0" length="{blocks}" time="0"/>\n'
        "</device>\n</superblock>\n",
    )
    pool = rig.pool(size=(blocks + 100) * 65536, meta=meta)
    thin = pool.thin(1)
    thin.fill_blocks(0, 1, seed=1)
    pool.status()
    before = dm.reads_done(meta)
    meta.slow(reads=10)
    deletion = proc.start("dmsetup", "message", pool.name, "0", "delete 0")
    wait_for(lambda: dm.reads_done(meta) >= before + 20, "the deletion reads", pause=0.005)
    thin.fill_blocks(1, 1, seed=1)
    meanwhile = dm.reads_done(meta)
    meta.good()
    _, said = deletion.communicate(timeout=proc.DEADLINE)
    assert deletion.returncode == 0, said
    assert dm.reads_done(meta) >= meanwhile + 200, "the write came last"
    assert pool.status().used == 2


# -- first writes ------------------------------------------------------------------------


@pytest.mark.improvement("extents")
def test_thins_filled_by_turns_stay_in_one_piece_each(rig):
    """Runs of 64 blocks, that is; a sequential read of one is one of the data device, then."""
    pool = rig.pool(size=128 * MIB)
    thins = [pool.thin(n) for n in range(4)]
    for n in range(256):
        for thin in thins:
            thin.fill_blocks(n, 1, seed=thin.id)
    rig.down(pool)
    mapped = metadata.mappings(pool.meta)
    for thin in thins:
        blocks = mapped[thin.id]
        assert len(blocks) == 256
        pieces = 1 + sum(blocks[n + 1] != blocks[n] + 1 for n in range(255))
        assert pieces <= 8, f"thin {thin.id} lies in {pieces} pieces"


# -- commits -----------------------------------------------------------------------------


@pytest.mark.improvement("B23")
def test_status_writes_nothing_when_nothing_changed(rig):
    pool = rig.pool()
    pool.thin(0).fill_blocks(0, 4, seed=1)
    pool.status()
    before = dm.writes_done(pool.meta)
    for _ in range(5):
        pool.status()
    assert dm.writes_done(pool.meta) == before


def pages_in_writeback():
    with open("/proc/meminfo", encoding="ascii") as file:
        return next(int(line.split()[1]) // 4 for line in file if line.startswith("Writeback:"))


@pytest.mark.heavy
@pytest.mark.improvement("B24")
def test_transactions_are_bounded_in_size(rig):
    """A burst of first writes, each in a leaf of its own; the superblock is on a disk of its own, to count commits."""
    leaves = 16000
    head, rest = rig.disk(4 * KIB), rig.disk(256 * MIB)
    meta = rig.device(f"0 8 linear {head} 0\n8 {rest.sectors} linear {rest} 0")
    # 251 of the 252 blocks that a leaf can have are mapped.
    runs = "".join(
        f'<range_mapping origin_begin="{n * 252}" data_begin="{n * 251}" length="251" time="0"/>\n' for n in range(leaves)
    )
    blocks = 252 * leaves
    metadata.restore(
        meta,
        f'<superblock uuid="" time="0" transaction="0" data_block_size="128" nr_data_blocks="{blocks}">\n'
        f'<device dev_id="0" mapped_blocks="{251 * leaves}" transaction="0" creation_time="0" snap_time="0">\n'
        f"{runs}</device>\n</superblock>\n",
    )
    pool = rig.pool(size=blocks * 65536, meta=meta, features=["skip_block_zeroing"])
    thin = pool.activate(0)
    # All writes come at one moment, so that commits by time alone would find them in one piece.
    thin.suspend(noflush=True)
    before = dm.sectors_written(head), dm.sectors_written(rest)
    burst = io.Job(io.scatter, thin.path, [(n * 252 + 251) * pool.block for n in range(leaves)])
    wait_for(lambda: pages_in_writeback() >= leaves, "the writes are there")
    thin.resume()
    burst.result(timeout=300)
    # The burst ends with a flush, so all is committed. A status that flushes would write the superblock once more.
    commits, written = (dm.sectors_written(head) - before[0]) // 8, (dm.sectors_written(rest) - before[1]) // 8
    print(f"{commits} commits wrote {written} blocks")
    assert pool.status(noflush=True).used == blocks
    assert leaves < written < (4096 + 512) * commits


# -- origins -----------------------------------------------------------------------------


@pytest.mark.improvement("B28")
def test_no_stale_data_behind_the_end_of_an_origin(rig):
    """Without zeroing, in the block of which the origin has a part."""
    pool = rig.pool(features=["skip_block_zeroing"])
    io.fill(pool.data.path, 0, 8 * MIB, seed=9)
    origin = rig.disk(MIB + 12 * KIB)
    io.fill(origin.path, 0, MIB + 12 * KIB, seed=5)
    thin = pool.thin(0, sectors=8192, origin=origin)
    thin.verify_zero(MIB + 12 * KIB, 52 * KIB)
    thin.fill(MIB + 4 * KIB, 4 * KIB, seed=1)
    thin.verify(MIB, 4 * KIB, seed=5)
    thin.verify(MIB + 4 * KIB, 4 * KIB, seed=1)
    thin.verify(MIB + 8 * KIB, 4 * KIB, seed=5)
    thin.verify_zero(MIB + 12 * KIB, 52 * KIB)
