"""The commands that docs/administration.md and docs/tuning.md show, each run in the situation it is meant for."""

import json
import os
import re

import pytest
from lib import proc, tree
from lib.docs import Page
from lib.lvm import EventDaemon, PoolVolume, Volume, both_modules, group, lvm, modules  # noqa: F401
from lib.thin import MIB
from test_thin_module import host  # noqa: F401

GUIDE, TUNING = Page("administration.md"), Page("tuning.md")
shows, run = GUIDE.shows, GUIDE.run


def test_every_command_shown_is_run():
    assert set(GUIDE.blocks()) == GUIDE.shown
    assert set(TUNING.blocks()) == TUNING.shown


@pytest.fixture
def mounted(group, rig):
    """The pool and the volume of section 1, and where it is mounted."""
    where = os.path.join(rig.directory, "mnt")
    os.makedirs(where, exist_ok=True)
    run(rig, "1", 1, VG=group.name)
    # Or ext4 zeroes inode tables for a while, and takes blocks that are counted here.
    proc.run("mount", "-o", "remount,noinit_itable", where)
    yield PoolVolume(group, "pool"), Volume(group, "thin"), where
    if os.path.ismount(where):
        tree.unmount(where)


def put(where, name, size):
    with open(os.path.join(where, name), "wb") as file:
        file.write(os.urandom(size))
        os.fsync(file.fileno())


@shows(("1", 1), ("1", 2), ("3", 1), ("3", 2))
def test_a_pool_a_volume_a_snapshot(group, rig, mounted):
    pool, thin, where = mounted
    assert (pool.status().mode, thin.number_field("lv_size")) == ("rw", 128 * MIB)
    assert pool.number_field("chunk_size") == 64 * 1024
    put(where, "file", 8 * MIB)
    run(rig, "1", 2, VG=group.name)
    assert Volume(group, "snap").active
    os.unlink(os.path.join(where, "file"))
    os.sync()
    run(rig, "3", 1)
    used = pool.status().used
    run(rig, "3", 2, VG=group.name)
    assert pool.status().used <= used - 8 * 16 + 8


@shows(("2", 1))
def test_size_of_metadata(rig):
    said = run(rig, "2", 1)
    # 16 million mappings of 16 bytes, in nodes that may be half empty, need no less.
    assert 256 < float(re.search(r"(\d+(\.\d+)?)", said).group(1)) < 2048


@shows(("4", 1))
def test_watching(group, rig, mounted):
    said = run(rig, "4", 1, VG=group.name)
    assert re.search(r"pool +\d+\.\d+ +\d+\.\d+ +queue", said) and " thin-pool " in said


@shows(("4", 2))
def test_watched_by_dmeventd(group, rig, mounted):
    group.configure(monitoring=1)
    daemon = EventDaemon(group)
    try:
        assert "monitored" in run(rig, "4", 2, VG=group.name).split()
        group.lvm("lvchange", "--monitor", "n", f"{group.name}/pool")
    finally:
        daemon.stop()


@shows(("4", 3))
@pytest.mark.improvement("stats")
def test_thin_top(group, rig, mounted):
    pool, thin, where = mounted
    put(where, "file", MIB)
    said = run(rig, "4", 3)
    name = f"{group.name}-pool-tpool"
    assert f"{name}: rw, 1 thins" in said and f'dm_thin_pool_up{{pool="{name}"}} 1' in said
    body = said[said.index("\n{") : said.index("\n}") + 2]
    assert json.loads(body)[name]["thins"][thin.name]["first_writes"] >= 16


@shows(("5", 1))
def test_growing(group, rig, mounted):
    pool, thin, where = mounted
    before = os.statvfs(where).f_blocks
    run(rig, "5", 1, VG=group.name)
    status = pool.status()
    assert (status.total, status.meta_total) == (64 * 16, 2048)
    assert thin.number_field("lv_size") == 192 * MIB and os.statvfs(where).f_blocks > before


@shows(("6", 1))
def test_a_copy_of_the_metadata(group, rig, mounted):
    pool, thin, where = mounted
    put(where, "file", MIB)
    os.sync()
    run(rig, "6", 1, VG=group.name)
    with open(os.path.join(rig.directory, "pool.xml"), encoding="ascii") as file:
        text = file.read()
    assert 'data_block_size="128"' in text and re.search(r'<device dev_id="1" mapped_blocks="\d+"', text)
    assert pool.status().held == "-"


@shows(("7", 1), ("7", 2), ("7", 3), ("7", 4))
@pytest.mark.skipif(not both_modules(), reason="this guest has one module only")
def test_there_and_back(host, group, rig):
    pool, thin = group.create_both()
    thin.fill(0, MIB, seed=1)
    assert run(rig, "7", 1).startswith("running: dm-thin ")
    run(rig, "7", 3)
    assert host.now() == "in-tree" and thin.active
    thin.verify(0, MIB, seed=1)
    assert "next: dm-thin" in run(rig, "7", 4) and host.now() == "in-tree"
    run(rig, "7", 2)
    assert host.now() == "ours" and thin.active
    thin.verify(0, MIB, seed=1)


@pytest.mark.improvement("cache")
@TUNING.shows((None, 1))
def test_parameters_that_stay(rig):
    path = "/etc/modprobe.d/dm-thin-pool.conf"
    TUNING.run(rig, None, 1)
    try:
        assert "no_space_timeout=300" in proc.run("modprobe", "-c").out
        (words,) = re.findall(r"^options dm_thin_pool (.*)$", proc.run("modprobe", "-c").out, re.MULTILINE)
        known = {line.split(":")[0] for line in proc.run("modinfo", "-F", "parm", "dm-thin-pool").out.splitlines()}
        assert {word.split("=")[0] for word in words.split()} <= known
    finally:
        os.unlink(path)
