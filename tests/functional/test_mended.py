"""What the kernel's own module gets wrong, one test each; with it they fail, or are skipped where it hangs or crashes."""

import errno
import time

import pytest
from lib import io, metadata, proc
from lib.dm import error_of, number
from lib.proc import wait_for
from lib.thin import GIB, KIB, MIB
from test_layers import need_target
from test_modes import full_pool, hold_a_write

improvement = pytest.mark.improvement


class Slow:
    """A data device whose writes and discards, but not its flushes, can be made to take long."""

    def __init__(self, rig, size):
        need_target("delay")
        self.disk = rig.disk(size)
        self.sectors = size // 512
        self.device = rig.device(f"0 {self.sectors} linear {self.disk} 0")

    def slow(self, milliseconds):
        at = f"{self.disk} 0"
        self.device.reload(f"0 {self.sectors} delay {at} 0 {at} {milliseconds} {at} 0", noflush=True)

    def fast(self):
        self.device.reload(f"0 {self.sectors} linear {self.disk} 0", noflush=True)


@improvement("B1")
def test_space_freed_by_a_slow_discard_is_noticed(rig):
    data = Slow(rig, 2 * MIB)
    pool = rig.pool(size=2 * MIB, data=data.device, features=["error_if_no_space"])
    thin = pool.thin(0, sectors=8192)
    thin.fill_blocks(0, 32, seed=1)
    assert io.error_of(thin.fill_blocks, 32, 1, 2) == errno.ENOSPC
    data.slow(3000)
    thin.discard_blocks(0, 8)
    data.fast()
    wait_for(lambda: pool.status(noflush=True).mode == "rw", "the pool has noticed its free blocks", timeout=20)
    thin.fill_blocks(32, 8, seed=2)


@improvement("B2")
def test_discard_under_way_when_the_pool_turns_read_only(rig):
    data, meta = Slow(rig, 64 * MIB), rig.switch()
    pool = rig.pool(data=data.device, meta=meta)
    thin = pool.thin(0)
    thin.fill_blocks(0, 8, seed=1)
    pool.status()
    data.slow(4000)
    job = io.Job(io.discard, thin.path, 0, 4 * pool.block)
    time.sleep(2)  # unmapped, committed, and on its way down
    meta.fail_writes()
    error_of(pool.create_thin, 1)
    assert pool.status().mode == "ro"
    job.errno()
    data.fast()
    assert not pool.status().failed
    meta.good()
    thin.verify_blocks(4, 4, seed=1)
    rig.stop_quietly(pool)
    metadata.check(meta)


@improvement("B4")
def test_interrupted_suspend_of_a_thin(rig):
    lower = rig.disk(64 * MIB)
    data = rig.device(f"0 131072 linear {lower} 0")
    pool = rig.pool(data=data)
    thin = pool.thin(0)
    thin.fill_blocks(0, 1, seed=1)
    data.suspend()
    reader = io.Job(io.read, thin.path, 0, 4 * KIB)
    assert not reader.done(0.5)
    suspending = proc.start("dmsetup", "suspend", "--noflush", "--nolockfs", thin.name)
    time.sleep(1)
    suspending.kill()
    suspending.wait()
    data.resume()
    assert reader.result() == io.pattern(1, 0, 4 * KIB)
    assert not thin.suspended
    thin.verify_blocks(0, 1, seed=1)
    thin.fill_blocks(1, 1, seed=1)


@improvement("B5")
def test_fsync_in_a_read_only_pool(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(1, 1, seed=1)
    pool.change(features=["read_only"])
    thin.fill_blocks(1, 1, seed=2)
    thin.flush()
    pool.change(features=[])


@improvement("B5")
def test_fsync_in_a_full_pool(rig):
    rig.parameter("no_space_timeout", 0)
    pool = rig.pool(size=2 * MIB)
    thin = pool.thin(0, sectors=8192)
    thin.fill_blocks(1, 32, seed=1)
    job = hold_a_write(pool, thin, block=40)
    flush = io.Job(io.flush, thin.path)
    try:
        assert flush.errno(timeout=20) is None
    finally:
        pool.change(features=["error_if_no_space"])
        assert job.errno() == errno.ENOSPC
        flush.forget()


@improvement("B7")
def test_message_whose_commit_fails(rig):
    meta = rig.switch()
    pool = rig.pool(meta=meta)
    pool.create_thin(0)
    meta.fail_writes()
    assert error_of(pool.message, "set_transaction_id 0 7") is not None
    assert pool.status(noflush=True).transaction_id == 0
    meta.good()
    rig.stop_quietly(pool)
    metadata.check(meta)


@improvement("B10")
def test_behind_a_short_origin_in_a_read_only_pool(rig):
    origin = rig.disk(MIB + 4 * KIB)
    io.fill(origin.path, 0, MIB + 4 * KIB, seed=5)
    pool = rig.pool()
    thin = pool.thin(0, sectors=8192, origin=origin)
    pool.change(features=["read_only"])
    thin.verify(0, MIB + 4 * KIB, seed=5)
    thin.verify_zero(MIB + 4 * KIB, MIB)
    pool.change(features=[])


@improvement("B11")
def test_read_only_pool_on_grown_devices(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 2, seed=1)
    pool.data.grow(3 * GIB // 512)
    pool.meta.grow(16384)
    pool.change(features=["read_only"], sectors=3 * GIB // 512)
    status = pool.status()
    assert (status.mode, status.total, status.meta_total) == ("ro", 1024, 1024)
    thin.verify_blocks(0, 2, seed=1)
    pool.change(features=[])
    status = pool.status()
    assert (status.mode, status.total, status.meta_total) == ("rw", 49152, 2048)


CRASHES = "the kernel's own module uses a device that the core has freed, and may crash"


def test_pool_as_origin_under_another_name(rig, stock):
    if stock:
        pytest.skip(CRASHES)
    pool = rig.pool()
    pool.create_thin(0)
    device = rig.device(kind="thin")
    device.create_empty()
    refused = [error_of(device.load, f"0 8192 thin {pool} 0 {pool.number}", readonly) for readonly in (False, True)]
    device.clear()
    assert refused == [errno.EINVAL] * 2


def test_one_device_under_two_names_read_only(rig, stock):
    """The second opening is for writing, the first was not."""
    if stock:
        pytest.skip(CRASHES)
    pool = rig.pool()
    pool.remove()
    other = rig.pool(meta=pool.meta, data=number(pool.meta.path), size=4 * MIB, features=["read_only"], start=False)
    other.checked = False
    assert error_of(other.start) == errno.EINVAL


@improvement("B14")
def test_all_words_at_once(rig):
    words = ["skip_block_zeroing", "ignore_discard", "no_discard_passdown", "read_only", "error_if_no_space"]
    pool = rig.pool(features=["ignore_discard"])
    pool.change(features=words)
    assert pool.table_text().endswith(f" 5 {' '.join(words)} ")


@improvement("B15")
def test_freed_blocks_count_before_their_commit(rig):
    pool, thin = full_pool(rig, ["error_if_no_space", "no_discard_passdown"])
    thin.reload(thin.table(sectors=128 * 128))
    for n in range(40):
        thin.discard_blocks(n, 1)
        thin.fill_blocks(32 + n, 1, seed=1)
    thin.verify_blocks(40, 32, seed=1)


@improvement("B17")
def test_needs_check_is_on_the_disk_at_once(rig):
    data = rig.switch(64 * MIB)
    pool = rig.pool(data=data)
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    data.fail_writes()
    io.error_of(thin.flush)
    wait_for(lambda: pool.status(noflush=True).needs_check, "the pool is read-only")
    on_disk = metadata.Superblock(pool.meta).needs_check
    data.good()
    pool.expect_needs_check = True
    assert on_disk


@improvement("snapshot-clock")
def test_last_snapshot(rig):
    """The clock of a pool has 24 bits."""
    meta = rig.disk(4 * MIB)
    metadata.restore(
        meta,
        '<superblock uuid="" time="16777215" transaction="0" data_block_size="128" nr_data_blocks="1024">\n'
        '<device dev_id="0" mapped_blocks="1" transaction="0" creation_time="0" snap_time="16777215">\n'
        '<single_mapping origin_block="0" data_block="0" time="16777215"/>\n'
        "</device>\n</superblock>\n",
    )
    pool = rig.pool(meta=meta)
    assert error_of(pool.create_snap, 1, 0) == errno.EOVERFLOW
    pool.create_thin(2)
    thin = pool.activate(0)
    thin.fill_blocks(0, 2, seed=1)
    thin.verify_blocks(0, 2, seed=1)
    assert pool.status().used == 2


@improvement("B23")
def test_status_of_an_idle_pool_writes_nothing(rig):
    pool = rig.pool()
    pool.create_thin(0)
    pool.status()

    def writes():
        with open(f"/sys/block/{pool.meta.path.split('/')[-1]}/stat", encoding="ascii") as file:
            return int(file.read().split()[4])

    before = writes()
    for _ in range(3):
        pool.status()
    assert writes() == before


@improvement("B28")
def test_end_of_an_origin_without_zeroing(rig):
    pool = rig.pool(features=["skip_block_zeroing"])
    io.fill(pool.data.path, 0, 8 * MIB, seed=9)
    origin = rig.disk(MIB + 16 * KIB)
    io.fill(origin.path, 0, MIB + 16 * KIB, seed=5)
    thin = pool.thin(0, sectors=8192, origin=origin)
    thin.verify_zero(MIB + 16 * KIB, 48 * KIB)
    thin.fill(MIB, 4 * KIB, seed=1)
    thin.verify(MIB + 4 * KIB, 12 * KIB, seed=5)
    thin.verify_zero(MIB + 16 * KIB, 48 * KIB)
