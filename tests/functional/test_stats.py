"""The counters that the stats message tells."""

import errno

import pytest
from lib import io
from lib.dm import dmsetup, error_of
from lib.proc import wait_for
from lib.thin import MIB
from test_modes import break_metadata, exhaust_metadata

pytestmark = pytest.mark.improvement("stats")


def stats(pool):
    """{"pool": {...}, "total": {...}, thin id: {...}}; values are numbers but for the mode."""
    found = {}
    for line in dmsetup("message", pool.name, 0, "stats").splitlines():
        head, *words = line.split()
        fields = dict(word.split("=") for word in words)
        key = int(fields.pop("id")) if head == "thin" else head
        found[key] = {name: value if name == "mode" else int(value) for name, value in fields.items()}
    return found


def test_each_road_is_counted(rig):
    pool = rig.pool()
    thin, idle = pool.thin(0), pool.thin(1)
    thin.fill_blocks(0, 4, seed=1)
    thin.flush()
    now = stats(pool)
    assert now[0]["first_writes"] == 4 and now[0]["overwrites"] == 4 and now[0]["copies"] == 0
    assert now["pool"]["mode"] == "rw" and now["pool"]["thins"] == 2 and now["pool"]["commits"] > 0
    assert now["pool"]["commit_us_max"] <= now["pool"]["commit_us"]

    before = now[0]
    thin.verify_blocks(0, 4, seed=1)
    thin.zero_blocks(8, 1)
    thin.write(0, bytes(4096))
    thin.flush()
    now = stats(pool)[0]
    assert now["read_hits"] > before["read_hits"] and now["write_hits"] == before["write_hits"] + 1
    assert now["read_holes"] > before["read_holes"] and now["flushes_passed"] > before["flushes_passed"]

    pool.snapshot(thin, 2)
    thin.write(MIB // 16, bytes(4096))
    thin.discard_blocks(2, 2)
    now = stats(pool)
    assert now[0]["copies"] == 1 and now[0]["unmapped"] == 2
    assert not any(value for name, value in now[1].items() if not name.startswith("read") and name != "flushes_passed")
    assert idle.status().mapped == 0

    thin.remove()
    after = stats(pool)
    assert 0 not in after and after["total"] == {name: now[0][name] + now[1][name] for name in now[0]}


def test_in_every_mode(rig):
    rig.parameter("no_space_timeout", 0)
    pool = rig.pool(size=MIB)
    thin = pool.thin(0, sectors=4096)
    assert stats(pool)["pool"]["mode"] == "rw"
    job = io.Job(io.fill, thin.path, 0, 17 * pool.block, 1)
    wait_for(lambda: pool.status(noflush=True).mode == "out_of_data_space", "the pool is full")
    assert stats(pool)["pool"]["mode"] == "out_of_data_space"
    pool.suspend()
    assert stats(pool)["pool"]["mode"] == "out_of_data_space"
    pool.resume()
    pool.change(features=["error_if_no_space"])
    assert job.errno() == errno.ENOSPC
    assert stats(pool)["pool"]["mode"] == "out_of_data_space"
    pool.change(features=["read_only"])
    assert stats(pool)["pool"]["mode"] == "read_only"
    assert error_of(pool.create_thin, 5) == errno.EOPNOTSUPP


def test_out_of_metadata_space(rig):
    pool, _ = exhaust_metadata(rig)
    assert stats(pool)["pool"]["mode"] == "out_of_metadata_space"


def test_of_a_pool_that_needs_a_check(rig):
    pool, thin = break_metadata(rig)
    now = stats(pool)
    assert now["pool"]["mode"] == "read_only" and now[0]["first_writes"] >= 8
    rig.stop_quietly(pool)


def test_of_a_failed_pool(rig):
    pool = rig.pool(meta=rig.switch())
    thin = pool.thin(0)
    thin.fill_blocks(0, 1, seed=1)
    pool.meta.fail_all()
    pool.status_line()
    pool.status_line()
    assert pool.status_line().endswith("Fail")
    assert stats(pool)["pool"]["mode"] == "fail" and stats(pool)[0]["first_writes"] == 1
    pool.meta.good()


@pytest.mark.heavy  # the memory that so many thins give back keeps a kernel with KASAN busy for half a minute
def test_of_many_thins(rig):
    """More text than the first buffer holds."""
    pool = rig.pool()
    for thin_id in range(120):
        pool.thin(thin_id, sectors=128)
    assert {n for n in stats(pool) if isinstance(n, int)} == set(range(120))
    assert error_of(pool.message, "stats now") == errno.EINVAL
