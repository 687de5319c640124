"""What a thin table must look like, and what may be open at once."""

import errno

import pytest
from lib import io
from lib.dm import NO_SUCH_DEVICE, error_of, number
from lib.thin import KIB, MIB

EINVAL = errno.EINVAL


def refused(rig, table, readonly=False):
    device = rig.device(kind="thin")
    device.create_empty()
    result = error_of(device.load, table, readonly)
    device.clear()  # a thin table holds its pool
    return result


@pytest.fixture
def pool(rig):
    pool = rig.pool()
    pool.create_thin(0)
    return pool


def test_number_of_arguments(rig, pool):
    disk = rig.disk(MIB)
    for arguments in ("", f"{pool}", f"{pool} 0 {disk} more"):
        assert refused(rig, "0 8192 thin " + arguments) == EINVAL, arguments


def test_bad_id(rig, pool):
    for thin_id in ("x", "-1", "0x0", "16777216", "4294967296"):
        assert refused(rig, f"0 8192 thin {pool} {thin_id}") == EINVAL, thin_id


def test_missing_id(rig, pool):
    for thin_id in (1, 16777215):
        assert refused(rig, f"0 8192 thin {pool} {thin_id}") == errno.ENODATA, thin_id


def test_ids_at_both_ends(rig, pool):
    last = pool.thin(16777215)
    last.fill_blocks(0, 1, seed=1)
    first = pool.activate(0)
    first.zero_blocks(0, 1)
    last.verify_blocks(0, 1, seed=1)


def test_origin_is_the_pool(rig, pool):
    assert refused(rig, f"0 8192 thin {pool} 0 {pool}") == EINVAL


@pytest.mark.improvement("B13")
def test_origin_is_the_pool_under_another_name(rig, pool):
    assert refused(rig, f"0 8192 thin {pool} 0 {pool.number}") == EINVAL


def test_missing_devices(rig, pool):
    assert refused(rig, "0 8192 thin /dev/no-such-pool 0") in NO_SUCH_DEVICE
    assert refused(rig, f"0 8192 thin {pool} 0 /dev/no-such-origin") in NO_SUCH_DEVICE


def test_pool_is_no_mapped_device(rig, pool):
    assert refused(rig, f"0 8192 thin {rig.disk(MIB)} 0") == EINVAL


def test_pool_is_a_mapped_device_of_another_kind(rig, pool):
    other = rig.device("0 8192 zero")
    assert refused(rig, f"0 8192 thin {other} 0") == EINVAL


def test_pool_suspended(rig, pool):
    pool.suspend()
    assert refused(rig, f"0 8192 thin {pool} 0") == EINVAL
    pool.resume()
    assert refused(rig, f"0 8192 thin {pool} 0") is None


def test_pool_not_yet_resumed(rig):
    pool = rig.pool(start=False)
    pool.create_empty()
    pool.load(pool.table())
    assert refused(rig, f"0 8192 thin {pool} 0") in (EINVAL, *NO_SUCH_DEVICE, errno.ENXIO)
    pool.resume()
    pool.create_thin(0)
    assert refused(rig, f"0 8192 thin {pool} 0") is None


def test_failed_pool(rig):
    meta = rig.switch()
    pool = rig.pool(meta=meta)
    pool.create_thin(0)
    meta.fail_all()
    # A flushing status finds it out; an idle pool may have nothing to commit, so give it something.
    error_of(pool.create_thin, 1)
    pool.status()
    assert pool.status().failed
    assert refused(rig, f"0 8192 thin {pool} 0") == EINVAL
    meta.good()
    rig.stop_quietly(pool)


def test_table_line(rig, pool):
    thin = pool.activate(0)
    assert thin.table_line() == f"0 131072 thin {pool.number} 0"


def test_table_line_with_origin(rig, pool):
    origin = rig.disk(MIB)
    thin = pool.activate(0, sectors=2048, origin=origin)
    assert thin.table_line() == f"0 2048 thin {pool.number} 0 {number(origin.path)}"


def test_one_id_in_several_devices(rig, pool):
    one, two = pool.activate(0), pool.activate(0)
    one.fill_blocks(0, 2, seed=1)
    two.verify_blocks(0, 2, seed=1)
    two.fill_blocks(1, 2, seed=2)
    one.verify_blocks(1, 2, seed=2)
    assert one.status().text == two.status().text == "384 383"
    one.remove()
    assert error_of(pool.delete, 0) == errno.EBUSY
    two.remove()
    assert error_of(pool.delete, 0) is None


def test_an_inactive_table_holds_the_id(rig, pool):
    device = rig.device(kind="thin")
    device.create_empty()
    device.load(f"0 8192 thin {pool} 0")
    assert error_of(pool.delete, 0) == errno.EBUSY
    device.clear()
    assert error_of(pool.delete, 0) is None


def test_reload_of_a_live_thin(rig, pool):
    thin = pool.activate(0, sectors=8192)
    thin.fill(0, 4 * MIB, seed=1)
    thin.reload(thin.table(sectors=16384))
    thin.fill(4 * MIB, 4 * MIB, seed=1)
    thin.verify(0, 8 * MIB, seed=1)


def test_reload_noflush(rig, pool):
    thin = pool.activate(0, sectors=8192)
    thin.fill(0, MIB, seed=1)
    thin.reload(thin.table(sectors=4096), noflush=True)
    thin.verify(0, MIB, seed=1)
    assert io.size(thin.path) == 2 * MIB


def test_pool_is_held_by_its_thins(rig, pool):
    thin = pool.activate(0)
    assert error_of(pool.remove, retry=False) == errno.EBUSY
    thin.remove()
    assert pool.open_count == 0


def test_larger_than_the_pool(rig, pool):
    thin = pool.activate(0, sectors=1 << 31)  # 1 TiB
    end = (1 << 40) - pool.block
    thin.fill(end, pool.block, seed=1)
    thin.verify(end, pool.block, seed=1)
    assert thin.status().text == f"128 {(1 << 31) - 1}"
    thin.zero_blocks(0, 1)


def test_last_block_may_be_partial(rig, pool):
    thin = pool.activate(0, sectors=128 + 8)
    thin.fill(pool.block, 4 * KIB, seed=1)
    thin.verify(pool.block, 4 * KIB, seed=1)
    assert thin.status().text == "128 255"  # not cut to the device's length
    thin.reload(thin.table(sectors=256))
    thin.verify_zero(pool.block + 4 * KIB, 60 * KIB)


def test_status_is_not_cut_to_a_shrunk_device(rig, pool):
    thin = pool.activate(0)
    thin.fill_blocks(20, 1, seed=1)
    thin.reload(thin.table(sectors=128))
    assert thin.status().text == "128 2687"


def test_segments_beside_other_targets(rig, pool):
    pool.create_thin(1)
    disk = rig.disk(MIB)
    device = rig.device(
        f"0 2048 thin {pool} 0\n2048 2048 linear {disk} 0\n4096 2048 thin {pool} 1"
    )
    io.fill(device.path, 0, 3 * MIB, seed=1)
    io.verify(device.path, 0, 3 * MIB, seed=1)
    lines = device.status_line().splitlines()
    assert lines[0] == "0 2048 thin 2048 2047"
    assert lines[2] == "4096 2048 thin 2048 2047"
    assert io.read(disk.path, 0, 4096) == io.pattern(1, MIB, 4096)
    device.remove()


def test_readonly_table(rig, pool):
    thin = pool.activate(0)
    thin.fill_blocks(0, 1, seed=1)
    reader = pool.activate(0, readonly=True)
    reader.verify_blocks(0, 1, seed=1)
    assert io.error_of(reader.write, 0, b"x" * 4096) in (errno.EPERM, errno.EACCES)
    thin.verify_blocks(0, 1, seed=1)


def test_messages_to_a_thin(rig, pool):
    thin = pool.activate(0)
    assert error_of(thin.message, "create_thin 5") == EINVAL


def test_unsupported_requests(rig, pool):
    thin = pool.activate(0)
    thin.fill_blocks(0, 2, seed=1)
    assert io.error_of(io.secure_erase, thin.path, 0, pool.block) == errno.EOPNOTSUPP
    thin.verify_blocks(0, 2, seed=1)
