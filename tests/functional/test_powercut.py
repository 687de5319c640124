"""What fsync promised survives a power cut, and the metadata is clean after it: nothing lost, nothing leaked."""

import os

import pytest
from lib import io
from lib.powercut import Losses, PowerCut

SEED = int(os.environ.get("POWERCUT_SEED", "1"))
CUTS = int(os.environ.get("POWERCUTS", "50"))


def cut(rig, cycles, cache_mib, least):
    scene = PowerCut(rig, cache_mib, seed=SEED)
    for number in range(1, cycles + 1):
        scene.load_and_cut(least)
        scene.restart()
        assert scene.prove() >= least // 4
        scene.settle()
        if number % 50 == 0:
            print(f"{number} of {cycles} power cuts", flush=True)
    scene.close()
    print(f"COUNTS 1 pools, {cycles} power cuts in a working kernel, lost 0")


@pytest.mark.heavy
@pytest.mark.deadline(600 + 30 * CUTS)
@pytest.mark.parametrize("cache_mib", [1024, 2], ids=["nothing-written-back", "written-back-at-random"])
def test_many_power_cuts(rig, cache_mib):
    """One pool lives through all of them: with a cache that keeps everything until a flush, and one
    so small that it writes back other pages whenever it likes."""
    cut(rig, CUTS, cache_mib, least=40)


def test_some_power_cuts(rig):
    cut(rig, 3, 1024, least=12)


def test_losses_are_noticed(rig):
    """The same with flushes ignored below the pool must fail, or the tests above prove nothing."""
    scene = PowerCut(rig, 1024, ignore_flushes=True)
    scene.load_and_cut(20)
    with pytest.raises(Losses):
        scene.restart()
        scene.prove()


def test_the_disk_forgets(rig):
    """The tool itself: null_blk loses what was not flushed, and discards make room for more of it."""
    disk = rig.null_blk(16 << 20, cache_mib=64, discard=True)
    io.fill(disk.path, 0, 1 << 20, seed=1)
    io.flush(disk.path)
    io.fill(disk.path, 2 << 20, 4096, seed=3, fua=True)
    io.fill(disk.path, 1 << 20, 1 << 20, seed=2)
    disk.power(False)
    disk.power(True)
    io.verify(disk.path, 0, 1 << 20, seed=1)
    io.verify_zero(disk.path, 1 << 20, 1 << 20)
    io.verify(disk.path, 2 << 20, 4096, seed=3)
    io.discard(disk.path, 0, 1 << 20)
    io.fill(disk.path, 0, 1 << 20, seed=4)
    disk.power(False)
    disk.power(True)
    io.verify_zero(disk.path, 0, 1 << 20)
