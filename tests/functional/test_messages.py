"""Messages to the pool: their grammar, their meaning, their errnos."""

import errno

import pytest
from lib import io, metadata, proc
from lib.dm import error_of
from lib.thin import MIB

EINVAL = errno.EINVAL


@pytest.fixture
def pool(rig):
    return rig.pool()


REFUSED = [
    "no_such_message",
    "no_such_message 1 2",
    "create_thin",
    "create_thin 1 2",
    "create_thin x",
    "create_thin -1",
    "create_thin 0x1",
    "create_thin 1x",
    "create_thin 16777216",
    "create_thin 4294967296",
    "create_thin 99999999999999999999999",
    "create_snap",
    "create_snap 1",
    "create_snap 1 0 2",
    "create_snap x 0",
    "create_snap 1 x",
    "create_snap 16777216 0",
    "create_snap 1 16777216",
    "delete",
    "delete 0 1",
    "delete x",
    "delete 16777216",
    "set_transaction_id",
    "set_transaction_id 0",
    "set_transaction_id 0 1 2",
    "set_transaction_id x 1",
    "set_transaction_id 0 x",
    "set_transaction_id 0 18446744073709551616",
    "reserve_metadata_snap 1",
    "release_metadata_snap 1",
]


def test_refused(pool):
    pool.create_thin(0)
    before = pool.status()
    for text in REFUSED:
        assert error_of(pool.message, text) == EINVAL, text
    assert pool.status().text == before.text


def test_names_in_any_case_numbers_in_many_forms(pool):
    pool.message("CREATE_thin 0")
    assert error_of(pool.message, "create_thin 00") == errno.EEXIST
    pool.message("Create_Thin +5")
    assert error_of(pool.message, "create_thin 05") == errno.EEXIST
    pool.message("DELETE 5")
    pool.message("Set_Transaction_Id 0 1")


def test_sector_of_a_message(pool):
    assert error_of(pool.message, "create_thin 1", sector=5) is None
    assert error_of(pool.message, "create_thin 2", sector=131072) == EINVAL


def test_no_live_table(rig):
    device = rig.device(kind="pool")
    device.create_empty()
    assert error_of(device.message, "create_thin 0") == EINVAL


def test_pool_that_is_being_removed(rig):
    """Its name is gone before its last commit has ended."""
    meta = rig.switch()
    pool = rig.pool(meta=meta)
    thin = pool.thin(0)
    # Before there is anything to commit, which happens by itself after a second.
    meta.hold(writes=True)
    thin.fill_blocks(0, 4, seed=1)
    thin.remove()
    removal = proc.start("dmsetup", "remove", pool.name)
    proc.wait_for(lambda: meta.held()[1], "the last commit writes")
    assert removal.poll() is None
    assert error_of(pool.message, "create_thin 1") == errno.ENXIO
    meta.good()
    _, said = removal.communicate(timeout=proc.DEADLINE)
    assert removal.returncode == 0, said
    pool.start()
    assert error_of(pool.create_thin, 1) is None
    pool.activate(0).verify_blocks(0, 4, seed=1)


def test_suspended_pool_takes_messages_and_commits(rig, pool):
    pool.suspend()
    pool.create_thin(4)
    pool.message("set_transaction_id 0 9")
    assert metadata.Superblock(pool.meta).transaction_id == 9
    pool.resume()
    assert error_of(pool.create_thin, 4) == errno.EEXIST


ALL = ["create_thin 5", "create_snap 6 0", "set_transaction_id 0 1", "reserve_metadata_snap", "release_metadata_snap", "delete 5"]


@pytest.mark.parametrize("features", [[], ["error_if_no_space"]], ids=["queue", "error"])
def test_full_pool_takes_every_message(rig, features):
    rig.parameter("no_space_timeout", 0)
    pool = rig.pool(size=MIB, features=features)
    thin = pool.thin(0, sectors=4096)
    job = io.Job(io.fill, thin.path, 0, 17 * pool.block, 1)
    proc.wait_for(lambda: pool.status(noflush=True).mode == "out_of_data_space", "the pool is full")
    for text in ALL:
        assert error_of(pool.message, text) is None, text
    status = pool.status()
    assert (status.mode, status.transaction_id, status.held) == ("out_of_data_space", 1, "-")
    assert error_of(pool.delete, 5) == errno.ENODATA
    pool.data.grow(4096)
    pool.change(sectors=4096)
    job.errno()


@pytest.mark.parametrize("flagged", [False, True], ids=["read_only", "needs_check"])
def test_read_only_pool_takes_none(rig, pool, flagged):
    """Whatever it says: that is not even looked at."""
    pool.create_thin(0)
    if flagged:
        pool.remove()
        metadata.patch_superblock(pool.meta, {4: b"\1"})
        pool.start()
        pool.expect_needs_check = True
    else:
        pool.change(features=["read_only"])
    before = io.read(pool.meta.path, 0, 4 * MIB)
    for text in [*ALL, "create_thin 0", "no_such_message", "create_thin"]:
        assert error_of(pool.message, text) == errno.EOPNOTSUPP, text
    assert io.read(pool.meta.path, 0, 4 * MIB) == before


def test_errnos_of_ids(pool):
    pool.create_thin(0)
    pool.create_thin(1)
    assert error_of(pool.create_thin, 0) == errno.EEXIST
    assert error_of(pool.create_snap, 0, 0) == errno.EEXIST
    assert error_of(pool.create_snap, 0, 77) == errno.EEXIST  # the new id is looked at first
    assert error_of(pool.create_snap, 2, 77) == errno.ENODATA
    assert error_of(pool.delete, 77) == errno.ENODATA
    pool.create_snap(2, 1)
    assert error_of(pool.create_thin, 2) == errno.EEXIST
    pool.delete(1)
    assert error_of(pool.delete, 1) == errno.ENODATA
    pool.create_thin(1)


def test_failed_snapshot_does_not_advance_the_clock(pool):
    pool.create_thin(0)
    pool.create_snap(1, 0)
    before = metadata.Superblock(pool.meta).time
    assert error_of(pool.create_snap, 2, 99) == errno.ENODATA
    pool.create_thin(5)
    assert metadata.Superblock(pool.meta).time == before
    pool.create_snap(2, 0)
    assert metadata.Superblock(pool.meta).time == before + 1


def test_messages_commit(pool):
    pool.create_thin(0)
    pool.message("set_transaction_id 0 1")
    assert metadata.Superblock(pool.meta).transaction_id == 1
    pool.message("set_transaction_id 1 0")
    assert metadata.Superblock(pool.meta).transaction_id == 0


def test_transaction_id_compares_and_swaps(pool):
    for old, new in ((0, 1), (1, 100), (100, 2), (2, 2), (2, 2**64 - 1), (2**64 - 1, 0)):
        pool.message(f"set_transaction_id {old} {new}")
        assert pool.status(noflush=True).transaction_id == new
    assert error_of(pool.message, "set_transaction_id 1 2") == EINVAL
    assert pool.status().transaction_id == 0


def test_many_devices(rig, pool):
    ids = [(n * 7919) % 16777216 for n in range(200)]
    for thin_id in ids:
        pool.create_thin(thin_id)
    for thin_id in ids[::2]:
        pool.delete(thin_id)
    rig.stop(pool)
    assert set(metadata.mappings(pool.meta)) == set(ids[1::2])


def test_creation_fields_on_disk(rig, pool):
    pool.message("set_transaction_id 0 3")
    pool.create_thin(0)
    pool.create_snap(1, 0)
    pool.message("set_transaction_id 3 4")
    pool.create_snap(2, 1)
    rig.stop(pool)
    text = metadata.dump(pool.meta)
    lines = {line.split('"')[1]: line for line in text.splitlines() if "<device" in line}
    assert 'mapped_blocks="0" transaction="3" creation_time="0" snap_time="1"' in lines["0"]
    assert 'mapped_blocks="0" transaction="3" creation_time="1" snap_time="2"' in lines["1"]
    assert 'mapped_blocks="0" transaction="4" creation_time="2" snap_time="2"' in lines["2"]


def test_metadata_snapshot_can_be_read_on_a_live_pool(rig, pool):
    thin = pool.thin(0)
    thin.fill_blocks(0, 3, seed=1)
    pool.message("reserve_metadata_snap")
    thin.fill_blocks(10, 3, seed=1)
    thin.fill_blocks(0, 1, seed=2)
    found = metadata.mappings(pool.meta, "-m")
    assert set(found[0]) == {0, 1, 2}
    # A superblock of its own, without the space maps.
    assert 'nr_data_blocks="0"' in metadata.dump(pool.meta, "-m")
    first = found[0][0]
    assert proc.run(metadata.tool("thin_dump", "0.9"), "-m", pool.meta).status == 0
    pool.message("release_metadata_snap")
    rig.stop(pool)
    after = metadata.mappings(pool.meta)[0]
    assert set(after) == {0, 1, 2, 10, 11, 12}
    assert after[0] == first  # a metadata snapshot makes no write of the thin copy


def test_metadata_snapshot_keeps_blocks(pool):
    thin = pool.thin(0)
    thin.fill_blocks(0, 8, seed=1)
    pool.create_thin(1)
    pool.message("reserve_metadata_snap")
    thin.discard_blocks(0, 4)
    assert pool.status().used == 8
    thin.remove()
    pool.delete(0)
    pool.delete(1)
    assert pool.status().used == 8
    pool.message("release_metadata_snap")
    assert pool.status().used == 0


def test_metadata_snapshot_survives_reactivation(rig, pool):
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    pool.message("reserve_metadata_snap")
    held = pool.status().held
    rig.restart(pool)
    assert pool.status().held == held
    assert error_of(pool.message, "reserve_metadata_snap") == errno.EBUSY
    thin = pool.activate(0)
    thin.fill_blocks(0, 8, seed=2)
    thin.verify_blocks(0, 8, seed=2)
    pool.message("release_metadata_snap")
    assert pool.status().held == "-"


def test_metadata_snapshot_then_changes_to_every_device(rig, pool):
    thins = [pool.thin(n) for n in range(4)]
    for n, thin in enumerate(thins):
        thin.fill_blocks(0, 6, seed=n)
    pool.snapshot(thins[0], 10)
    pool.message("reserve_metadata_snap")
    for n, thin in enumerate(thins):
        thin.fill_blocks(n, 4, seed=100 + n)
        thin.discard_blocks(5, 1)
    pool.snapshot(thins[1], 11)
    assert set(metadata.mappings(pool.meta, "-m")) == {0, 1, 2, 3, 10}
    pool.message("release_metadata_snap")
    for n, thin in enumerate(thins):
        thin.verify_blocks(n, 4 if n < 2 else 5 - n, seed=100 + n)
        if n:
            thin.verify_blocks(0, n, seed=n)


def test_delete_needs_no_table_open(rig, pool):
    thin = pool.thin(0)
    thin.fill_blocks(0, 64, seed=1)
    thin.remove()
    used = pool.data.used_bytes()
    pool.delete(0)
    assert pool.status().used == 0
    assert pool.data.used_bytes() == used  # freed blocks are not discarded below


def test_snapshot_of_a_snapshot_of_a_snapshot(rig, pool):
    thin = pool.thin(0)
    thin.fill_blocks(0, 16, seed=0)
    for n in range(1, 8):
        pool.snapshot(thin, n)
        thin.remove()
        thin = pool.activate(n)
        thin.fill_blocks(n, 1, seed=n)
    for n in range(8):
        reader = pool.activate(n)
        for block in range(16):
            reader.verify_blocks(block, 1, seed=block if 1 <= block <= n else 0)
    assert pool.status().used == 16 + 7


def test_message_changes_only_what_it_names(pool):
    pool.thin(0).fill(0, 2 * MIB, seed=1)
    before = pool.status().used
    pool.create_thin(1)
    assert pool.status().used == before
