"""Everything at once, with readers who check every byte for its device, its place and its generation.

STRESS_SECONDS makes a run longer, STRESS_SEED repeats the choices of another one.
"""

import os
import time

import pytest
from lib import metadata
from lib.stress import Stress
from lib.thin import MIB

SECONDS = int(os.environ.get("STRESS_SECONDS", "20"))
pytestmark = pytest.mark.deadline(900 + 3 * SECONDS)


@pytest.fixture
def seed():
    """Shown if the test fails."""
    chosen = os.environ.get("STRESS_SEED", str(time.time_ns() % 1000000))
    print(f"STRESS_SEED={chosen} STRESS_SECONDS={SECONDS}")
    return chosen


def test_everything_at_once(rig, stock, seed):
    stress = Stress(rig, seed, stock)
    pool = stress.pool
    stress.run(SECONDS)
    stress.halt()
    stress.all_right()
    if stress.held:
        pool.message("release_metadata_snap")
    status = pool.status()
    assert (status.mode, status.held, status.needs_check) == ("rw", "-", False)
    stress.deactivate()
    metadata.check(pool.meta)
    mapped = {block for device in metadata.mappings(pool.meta).values() for block in device.values()}
    assert len(mapped) == metadata.Superblock(pool.meta).data_used == status.used
    stress.activate()
    stress.all_right(found=True)


@pytest.mark.spared("broken-stress")
def test_everything_at_once_until_commits_fail(rig, seed):
    """What fsync has confirmed is there, and nobody has anything of another one."""
    stress = Stress(rig, seed, stock=False, meta=rig.switch(16 * MIB), ends_broken=True)
    pool = stress.pool
    stress.run(SECONDS)
    stress.break_metadata()
    stress.halt()
    stress.all_right()
    healed_first = stress.chance.random() < 0.5
    if healed_first:
        pool.meta.good()
    stress.deactivate()
    pool.meta.good()
    metadata.check(pool.meta)
    if metadata.Superblock(pool.meta).needs_check:
        metadata.clear_needs_check(pool.meta)
    stress.activate()
    assert pool.status().mode == "rw"
    stress.all_right(found=True)
