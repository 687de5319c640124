"""When a pool's event number moves, which is what dmeventd waits for."""

import errno

import pytest
from lib import io, proc
from lib.dm import error_of
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


def switched(log, pool, words):
    """Whether the kernel's log tells of the mode, in the words that monitors look for."""
    return log.has(rf"device-mapper: thin: {pool.number}: switching pool to {words} mode")


def test_full_and_back_in_the_kernel_log(rig, log):
    rig.parameter("no_space_timeout", 1)
    pool = rig.pool(size=2 * MIB)
    thin = pool.thin(0, sectors=8192)
    assert io.error_of(thin.fill, 0, 4 * MIB, 1) == errno.ENOSPC
    assert log.has(rf"device-mapper: thin: {pool.number}: reached low water mark for data device")
    assert switched(log, pool, r"out-of-data-space \(queue IO\)")
    assert switched(log, pool, r"out-of-data-space \(error IO\)")
    thin.discard_blocks(0, 8)
    pool.status()
    assert switched(log, pool, "write")


def test_read_only_and_failed_in_the_kernel_log(rig, log):
    pool = rig.pool(meta=rig.switch())
    thin = pool.thin(0)
    pool.meta.fail_writes()
    thin.fill_blocks(0, 1, seed=1)
    pool.status()
    wait_for(lambda: switched(log, pool, "read-only"), "the pool is read-only")
    assert log.has(r"device-mapper: thin: .*metadata operation '\w+' failed: error = -5")
    assert log.has(r"device-mapper: thin: .*aborting current metadata transaction")
    pool.meta.good()
    rig.stop_quietly(pool)

    pool = rig.pool(meta=rig.switch())
    pool.thin(0).fill_blocks(0, 1, seed=1)
    pool.meta.fail_all()
    pool.status()
    pool.status()
    assert switched(log, pool, "fail")
    pool.meta.good()
    rig.stop_quietly(pool)


def test_growth_in_the_kernel_log(rig, log):
    pool = rig.pool()
    assert not log.has("growing the data device")  # not when it is used for the first time
    pool.data.grow(262144)
    pool.meta.grow(16384)
    pool.change(sectors=262144)
    assert log.has(rf"device-mapper: thin: {pool.number}: growing the data device from 1024 to 2048 blocks")
    assert log.has(rf"device-mapper: thin: {pool.number}: growing the metadata device from 1024 to 2048 blocks")
    pool.load(pool.table(sectors=131072))
    pool.suspend()
    error_of(pool.resume)
    assert log.has(r"device-mapper: thin: .*too small")
    pool.load(pool.table())
    pool.resume()
