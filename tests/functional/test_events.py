"""When a pool's event number moves, which is what dmeventd waits for."""

import errno

import pytest
from lib import io, proc
from lib.proc import wait_for
from lib.thin import MIB


@pytest.mark.parametrize("mark, quiet, loud", [(250, 6, 1), (255, 1, 1), (16, 240, 1)])
def test_low_water(rig, mark, quiet, loud):
    """The check looks at the free blocks before each allocation: 250 of 256 fires on the 7th."""
    pool = rig.pool(size=16 * MIB, low_water=mark)
    thin = pool.thin(0)
    thin.fill_blocks(0, quiet, seed=1)
    assert pool.events == 0
    thin.fill_blocks(quiet, loud, seed=1)
    assert pool.events == 1
    thin.fill_blocks(quiet + loud, 4, seed=1)
    assert pool.events == 1


def test_low_water_above_the_size(rig):
    pool = rig.pool(size=16 * MIB, low_water=100000)
    thin = pool.thin(0)
    assert pool.events == 0
    thin.fill_blocks(0, 1, seed=1)
    assert pool.events == 1


def test_low_water_is_armed_again_by_resume(rig):
    pool = rig.pool(size=16 * MIB, low_water=255)
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    assert pool.events == 1
    pool.cycle()
    assert pool.events == 1
    thin.fill_blocks(4, 1, seed=1)
    assert pool.events == 2


def test_overwriting_makes_no_event(rig):
    pool = rig.pool(size=2 * MIB, low_water=0)
    thin = pool.thin(0)
    thin.fill(0, 2 * MIB, seed=1)
    thin.fill(0, 2 * MIB, seed=2)
    assert pool.events == 0


def test_full_pool_with_error_policy(rig):
    pool = rig.pool(size=2 * MIB, features=["error_if_no_space"])
    thin = pool.thin(0, sectors=8192)
    thin.fill(0, 2 * MIB, seed=1)
    assert io.error_of(thin.fill_blocks, 32, 1, 1) == errno.ENOSPC
    assert pool.events == 2  # low water, mode
    assert io.error_of(thin.fill_blocks, 33, 1, 1) == errno.ENOSPC
    assert pool.events == 2
    thin.discard_blocks(0, 8)
    assert pool.status().mode == "rw"
    assert pool.events == 3


def test_quiet_operations(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 8, seed=1)
    pool.snapshot(thin, 1)
    pool.message("set_transaction_id 0 1")
    pool.message("reserve_metadata_snap")
    pool.message("release_metadata_snap")
    pool.delete(1)
    thin.discard_blocks(0, 8)
    pool.cycle()
    pool.reload(pool.table(low_water=3))
    pool.status()
    assert pool.events == 0


def test_read_only_and_back(rig):
    pool = rig.pool()
    pool.change(features=["read_only"])
    assert pool.events == 1
    pool.cycle()
    assert pool.events == 1
    pool.change(features=[])
    assert pool.events == 2


def test_waiting_for_an_event(rig):
    pool = rig.pool(size=16 * MIB, low_water=255)
    thin = pool.thin(0)
    waiter = proc.start("dmsetup", "wait", pool.name, "0")
    pool.cycle()
    assert waiter.poll() is None
    thin.fill_blocks(0, 2, seed=1)
    wait_for(lambda: waiter.poll() is not None, "dmsetup wait ends")
    assert waiter.returncode == 0
    waiter.communicate()


def test_mode_is_in_the_kernel_log(rig, log):
    pool = rig.pool(size=2 * MIB, features=["error_if_no_space"])
    thin = pool.thin(0, sectors=8192)
    assert io.error_of(thin.fill, 0, 4 * MIB, 1) == errno.ENOSPC
    thin.discard_blocks(0, 8)
    pool.status()
    assert log.has(r"device-mapper: thin: .*switching pool to out-of-data-space.*mode")
    assert log.has(r"device-mapper: thin: .*switching pool to write mode")
