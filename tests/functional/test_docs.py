"""The commands that docs/behaviour.md shows, each run in the situation it is meant for."""

import errno
import glob
import os
import re

import pytest
from improvements import IMPROVEMENTS, SPARED
from lib import io, metadata, proc, tree
from lib.dm import error_of, number
from lib.docs import Page
from lib.lvm import Offline, group, lvm  # noqa: F401
from lib.proc import wait_for
from lib.thin import MIB
from test_lvm_space import crowded
from test_modes import MAPPED, break_metadata, exhaust_metadata, full_pool, hold_a_write, mode

PAGE = Page("behaviour.md")
blocks, shows, run = PAGE.blocks, PAGE.shows, PAGE.run


def of(pool, thin=None):
    names = {"POOL": pool.name, "META": pool.meta, "DATA": pool.data}
    return dict(names, THIN=thin.name) if thin else names


def test_every_command_shown_is_run():
    assert set(blocks()) == PAGE.shown


def test_improvements_are_those_that_are_tested():
    """Each row names what it stands for as improvements.py does; one of the stress test's is many of them."""
    table = PAGE.text.partition("## 10. ")[2]
    rows = re.findall(r"^\| ([\w, -]+) \|", table, re.M)
    named = {name for row in rows for name in row.split(", ")}
    assert named == {*IMPROVEMENTS, *SPARED} - {"broken-stress"}
    assert not set(IMPROVEMENTS) & {*SPARED}


def test_every_improvement_has_a_test():
    where = os.path.dirname(__file__)
    text = "".join(open(path, encoding="utf-8").read() for path in glob.glob(f"{where}/test_*.py"))
    marked = set(re.findall(r'mark\.(?:improvement|spared)\("([\w-]+)"\)', text))
    assert marked == {*IMPROVEMENTS, *SPARED}


# -- looking -------------------------------------------------------------------------------


@shows(("5", 1))
def test_looking(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 1, seed=1)
    lines = run(rig, "5", 1, **of(pool, thin)).splitlines()
    assert " rw discard_passdown queue_if_no_space - 256 " in lines[0]
    assert lines[1].split()[2] == "thin-pool" and lines[2] == "0 131072 thin 128 127"


@shows(("6", 2))
def test_waiting_for_an_event(rig):
    pool = rig.pool(size=2 * MIB, low_water=4)
    thin = pool.thin(0)
    waiter = io.Job(proc_of_a_block, rig.directory, blocks()["6", 2], pool.name)
    assert not waiter.done(0.5)
    thin.fill_blocks(0, 30, seed=1)
    assert waiter.result().split()[0] == "0"


@shows(("6", 1))
def test_looking_with_lvm(group, rig):
    pool, thin = group.create_both(size=4 * MIB, options=["--errorwhenfull", "y"])
    assert io.error_of(thin.fill, 0, 5 * MIB, 1) == errno.ENOSPC
    row = next(line.split() for line in run(rig, "6", 1, VG=group.name).splitlines() if line.split()[0] == "pool")
    assert row[1][8] == "D" and row[2:4] == ["out_of_data", "100.00"]


def proc_of_a_block(directory, text, name):
    return proc.run("bash", "-ec", f"cd {directory}\n{text}", env={"POOL": name}).out


@shows(("8", 1))
@pytest.mark.improvement("stats")
def test_counters(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 1, seed=1)
    assert "first_writes=1" in run(rig, "8", 1, **of(pool, thin))


# -- out of data space ---------------------------------------------------------------------


@shows(("9.1", 1))
def test_more_patience(rig):
    rig.parameter("no_space_timeout", 60)
    run(rig, "9.1", 1)
    with open("/sys/module/dm_thin_pool/parameters/no_space_timeout", encoding="ascii") as file:
        assert file.read().strip() == "300"


@shows(("9.1", 2))
def test_more_room(rig):
    pool, thin = full_pool(rig)
    job = hold_a_write(pool, thin)
    pool.data.grow(8192)
    run(rig, "9.1", 2, **of(pool))
    job.result()
    status = pool.status()
    assert (status.mode, status.total) == ("rw", 64)


@shows(("9.1", 3))
def test_more_room_with_lvm(group, rig):
    rig.parameter("no_space_timeout", 0)
    pool, thin = group.create_both(size=4 * MIB)
    job = io.Job(io.fill, thin.path, 0, 6 * MIB, 1)
    wait_for(lambda: pool.status(noflush=True).mode == "out_of_data_space", "the pool is out of data space")
    run(rig, "9.1", 3, VG=group.name)
    job.result()
    assert (pool.health, pool.status().total) == ("-", 320)


@shows(("9.1", 4))
def test_some_room_back(rig):
    pool, thin = full_pool(rig)
    thin.discard_blocks(12, 20)
    pool.status()
    spare = pool.thin(7)
    spare.fill_blocks(0, 20, seed=1)
    job = hold_a_write(pool, thin, block=40)
    spare.remove()
    run(rig, "9.1", 4, **of(pool, thin))
    job.result()
    wait_for(lambda: pool.status().used == 1, "all has come back")  # 20 were deleted, 12 discarded


@shows(("9.1", 5))
def test_some_room_back_with_lvm(group, rig):
    pool, thin = group.create_both(size=32 * MIB, virtual=64 * MIB)
    tree.make_filesystem("ext4", thin)
    group.snapshot(thin, "snap", activate=False)
    where = os.path.join(rig.directory, "mnt")
    tree.mount("ext4", thin, where)
    try:
        with open(f"{where}/file", "wb") as file:
            file.write(bytes(8 * MIB))
        os.sync()
        used = pool.status().used
        os.unlink(f"{where}/file")
        os.sync()
        run(rig, "9.1", 5, VG=group.name)
        assert pool.status().used <= used - 8 * 16 + 8
    finally:
        tree.unmount(where)


@shows(("9.1", 6))
def test_no_more_patience(rig):
    pool, thin = full_pool(rig)
    job = hold_a_write(pool, thin)
    run(rig, "9.1", 6, **of(pool))
    assert job.errno() == errno.ENOSPC
    assert pool.table_text().endswith(" 1 error_if_no_space ")


@shows(("9.1", 7))
def test_no_more_patience_with_lvm(group, rig):
    rig.parameter("no_space_timeout", 0)
    pool, thin = group.create_both(size=4 * MIB)
    job = io.Job(io.fill, thin.path, 0, 6 * MIB, 1)
    wait_for(lambda: pool.status(noflush=True).mode == "out_of_data_space", "the pool is out of data space")
    run(rig, "9.1", 7, VG=group.name)
    assert job.errno() == errno.ENOSPC


# -- out of metadata space -----------------------------------------------------------------


@shows(("9.2", 1))
def test_more_metadata(rig):
    pool, thin = exhaust_metadata(rig)
    pool.meta.grow(8192)
    run(rig, "9.2", 1, **of(pool))
    assert mode(pool) == "rw"
    thin.fill_blocks(MAPPED + 10, 1, seed=2)


@shows(("9.2", 2))
def test_more_metadata_with_lvm(group, rig):
    pool, _ = crowded(group, rig, 430)
    for thin_id in range(5000, 5060):
        if error_of(pool.target.message, f"create_thin {thin_id}"):
            break
    assert pool.health == "M"
    run(rig, "9.2", 2, VG=group.name)
    assert pool.health == "-"


@shows(("9.2", 3))
@pytest.mark.improvement("B16")
def test_fewer_thins(rig):
    pool, thin = exhaust_metadata(rig)
    said = run(rig, "9.2", 3, **of(pool))
    assert error_of(pool.delete, 7) == errno.ENODATA
    assert " thin-pool " in said
    for thin_id in range(8, 20):
        pool.delete(thin_id)
    assert mode(pool) == "rw"


# -- needs_check ---------------------------------------------------------------------------


def take_down(rig, section, pool, thin):
    run(rig, section, 1, **of(pool, thin))
    rig.thins.remove(thin)
    assert not pool.exists() and not thin.exists()


@pytest.fixture
def broken(rig):
    """Its metadata lost a commit."""
    pool, thin = break_metadata(rig)
    assert pool.status().needs_check
    yield pool, thin


@shows(("9.3", 1), ("9.3", 2))
def test_check(rig, broken):
    pool, thin = broken
    take_down(rig, "9.3", pool, thin)
    run(rig, "9.3", 2, **of(pool))
    status = pool.status()
    assert (status.mode, status.needs_check) == ("rw", False)
    thin = pool.activate(0)
    thin.verify_blocks(0, 8, seed=1)
    thin.fill_blocks(8, 1, seed=2)


@shows(("9.3", 3))
def test_repair(rig, broken):
    pool, thin = broken
    take_down(rig, "9.3", pool, thin)
    repaired = rig.disk(4 * MIB)
    run(rig, "9.3", 3, **of(pool), REPAIRED=repaired, OLD=number(pool.meta.path), NEW=number(repaired.path))
    pool.meta = repaired
    status = pool.status()
    assert (status.mode, status.needs_check) == ("rw", False)
    pool.activate(0).verify_blocks(0, 8, seed=1)


def damaged(group, rig, spoil):
    """A pool of LVM and a volume with 1 MiB, spoilt while it was inactive."""
    pool, thin = group.create_both()
    thin.fill(0, MIB, seed=1)
    offline = Offline(rig, pool)
    group.deactivate()
    with offline as (tmeta, _):
        spoil(tmeta)
    return pool, thin


@shows(("9.3", 4))
def test_check_with_lvm(group, rig):
    pool, thin = damaged(group, rig, lambda tmeta: metadata.patch_superblock(tmeta, {4: b"\1"}))
    run(rig, "9.3", 4, VG=group.name)
    assert (pool.health, pool.state) == ("-", "a")
    thin.verify(0, MIB, seed=1)


@shows(("9.3", 5))
def test_repair_with_lvm(group, rig):
    from struct import unpack_from

    def spoil(tmeta):
        """The first bitmap of the metadata's own space map."""
        (index,) = unpack_from("<Q", metadata.Superblock(tmeta).raw, 192 + 16)
        (bitmap,) = unpack_from("<Q", io.read(tmeta, index * metadata.BLOCK, metadata.BLOCK), 16)
        io.write(tmeta, bitmap * metadata.BLOCK, b"\xff" * metadata.BLOCK)

    pool, thin = damaged(group, rig, spoil)
    group.refused("vgchange", "-ay", group.name)
    run(rig, "9.3", 5, VG=group.name)
    assert (pool.health, pool.state) == ("-", "a")
    thin.verify(0, MIB, seed=1)
    assert "pool_meta0" in group.lvm("lvs", group.name)


# -- fail ----------------------------------------------------------------------------------


@shows(("9.4", 1), ("9.4", 2))
def test_failed_pool(rig):
    meta = rig.switch()
    pool = rig.pool(meta=meta)
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    thin.flush()
    thin.fill_blocks(4, 1, seed=1)
    meta.fail_all()
    pool.status()
    assert pool.status().failed
    take_down(rig, "9.4", pool, thin)
    meta.good()
    said = run(rig, "9.4", 2, **of(pool))
    assert " rw " in said or " ro " in said
    pool.expect_needs_check = "needs_check" in said
    pool.activate(0).verify_blocks(0, 4, seed=1)


# -- mistakes ------------------------------------------------------------------------------


@pytest.fixture
def noted(rig):
    """A pool whose table somebody has kept in pool.table, its thin at work."""
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    thin.flush()
    with open(f"{rig.directory}/pool.table", "w", encoding="ascii") as file:
        file.write(pool.table_line() + "\n")
    return pool, thin


@shows(("9.5", 1))
def test_pool_removed_by_force(rig, noted):
    pool, thin = noted
    error_of(pool.remove, force=True, retry=False)
    run(rig, "9.5", 1, **of(pool, thin))
    thin.verify_blocks(0, 4, seed=1)
    thin.fill_blocks(4, 4, seed=1)
    assert pool.status().used == 8


@shows(("9.6", 1))
def test_resume_that_is_refused(rig, noted):
    pool, thin = noted
    pool.load(pool.table(sectors=65536))
    pool.suspend()
    assert error_of(pool.resume) == errno.EINVAL
    assert pool.suspended and pool.table_line().split()[1] == "65536"
    run(rig, "9.6", 1, **of(pool))
    thin.verify_blocks(0, 4, seed=1)
    assert pool.status().total == 1024
