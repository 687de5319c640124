"""Status and table lines, and when a status commits."""

import errno

import pytest
from lib import io, metadata
from lib.dm import dmsetup, error_of, number
from lib.proc import wait_for
from lib.thin import MIB


@pytest.mark.parametrize("blocks", [256, 1024, 1026, 16384, 65536])
def test_reserve_and_threshold(rig, blocks):
    """Used metadata includes the reserve: a tenth, 4096 blocks at most. A dozen blocks are really used."""
    pool = rig.pool(meta=blocks * 4096)
    status = pool.status()
    reserve = min(4096, blocks // 10)
    assert status.meta_total == blocks
    assert reserve + 9 <= status.meta_used <= reserve + 16
    assert status.meta_low == min(1024, blocks // 4)


def test_allocations_show_before_a_commit(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    for block in range(5):
        thin.fill_blocks(block, 1, seed=1)
        assert pool.status(noflush=True).used == block + 1


def test_transaction_id_shows_at_once_without_flush(rig):
    pool = rig.pool()
    pool.message("set_transaction_id 0 18446744073709551615")
    assert pool.status(noflush=True).transaction_id == 2**64 - 1
    pool.message("set_transaction_id 18446744073709551615 3")
    assert pool.status(noflush=True).transaction_id == 3


def test_flushing_status_commits(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 7, seed=1)
    assert pool.status().used == 7
    assert metadata.Superblock(pool.meta).data_used == 7


def test_noflush_status_does_not_commit(rig):
    """The pool also commits by itself now and then, so one quiet round out of many is the proof."""
    pool = rig.pool()
    thin = pool.thin(0)

    def quiet_round(block):
        thin.fill_blocks(block, 1, seed=1)
        before = metadata.Superblock(pool.meta)
        shown = pool.status(noflush=True).used
        after = metadata.Superblock(pool.meta)
        return before.raw == after.raw and shown == block + 1 and after.data_used < shown

    assert any(quiet_round(block) for block in range(100))


def test_status_of_a_suspended_pool_does_not_commit(rig):
    pool = rig.pool()
    pool.create_thin(0)
    pool.suspend()
    before = metadata.Superblock(pool.meta).raw
    pool.status()
    assert metadata.Superblock(pool.meta).raw == before
    pool.resume()


def test_held_root_is_shown(rig):
    pool = rig.pool()
    assert pool.status().held == "-"
    pool.message("reserve_metadata_snap")
    held = pool.status().held
    assert held == metadata.Superblock(pool.meta).held_root != 0
    pool.message("release_metadata_snap")
    assert pool.status().held == "-"


@pytest.mark.parametrize(
    "features, words, discard, no_space",
    [
        ([], "0", "discard_passdown", "queue_if_no_space"),
        (["skip_block_zeroing"], "1 skip_block_zeroing", "discard_passdown", "queue_if_no_space"),
        (["ignore_discard"], "1 ignore_discard", "ignore_discard", "queue_if_no_space"),
        (["no_discard_passdown"], "1 no_discard_passdown", "no_discard_passdown", "queue_if_no_space"),
        (["error_if_no_space"], "1 error_if_no_space", "discard_passdown", "error_if_no_space"),
        (
            ["error_if_no_space", "no_discard_passdown", "skip_block_zeroing"],
            "3 skip_block_zeroing no_discard_passdown error_if_no_space",
            "no_discard_passdown",
            "error_if_no_space",
        ),
    ],
)
def test_features_in_table_and_status(rig, features, words, discard, no_space):
    pool = rig.pool(features=features, low_water=12)
    assert pool.table_text() == f"{number(pool.meta.path)} {number(pool.data.path)} 128 12 {words} "
    status = pool.status()
    assert (status.discard, status.no_space) == (discard, no_space)


def test_read_only_pool(rig):
    pool = rig.pool()
    pool.thin(0).fill_blocks(0, 1, seed=1)
    rig.restart(pool)
    pool.remove()
    before = io.read(pool.meta.path, 0, 4 * MIB)
    pool.features = ("read_only", "error_if_no_space")
    pool.start()
    assert pool.table_text().endswith(" 2 read_only error_if_no_space ")
    status = pool.status()
    assert (status.mode, status.needs_check) == ("ro", False)
    assert pool.events == 1
    assert error_of(pool.create_thin, 1) == errno.EOPNOTSUPP
    thin = pool.activate(0)
    thin.verify_blocks(0, 1, seed=1)
    thin.fill_blocks(0, 1, seed=2)
    thin.zero_blocks(1, 1)
    assert io.error_of(thin.write, pool.block, b"x" * 4096) == errno.EIO
    rig.stop(pool)
    assert io.read(pool.meta.path, 0, 4 * MIB) == before


def test_passdown_is_dropped_where_the_disk_cannot(rig):
    pool = rig.pool(data=rig.null_blk(64 * MIB, discard=False))
    assert pool.status().discard == "no_discard_passdown"
    assert pool.table_text().endswith(" 128 0 0 ")
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    thin.discard_blocks(0, 4)
    assert thin.status().text == "0 -"
    thin.zero_blocks(0, 4)


def test_passdown_is_dropped_where_the_disk_takes_too_little(rig):
    """Looked at whenever a table comes into force; the table keeps what was asked for."""
    # Not a loop device: the next to use it would find the limit.
    pool = rig.pool(data=rig.null_blk(64 * MIB, discard=True), start=False)
    limit = f"/sys/dev/block/{number(pool.data.path)}/queue/discard_max_bytes"

    def allow(size):
        with open(limit, "w", encoding="ascii") as file:
            file.write(str(size))

    allow(32 * 1024)
    pool.start()
    assert pool.status().discard == "no_discard_passdown"
    assert pool.table_text().endswith(" 128 0 0 ")
    allow(1 << 30)
    pool.reload(pool.table())
    assert pool.status().discard == "discard_passdown"


def test_thin_status_does_not_commit(rig):
    pool = rig.pool()
    thin = pool.thin(0)

    def quiet_round(block):
        thin.fill_blocks(block, 1, seed=1)
        before = metadata.Superblock(pool.meta).raw
        shown = thin.status().mapped
        return shown == (block + 1) * 128 and metadata.Superblock(pool.meta).raw == before

    # The pool also commits by itself now and then.
    assert any(quiet_round(block) for block in range(100))


def test_no_measurements(rig):
    """The kernel's integrity measurement gets an empty word of both targets."""
    pool = rig.pool()
    thin = pool.thin(0)
    for device, kind in ((pool, "thin-pool"), (thin, "thin")):
        assert dmsetup("measure", device.name).split() == ["0", str(device.sectors), kind]


def test_thin_status_counts_blocks(rig):
    pool = rig.pool(bs=384)
    thin = pool.thin(0)
    thin.write(0, b"x" * 512)
    assert thin.status().text == "384 383"
    thin.write(10 * pool.block + 512, b"x" * 512)
    assert thin.status().text == "768 4223"
    # The block layer cuts a discard at multiples of a power of two, so a single block of
    # this size may never arrive whole: discard everything.
    thin.discard(0, 341 * pool.block)
    assert thin.status().text == "0 -"


def test_snapshot_has_its_own_counts(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    pool.snapshot(thin, 1)
    snap = pool.activate(1)
    assert snap.status().text == thin.status().text == "512 511"
    snap.fill_blocks(9, 1, seed=2)
    assert snap.status().text == "640 1279"
    assert thin.status().text == "512 511"
    assert pool.status().used == 5


def test_status_after_deleting_everything_is_zero(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 32, seed=1)
    pool.snapshot(thin, 1)
    thin.fill_blocks(0, 16, seed=2)
    assert pool.status().used == 48
    thin.remove()
    pool.delete(0)
    assert pool.status().used == 32
    pool.delete(1)
    status = pool.status()
    assert (status.used, status.mode) == (0, "rw")


def test_metadata_usage_returns(rig):
    pool = rig.pool(size=512 * MIB)
    fresh = pool.status().meta_used
    thin = pool.thin(0)
    for block in range(0, 6000, 20):
        thin.write(block * pool.block, b"x" * 512)
    assert pool.status().meta_used > fresh
    thin.remove()
    pool.delete(0)
    wait_for(lambda: pool.status().meta_used == fresh, "metadata blocks of a deleted thin are free again")
