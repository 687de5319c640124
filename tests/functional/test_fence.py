"""A snapshot of a thin that nobody has suspended is a point in time all the same."""

import struct
import time

import pytest
from lib import io
from lib.dm import error_of
from lib.proc import wait_for
from lib.thin import MIB

PLACES = 6


def _count(path, blocks, stop):
    """Write one number after the other to one place after the other, each only when the one before is done."""
    number = 0
    while not stop.is_set():
        number += 1
        for place in range(PLACES):
            io._do_write(path, place * blocks, struct.pack("<Q", number) * 512)
    return number


def _numbers(device, distance):
    return [struct.unpack_from("<Q", device.read(place * distance, 4096))[0] for place in range(PLACES)]


class Flag:
    """Set in one process, seen in others."""

    def __init__(self, path):
        self.path = path

    def set(self):
        with open(self.path, "w", encoding="ascii"):
            pass

    def is_set(self):
        try:
            with open(self.path, encoding="ascii"):
                return True
        except FileNotFoundError:
            return False


def slow_disk(rig, size, ms):
    """A disk whose writes take their time on the way; what is read meanwhile is what was there before."""
    lower = rig.disk(size)
    return rig.device(f"0 {size // 512} delay {lower} 0 0 {lower} 0 {ms} {lower} 0 0", "slow")


@pytest.mark.improvement("B19")
def test_write_under_way_does_not_reach_the_snapshot_later(rig):
    pool = rig.pool(data=slow_disk(rig, 64 * MIB, 3000))
    thin = pool.thin(0)
    thin.fill_blocks(0, 1, seed=1)
    pool.status()
    writer = io.Job(io.fill, thin.path, 0, 4096, 2)
    inflight = f"/sys/dev/block/{thin.number}/inflight"
    wait_for(lambda: open(inflight, encoding="ascii").read().split()[1] != "0", "the write is under way")
    pool.create_snap(1, 0)
    snap = pool.activate(1)
    before = snap.read(0, pool.block)
    writer.result()
    assert snap.read(0, pool.block) == before


def test_snapshots_of_a_busy_thin_are_points_in_time(rig, tmp_path):
    pool = rig.pool(data=slow_disk(rig, 64 * MIB, 20))
    thin = pool.thin(0)
    stop = Flag(tmp_path / "stop")
    writer = io.Job(_count, thin.path, MIB, stop)
    try:
        snaps = []
        for snap_id in range(1, 13):
            time.sleep(0.03 * (snap_id % 4))
            pool.create_snap(snap_id, 0)
            snaps.append(pool.activate(snap_id))
        first = [_numbers(snap, MIB) for snap in snaps]
        time.sleep(0.3)
        assert [_numbers(snap, MIB) for snap in snaps] == first, "a snapshot has changed"
    finally:
        stop.set()
    assert writer.result() > 3
    for numbers in first:
        assert numbers == sorted(numbers, reverse=True) and numbers[0] - numbers[-1] <= 1, numbers


def test_fence_lets_noflush_suspends_through(rig):
    """Writes, snapshots and suspends all at once: nothing hangs and nothing fails."""
    pool = rig.pool()
    thin = pool.thin(0, sectors=16384)
    writers = [io.Job(io.fill, thin.path, n * MIB, MIB, 1) for n in range(8)]
    for snap_id in range(1, 30):
        pool.create_snap(snap_id, 0)
        (thin if snap_id % 2 else pool).cycle(noflush=True)
    for writer in writers:
        writer.result()
    thin.verify(0, 8 * MIB, seed=1)


def test_snapshot_of_a_thin_whose_writes_wait_for_space(rig):
    """The message waits for no space."""
    rig.parameter("no_space_timeout", 0)
    pool = rig.pool(size=2 * MIB)
    thin = pool.thin(0, sectors=8192)
    thin.fill_blocks(0, 32, seed=1)
    writer = io.Job(io.fill, thin.path, 32 * pool.block, pool.block, 1)
    wait_for(lambda: pool.status().mode == "out_of_data_space", "the pool is full")
    assert error_of(pool.create_snap, 1, 0) is None
    snap = pool.activate(1, sectors=8192)
    snap.verify_blocks(0, 32, seed=1)
    assert not writer.done()
    pool.data.grow(8192)
    pool.change(sectors=8192)
    writer.result()
    thin.verify_blocks(0, 33, seed=1)
    snap.zero_blocks(32, 1)
