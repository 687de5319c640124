"""Names, versions, parameters: how other programs find the module."""

import errno
import os

from lib import proc
from lib.dm import dmsetup, error_of, targets
from lib.rig import PARAMETERS


def test_targets_and_versions():
    found = targets()
    assert found["thin-pool"][0] == found["thin"][0] == 1
    assert found["thin-pool"] >= (1, 20, 0)
    assert found["thin"] >= (1, 20, 0)


def test_module_name():
    assert os.path.isdir("/sys/module/dm_thin_pool")


def test_parameters():
    for name, value in (("no_space_timeout", "60"), ("snapshot_copy_throttle", "100")):
        path = f"{PARAMETERS}/{name}"
        assert os.stat(path).st_mode & 0o777 == 0o644
        with open(path, encoding="ascii") as file:
            assert file.read().strip() == value


def test_parameter_can_be_set(rig):
    rig.parameter("no_space_timeout", 7)
    with open(f"{PARAMETERS}/no_space_timeout", encoding="ascii") as file:
        assert file.read().strip() == "7"


def test_module_cannot_go_while_a_pool_lives(rig):
    rig.pool()
    assert proc.run("rmmod", "dm_thin_pool", check=False).status != 0
    assert os.path.isdir("/sys/module/dm_thin_pool")


def test_deps_of_pool_and_thin(rig):
    pool = rig.pool()
    origin = rig.disk(1 << 20)
    thin = pool.thin(0, origin=origin)

    def deps(device):
        words = dmsetup("deps", "-o", "devno", device.name)
        return {tuple(int(n) for n in part.rstrip(") \n").split(",")) for part in words.split("(")[1:]}

    def numbers(*paths):
        return {(os.major(os.stat(p).st_rdev), os.minor(os.stat(p).st_rdev)) for p in paths}

    assert deps(pool) == numbers(pool.meta.path, pool.data.path)
    assert deps(thin) == numbers(pool.path, origin.path)


def test_unknown_target_is_no_prefix_match(rig):
    device = rig.device()
    device.create_empty()
    assert error_of(device.load, "0 8 thin-poo x") == errno.EINVAL
