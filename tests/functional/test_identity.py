"""Names, versions, parameters: how other programs find the module."""

import errno
import os
import re

import pytest
from lib import proc
from lib.dm import dmsetup, error_of, targets
from lib.lvm import modules  # noqa: F401
from lib.rig import PARAMETERS

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")


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


def test_pool_table_loads_the_module(modules, rig):
    modules.use("none")
    rig.pool()
    assert modules.now() == modules.start


@pytest.mark.improvement("alias")
def test_thin_table_loads_the_module(modules, rig):
    modules.use("none")
    device = rig.device()
    device.create_empty()
    assert error_of(device.load, f"0 8 thin {rig.disk(1 << 20)} 0") == errno.EINVAL
    assert modules.now() == modules.start


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


@pytest.mark.improvement("version")
def test_one_version_everywhere():
    def found(expression, *path):
        with open(os.path.join(SOURCE, *path), encoding="utf-8") as file:
            return re.search(expression, file.read(), re.MULTILINE).group(1)

    with open("/sys/module/dm_thin_pool/version", encoding="ascii") as file:
        version = file.read().strip()
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert proc.run("modinfo", "-F", "version", "dm-thin-pool").out.strip() == version
    assert found(r'^PACKAGE_VERSION="(.*)"$', "dkms.conf") == version
    assert found(r"^dm-thin \((.*)\)", "debian", "changelog") == version
    assert found(r"^## (\S+)", "CHANGELOG.md") == version


@pytest.mark.improvement("version")
def test_modinfo_is_complete():
    def field(name):
        return proc.run("modinfo", "-F", name, "dm-thin-pool").out.strip().splitlines()

    assert field("license") == ["GPL"]
    for name in ("author", "description", "vermagic", "srcversion", "depends"):
        assert field(name) != [""], name
    assert set(field("alias")) == {"dm-thin", "dm-thin-pool"}
    parameters = {line.split(":")[0]: line for line in field("parm")}
    assert set(parameters) == set(os.listdir(PARAMETERS))
    assert all(re.search(r":\S.* \(\w+\)$", line) for line in parameters.values())
