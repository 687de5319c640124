"""Many at once: pools, thins, devices of one id."""

import errno
import time

import pytest
from lib import io, proc
from lib.dm import dmsetup, error_of
from lib.proc import wait_for
from lib.thin import KIB, MIB, Thin


def rounds(paths, offset, length, first_seed, count, fua):
    """So many times over: fill the range of each device, with another seed each time."""
    for n in range(count):
        for path in paths:
            io._do_fill(path, offset, length, first_seed + n, fua)


# -- pools -------------------------------------------------------------------------------


def test_pools_of_every_kind_under_load(rig):
    kinds = [
        dict(bs=128),
        dict(bs=384, features=["skip_block_zeroing"]),
        dict(bs=2048, features=["no_discard_passdown"]),
        dict(bs=1536, features=["error_if_no_space"]),
    ]
    pools = [rig.pool(**kind) for kind in kinds]
    thins = [pool.thin(n) for n, pool in enumerate(pools)]
    jobs = [io.Job(rounds, [thin.path], 0, 6 * MIB, 10 * n, 3, False) for n, thin in enumerate(thins)]
    turn = 0
    while not all(job.done() for job in jobs):
        pools[turn % 4].cycle(noflush=bool(turn % 2))
        if turn < 4:
            pools[turn].snapshot(thins[turn], 100)
        turn += 1
    for job in jobs:
        job.result()
    for n, (pool, thin) in enumerate(zip(pools, thins)):
        thin.verify(0, 6 * MIB, seed=10 * n + 2)
        assert thin.status().mapped == 6 * MIB // 512
        assert pool.status().mode == "rw"


def test_a_full_pool_and_a_failed_one_leave_the_others_alone(rig):
    rig.parameter("no_space_timeout", 0)
    healthy = rig.pool()
    full = rig.pool(size=2 * MIB)
    switch = rig.switch()
    failed = rig.pool(meta=switch)
    good, held, lost = healthy.thin(0), full.thin(0, sectors=8192), failed.thin(0)
    writer = io.Job(io.fill, held.path, 0, 3 * MIB, 1)
    wait_for(lambda: full.status(noflush=True).mode == "out_of_data_space", "the small pool is full")
    lost.fill_blocks(0, 4, seed=1)
    switch.fail_all()
    failed.status()
    assert failed.status().failed
    # One pool holds a writer, one has failed: this one does everything there is to do.
    good.fill(0, 8 * MIB, seed=1)
    healthy.snapshot(good, 1)
    good.fill(0, MIB, seed=2)
    snap = healthy.activate(1)
    snap.verify(0, 8 * MIB, seed=1)
    good.discard(0, 4 * MIB)
    good.flush()
    healthy.cycle()
    snap.remove()
    healthy.delete(1)
    assert healthy.status().used == 64
    assert not writer.done()
    full.data.grow(8192)
    full.change(sectors=8192)
    writer.result()
    held.verify(0, 3 * MIB, seed=1)
    switch.good()
    rig.stop_quietly(failed)


# -- thins -------------------------------------------------------------------------------

COUNT = 300


def activate_many(rig, pool, ids, sectors):
    """Thins by one command, since three hundred would take longer than all the rest."""
    thins = [Thin(pool, rig.name("thin"), thin_id, sectors) for thin_id in ids]
    rig.thins += thins
    dmsetup("create", "--concise", ";".join(f"{thin.name},,,rw,{thin.table()}" for thin in thins))
    return thins


@pytest.mark.heavy
def test_three_hundred_active_thins(rig, capsys):
    pool = rig.pool(size=128 * MIB, meta=16 * MIB)
    for thin_id in range(COUNT):
        pool.create_thin(thin_id)
    thins = activate_many(rig, pool, range(COUNT), sectors=2048)
    assert len({thin.number for thin in thins}) == COUNT

    start = time.monotonic()
    pool.suspend()
    middle = time.monotonic()
    pool.resume()
    idle = (middle - start, time.monotonic() - middle)

    # Six writers, each with fifty thins, while the pool goes up and down.
    length = 2 * pool.block
    jobs = [io.Job(rounds, [thin.path for thin in thins[n::6]], 0, length, 7, 4, False) for n in range(6)]
    turns, spent = 0, 0.0
    while not all(job.done() for job in jobs):
        start = time.monotonic()
        pool.cycle(noflush=bool(turns % 2))
        spent += time.monotonic() - start
        turns += 1
    for job in jobs:
        job.result()
    assert turns
    with capsys.disabled():
        print(
            f"\n{COUNT} active thins: suspend {idle[0] * 1000:.0f} ms, resume {idle[1] * 1000:.0f} ms idle; "
            f"both {spent / turns * 1000:.0f} ms under load (mean of {turns})"
        )
    for thin in thins:
        thin.verify(0, length, seed=10)
        assert not thin.suspended
    status = pool.status()
    assert (status.mode, status.used) == ("rw", COUNT * 2)
    rig.restart(pool)
    thins = activate_many(rig, pool, range(0, COUNT, 50), sectors=2048)
    for thin in thins:
        thin.verify(0, length, seed=10)


IDS = (0, 1, 255, 256, 65535, 65536, 8388607, 8388608, 16777214, 16777215)


def test_ids_at_both_ends_keep_their_data(rig):
    pool = rig.pool()
    for n, thin_id in enumerate(IDS):
        pool.thin(thin_id).fill_blocks(n, 2, seed=thin_id)
    assert error_of(pool.create_thin, 16777216) == errno.EINVAL
    pool.create_snap(2, 16777215)
    pool.create_snap(16777213, 0)
    rig.restart(pool)
    for n, thin_id in enumerate(IDS):
        thin = pool.activate(thin_id)
        thin.verify_blocks(n, 2, seed=thin_id)
        assert thin.status().mapped == 2 * pool.bs
    pool.activate(2).verify_blocks(9, 2, seed=16777215)
    low = pool.activate(16777213)
    low.verify_blocks(0, 2, seed=0)
    low.fill_blocks(0, 1, seed=5)
    for thin in list(rig.thins):
        thin.remove()
    for thin_id in (0, 16777215):
        pool.delete(thin_id)
    pool.activate(16777214).verify_blocks(8, 2, seed=16777214)
    assert pool.status().used == 2 * len(IDS)  # one copied, one lost


# -- devices of one id -------------------------------------------------------------------


def test_writers_through_two_devices_of_one_id(rig):
    """They meet in every block, each with its own half."""
    pool = rig.pool()
    one = pool.thin(0)
    two = pool.activate(0)
    half = pool.block // 2

    jobs = [
        io.Job(halves, device.path, pool.block, 64, at, seed)
        for device, at, seed in ((one, 0, 1), (two, half, 2))
    ]
    for job in jobs:
        job.result()
    for n in range(0, 64, 7):
        for device in (one, two):
            device.verify(n * pool.block, half, seed=1)
            device.verify(n * pool.block + half, half, seed=2)
    assert one.status().text == two.status().text == f"{64 * 128} {64 * 128 - 1}"
    assert pool.status().used == 64


def halves(path, block, count, at, seed):
    for n in range(count):
        io._do_fill(path, n * block + at, block // 2, seed)


def test_what_one_device_of_an_id_does_the_other_sees(rig):
    pool = rig.pool()
    one = pool.thin(0)
    two = pool.activate(0)
    one.fill_blocks(0, 8, seed=1)
    two.discard_blocks(2, 2)
    one.zero_blocks(2, 2)
    # A snapshot wants both to rest.
    two.suspend()
    pool.snapshot(one, 1)
    two.resume()
    two.fill(0, 4 * KIB, seed=2)
    one.verify(0, 4 * KIB, seed=2)
    one.verify(4 * KIB, 60 * KIB, seed=1)
    pool.activate(1).verify_blocks(0, 2, seed=1)
    two.flush()
    # One rests, the other works.
    one.suspend()
    two.fill_blocks(20, 1, seed=3)
    one.resume()
    one.verify_blocks(20, 1, seed=3)
    one.remove()
    assert error_of(pool.delete, 0) == errno.EBUSY
    two.verify_blocks(20, 1, seed=3)


def test_read_only_tables(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    pool.snapshot(thin, 1)
    reader = pool.activate(1, readonly=True)
    assert proc.run("blockdev", "--getro", reader).out.strip() == "1"
    reader.verify_blocks(0, 4, seed=1)
    reader.zero_blocks(4, 2)
    for function, args in ((reader.write, (0, bytes(4096))), (reader.discard_blocks, (0, 1))):
        assert io.error_of(function, *args) in (errno.EPERM, errno.EACCES, errno.EROFS)
    thin.fill_blocks(0, 1, seed=2)
    reader.verify_blocks(0, 4, seed=1)
    # Turned into a writable one, and back.
    reader.reload(reader.table())
    reader.fill_blocks(1, 1, seed=3)
    reader.load(reader.table(), readonly=True)
    reader.cycle()
    assert io.error_of(reader.write, 0, bytes(4096)) in (errno.EPERM, errno.EACCES, errno.EROFS)
    reader.verify_blocks(1, 1, seed=3)
    assert pool.status().used == 6
