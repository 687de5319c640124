"""Pools of LVM that run full or lose their metadata, and the administrator's ways out of it."""

import errno
import struct

import pytest
from lib import io, metadata, proc
from lib.dm import error_of
from lib.lvm import EventDaemon, Offline, group, lvm  # noqa: F401
from lib.proc import wait_for
from lib.thin import MIB

MANY = 1000  # ids that LVM does not give to anybody here


def many_devices(count, block_size, data_blocks, transaction_id):
    """XML of a pool where thin 1 has nothing and so many others have one block each."""
    lines = [
        f'<superblock uuid="" time="0" transaction="{transaction_id}" version="2" '
        f'data_block_size="{block_size}" nr_data_blocks="{data_blocks}">',
        '<device dev_id="1" mapped_blocks="0" transaction="0" creation_time="0" snap_time="0"></device>',
    ]
    for n in range(count):
        lines.append(
            f'<device dev_id="{MANY + n}" mapped_blocks="1" transaction="0" creation_time="0" snap_time="0">'
            f'<single_mapping origin_block="0" data_block="{n}" time="0"/></device>'
        )
    return "\n".join([*lines, "</superblock>", ""])


def crowded(group, rig, count):
    """A pool of 512 metadata blocks, one of them taken by each of so many volumes that LVM does not know."""
    pool, thin = group.create_both(size=48 * MIB)
    offline = Offline(rig, pool)
    group.deactivate()
    with offline as (tmeta, _):
        metadata.restore(tmeta, many_devices(count, 128, 768, 1))
    group.activate()
    return pool, thin


# -- data ----------------------------------------------------------------------------------


def test_full_pool_with_errors(group):
    pool, thin = group.create_both(size=4 * MIB, options=["--errorwhenfull", "y"])
    thin.fill(0, 4 * MIB, seed=1)
    assert (pool.health, pool.percent("data")) == ("-", 100)
    assert io.error_of(thin.fill, 4 * MIB, MIB, 1) == errno.ENOSPC
    assert (pool.health, pool.field("lv_health_status")) == ("D", "out_of_data")
    thin.verify(0, 4 * MIB, seed=1)
    assert "threshold" in group.refused("lvcreate", "--yes", "-s", "-n", "snap", thin.full_name)
    group.lvm("lvextend", "-L", f"{8 * MIB}b", pool.full_name)
    assert pool.health == "-"
    thin.fill(4 * MIB, MIB, seed=1)
    thin.verify(0, 5 * MIB, seed=1)


@pytest.mark.heavy
def test_full_pool_that_queues(group, rig):
    rig.parameter("no_space_timeout", 0)
    pool, thin = group.create_both(size=4 * MIB, options=["--errorwhenfull", "n"])
    job = io.Job(io.fill, thin.path, 0, 6 * MIB, 1)
    wait_for(lambda: pool.status(noflush=True).mode == "out_of_data_space", "the pool is out of data space")
    assert (pool.health, pool.state) == ("D", "a")
    assert not job.done()
    group.lvm("lvextend", "-L", f"{8 * MIB}b", pool.full_name)
    job.result()
    thin.verify(0, 6 * MIB, seed=1)
    assert pool.health == "-"


@pytest.mark.heavy
def test_removing_a_snapshot_makes_room(group, rig):
    rig.parameter("no_space_timeout", 0)
    pool, thin = group.create_both(size=4 * MIB)
    thin.fill(0, 3 * MIB, seed=1)
    snap = group.snapshot(thin, "snap", activate=False)
    job = io.Job(io.fill, thin.path, 0, 3 * MIB, 2)
    wait_for(lambda: pool.status(noflush=True).mode == "out_of_data_space", "the pool is out of data space")
    group.lvm("lvremove", "-y", snap.full_name)
    job.result()
    thin.verify(0, 3 * MIB, seed=2)
    assert (pool.status().used, pool.health) == (48, "-")


@pytest.mark.heavy
def test_policy_extends_a_full_pool(group, rig):
    """What dmeventd does, by hand."""
    rig.parameter("no_space_timeout", 0)
    group.configure(threshold=70, percent=50)
    pool, thin = group.create_both(size=8 * MIB)
    job = io.Job(io.fill, thin.path, 0, 10 * MIB, 1)
    wait_for(lambda: pool.status(noflush=True).mode == "out_of_data_space", "the pool is out of data space")
    group.lvm("lvextend", "--use-policies", pool.full_name)
    job.result()
    assert pool.status().total >= 192
    thin.verify(0, 10 * MIB, seed=1)


# -- metadata ------------------------------------------------------------------------------


def test_full_metadata(group, rig):
    pool, thin = crowded(group, rig, 430)
    for number in range(60):
        refused = error_of(pool.target.message, f"create_thin {5000 + number}")
        if refused:
            break
    assert refused == errno.EOPNOTSUPP
    status = pool.status()
    assert (status.mode, status.check) == ("ro", "-")
    # No check needed: this is a lack of space, no damage.
    assert (pool.health, pool.state) == ("M", "a")
    assert pool.field("lv_health_status") == "metadata_read_only"
    group.refused("lvcreate", "--yes", "-s", "-n", "snap", thin.full_name)
    group.refused("lvcreate", "--yes", "-V", "4m", "--thinpool", pool.full_name, "-n", "other")
    thin.suspend()
    thin.resume()
    pool.target.cycle()
    assert pool.health == "M"

    group.lvm("lvextend", "--poolmetadatasize", f"+{2 * MIB}b", pool.full_name)
    assert (pool.health, pool.state) == ("-", "a")
    status = pool.status()
    assert (status.mode, status.meta_total) == ("rw", 1024)
    pool.target.message("create_thin 7000")
    thin.fill(0, MIB, seed=1)
    thin.verify(0, MIB, seed=1)
    group.create_thin("other", 4 * MIB)


def test_superblock_that_fails(group):
    """lvs asks without commit and sees a healthy pool; a status that commits finds out."""
    pool, thin = group.create_both()
    thin.fill(0, MIB, seed=1)
    thin.flush()
    good = pool.tmeta.table_line()
    _, length, kind, below, start = good.split()
    bad = f"0 8 error\n8 {int(length) - 8} {kind} {below} {int(start) + 8}"
    pool.tmeta.load(bad)
    pool.tmeta.suspend(noflush=True)
    pool.tmeta.resume()
    assert pool.health == "-"
    pool.target.status_line()
    assert pool.status().failed
    assert thin.status().failed
    assert (pool.health, thin.health, pool.field("lv_health_status")) == ("F", "F", "failed")
    assert io.error_of(thin.read, 0, 4096) == errno.EIO

    pool.tmeta.load(good)
    pool.tmeta.suspend(noflush=True)
    pool.tmeta.resume()
    group.deactivate()
    group.activate()
    assert pool.health == "-"
    thin.verify(0, MIB, seed=1)
    thin.fill(MIB, MIB, seed=1)
    thin.verify(0, 2 * MIB, seed=1)


@pytest.mark.heavy
def test_pool_that_needs_a_check(group):
    """A commit failed. LVM refuses changes; offline its check clears the mark."""
    pool, thin = group.create_both()
    thin.fill(0, MIB, seed=1)
    thin.flush()
    good = pool.tmeta.table_line()
    _, length, _, below, start = good.split()
    for table in (f"0 {length} flakey {below} {start} 0 3600 1 error_writes", good):
        pool.tmeta.load(table)
        pool.tmeta.suspend(noflush=True)
        pool.tmeta.resume()
        if table != good:
            error_of(pool.target.message, "create_thin 500")
            pool.status()
    status = pool.status()
    assert (status.mode, status.needs_check) == ("ro", True)
    assert (pool.health, pool.state) == ("M", "c")
    pool.target.suspend()
    assert pool.state == "C"
    pool.target.resume()
    group.refused("lvcreate", "--yes", "-s", "-n", "snap", thin.full_name)
    thin.verify(0, MIB, seed=1)
    group.lvm("vgchange", "-an", group.name, check=False)
    group.lvm("vgchange", "--config", 'global/thin_check_options = ["-q", "--clear-needs-check-flag"]', "-ay", group.name)
    assert (pool.health, pool.state) == ("-", "a")
    thin.verify(0, MIB, seed=1)
    thin.fill(MIB, MIB, seed=1)
    group.snapshot(thin, "snap").verify(0, 2 * MIB, seed=1)


@pytest.mark.heavy
def test_repair(group):
    """Of metadata that is not damaged: the volume afterwards is what it was."""
    pool, thin = group.create_both()
    thin.fill(0, 2 * MIB, seed=1)
    group.snapshot(thin, "snap", activate=False)
    thin.fill(0, MIB, seed=2)
    assert "active" in group.refused("lvconvert", "--yes", "--repair", pool.full_name)
    group.deactivate()
    group.lvm("lvconvert", "--yes", "--repair", pool.full_name)
    group.activate()
    assert (pool.status().used, pool.status().transaction_id) == (48, 2)
    thin.verify(0, MIB, seed=2)
    thin.verify(MIB, MIB, seed=1)
    assert "pool_meta0" in group.lvm("lvs", group.name)


def test_repair_of_damaged_metadata(group, rig):
    pool, thin = group.create_both()
    thin.fill(0, 2 * MIB, seed=1)
    offline = Offline(rig, pool)
    group.deactivate()
    with offline as (tmeta, _):
        # The first bitmap of the metadata's own space map.
        (index,) = struct.unpack_from("<Q", metadata.Superblock(tmeta).raw, 192 + 16)
        (bitmap,) = struct.unpack_from("<Q", io.read(tmeta, index * metadata.BLOCK, metadata.BLOCK), 16)
        io.write(tmeta, bitmap * metadata.BLOCK, b"\xff" * metadata.BLOCK)
    assert "Manual repair required" in group.refused("vgchange", "-ay", group.name)
    group.lvm("lvconvert", "--yes", "--repair", pool.full_name)
    group.activate()
    thin.verify(0, 2 * MIB, seed=1)
    assert pool.status().used == 32
    thin.fill(4 * MIB, MIB, seed=1)
    thin.verify(4 * MIB, MIB, seed=1)


@pytest.mark.heavy
def test_metadata_taken_out_and_put_back(group):
    """lvconvert exchanges a pool's metadata with a plain volume's content, for repairs by hand."""
    pool, thin = group.create_both()
    thin.fill(0, 2 * MIB, seed=1)
    group.deactivate()
    for name in ("swap", "repaired"):
        group.lvm("lvcreate", "--yes", "-L", f"{4 * MIB}b", "-n", name, group.name)
    group.lvm("lvchange", "-an", f"{group.name}/swap")
    group.lvm("lvconvert", "--yes", "--thinpool", pool.full_name, "--poolmetadata", f"{group.name}/swap")
    group.lvm("lvchange", "-ay", f"{group.name}/swap")
    taken, repaired = (f"/dev/mapper/{group.name}-{name}" for name in ("swap", "repaired"))
    metadata.check(taken)
    proc.run(metadata.tool("thin_repair", "1"), "-i", taken, "-o", repaired)
    for name in ("swap", "repaired"):
        group.lvm("lvchange", "-an", f"{group.name}/{name}")
    group.lvm("lvconvert", "--yes", "--thinpool", pool.full_name, "--poolmetadata", f"{group.name}/repaired")
    group.activate()
    thin.verify(0, 2 * MIB, seed=1)
    status = pool.status()
    assert (status.mode, status.used, status.meta_total) == ("rw", 32, 1024)
    thin.fill(2 * MIB, MIB, seed=1)
    thin.verify(0, 3 * MIB, seed=1)


# -- dmeventd ------------------------------------------------------------------------------


@pytest.fixture
def daemon(group):
    group.configure(monitoring=1, threshold=70, percent=30)
    started = EventDaemon(group)
    yield started
    group.deactivate()
    started.stop()


def test_daemon_extends_the_data_below_a_writer(group, rig, daemon):
    rig.parameter("no_space_timeout", 0)
    pool, thin = group.create_both(size=8 * MIB, virtual=32 * MIB)
    assert pool.field("seg_monitor") == "monitored"
    thin.fill(0, 24 * MIB, seed=1)
    thin.verify(0, 24 * MIB, seed=1)
    wait_for(lambda: pool.status(noflush=True).total * 70 >= 384 * 100, "the daemon has restored its margin")
    status = pool.status()
    assert (status.used, status.mode) == (384, "rw")
    assert pool.health == "-"


@pytest.mark.heavy
def test_daemon_extends_the_metadata(group, rig, daemon):
    pool, thin = crowded(group, rig, 290)
    for number in range(90):
        pool.target.message(f"create_thin {5000 + number}")
        if pool.status(noflush=True).meta_total > 512:
            break
    wait_for(lambda: pool.status(noflush=True).meta_total > 512, "the daemon has extended the metadata")
    assert pool.health == "-"
    thin.fill(0, MIB, seed=1)
    thin.verify(0, MIB, seed=1)
