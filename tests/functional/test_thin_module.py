"""scripts/thin-module: tells which module runs, and exchanges the two on a running system."""

import os
import re

import pytest
from lib import proc, tree
from lib.lvm import both_modules, group, lvm, modules  # noqa: F401
from lib.thin import MIB

HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAM = os.path.join(HERE, "../../scripts/thin-module")
TREE = f"/lib/modules/{os.uname().release}"
CHOICE = "/etc/depmod.d/dm-thin.conf"

pytestmark = pytest.mark.skipif(not both_modules(), reason="this guest has one module only")


@pytest.fixture
def host(modules, directory):
    """The directory of modules, which a guest may have read-only, can be written to, and is as it was afterwards."""
    layer = os.path.join(directory, "modules")
    os.makedirs(f"{layer}/upper")
    os.makedirs(f"{layer}/work")
    proc.run("mount", "-t", "overlay", "-o", f"lowerdir={TREE},upperdir={layer}/upper,workdir={layer}/work", "host", TREE)
    modules.use("ours")
    yield modules
    # It keeps the indexes of modules open for as long as it runs, and its workers a little longer.
    proc.udev(False)
    proc.wait_for(lambda: proc.run("umount", TREE, check=False).status == 0, f"nobody looks into {TREE}")
    proc.run("rm", "-rf", layer, CHOICE)


def thin_module(*args):
    return proc.run(PROGRAM, *args).out.strip()


def refused(*args):
    done = proc.run(PROGRAM, *args, check=False)
    assert done.status == 1
    return done.err


def test_one_line(host):
    version = proc.run("modinfo", "-F", "version", "dm-thin-pool").out.strip()
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    ours = f"dm-thin {version}"
    assert thin_module() == f"running: {ours}; next: {ours} ({TREE}/updates/dm-thin-pool.ko)"
    host.use("in-tree")
    assert thin_module("status").startswith(f"running: the kernel's own (stock); next: {ours} (")
    host.use("none")
    assert thin_module().startswith(f"running: none; next: {ours} (")


def test_there_and_back(host, rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 8, seed=1)
    thin.remove()
    pool.remove()
    said = thin_module("use", "stock")
    assert host.now() == "in-tree" and said.startswith("running: the kernel's own (stock); next: the kernel's own (")
    # The choice holds for whoever loads it next.
    host.use("none")
    proc.run("modprobe", "dm-thin-pool")
    assert host.now() == "in-tree"
    pool.start()
    thin = pool.activate(0)
    thin.verify_blocks(0, 8, seed=1)
    thin.remove()
    pool.remove()
    assert thin_module("use", "dm-thin").startswith("running: dm-thin ")
    assert host.now() == "ours" and not os.path.exists(CHOICE)
    pool.start()
    pool.activate(0).verify_blocks(0, 8, seed=1)


def test_refused_while_a_pool_is_active(host, rig):
    pool = rig.pool()
    said = refused("use", "stock")
    assert pool.name in said and "in use, nothing was changed" in said
    assert host.now() == "ours" and not os.path.exists(CHOICE)
    assert pool.status().mode == "rw"


def test_thins_in_the_way_are_named(host, rig):
    pool = rig.pool()
    thin = pool.thin(0)
    assert thin.name in refused("use", "stock") and host.now() == "ours"


def test_from_the_next_boot(host, rig):
    rig.pool()
    said = thin_module("use", "stock", "--next-boot")
    assert said.startswith("running: dm-thin ") and "; next: the kernel's own (" in said
    assert host.now() == "ours" and os.path.exists(CHOICE)
    assert "next: dm-thin" in thin_module("use", "dm-thin", "--next-boot")


def test_with_the_volumes_of_lvm(host, group):
    pool, thin = group.create_both()
    thin.fill(0, MIB, seed=1)
    snapshot = group.snapshot(thin, "snap")
    asleep = group.snapshot(thin, "asleep", activate=False)
    thin_module("use", "stock", "--deactivate")
    assert host.now() == "in-tree"
    assert (pool.active, thin.active, snapshot.active, asleep.active) == (True, True, True, False)
    thin.verify(0, MIB, seed=1)
    thin.fill(MIB, MIB, seed=2)
    thin_module("use", "dm-thin", "--deactivate")
    assert host.now() == "ours" and thin.active and snapshot.active and not asleep.active
    thin.verify(MIB, MIB, seed=2)
    snapshot.verify(0, MIB, seed=1)


def test_with_a_volume_that_is_mounted(host, group, rig):
    pool, thin = group.create_both()
    spare = group.create_thin("spare")
    tree.make_filesystem("ext4", thin)
    where = os.path.join(rig.directory, "mnt")
    tree.mount("ext4", thin, where)
    try:
        said = refused("use", "stock", "--deactivate")
        assert "nothing was changed" in said and "--next-boot" in said
        assert host.now() == "ours" and not os.path.exists(CHOICE)
        assert pool.active and thin.active and spare.active
        with open(os.path.join(where, "file"), "wb") as file:
            file.write(bytes(4096))
            os.fsync(file.fileno())
    finally:
        tree.unmount(where)


def test_going_back_when_the_other_one_does_not_load(host, group):
    proc.run("truncate", "-s", "1000", proc.run("find", f"{TREE}/kernel", "-name", "dm-thin-pool.ko").out.strip())
    pool, thin = group.create_both()
    thin.fill(0, MIB, seed=1)
    said = refused("use", "stock", "--deactivate")
    assert "going back" in said
    assert host.now() == "ours" and not os.path.exists(CHOICE)
    assert pool.active and thin.active
    thin.verify(0, MIB, seed=1)


def test_there_is_no_other_one(host):
    proc.run("find", f"{TREE}/kernel", "-name", "dm-thin-pool.ko", "-delete")
    said = refused("use", "stock")
    assert "there is no stock module" in said and host.now() == "ours" and not os.path.exists(CHOICE)


def test_arguments():
    for words in (["use"], ["use", "other"], ["use", "stock", "--now"], ["refresh"], ["nonsense"], ["status", "x"]):
        assert proc.run(PROGRAM, *words, check=False).status == 2
    done = proc.run(PROGRAM, "use", "stock", "--deactivate", "--next-boot", check=False)
    assert done.status == 2 and done.err.startswith("Usage:")
