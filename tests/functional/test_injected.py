"""Allocations and requests that fail at random below a working pool, and the pool after that.

Needs a kernel that can make them fail (uml-debug). INJECTED_ROUNDS makes it longer.
"""

import errno
import os
import random
import time

import pytest
from lib.dm import DmError
from lib.slots import SLOT, Slots
from lib.thin import MIB, SECTOR

DEBUG = "/sys/kernel/debug"
ROUNDS = int(os.environ.get("INJECTED_ROUNDS", "3"))
SLOTS = 64
pytestmark = [
    pytest.mark.deadline(900 + 120 * ROUNDS),
    pytest.mark.skipif(not os.path.isdir(f"{DEBUG}/failslab"), reason="this kernel has no fault injection"),
]


class Injection:
    """One of the kernel's ways to make things fail, while the block of `with` runs."""

    def __init__(self, what, probability, devices=()):
        self.where = f"{DEBUG}/{what}"
        self.probability = probability
        self.switches = [f"/sys/block/{os.path.basename(str(device))}/make-it-fail" for device in devices]

    def _set(self, name, value):
        with open(f"{self.where}/{name}", "w", encoding="ascii") as file:
            file.write(str(value))

    def __enter__(self):
        for switch in self.switches:
            with open(switch, "w", encoding="ascii") as file:
                file.write("1")
        self._set("interval", 1)
        self._set("verbose", 0)
        self._set("times", -1)
        self._set("probability", self.probability)
        return self

    def __exit__(self, *_):
        self._set("probability", 0)
        self._set("times", 0)
        for switch in self.switches:
            with open(switch, "w", encoding="ascii") as file:
                file.write("0")


def load(pool, thin, slots, chance):
    """All kinds of work, each of which may fail; who was told of success has a promise."""
    failed = 0
    for _ in range(30):
        what = chance.randrange(6)
        try:
            if what < 3:
                failed += slots.write(thin) is not None
            elif what == 3:
                pool.create_snap(100 + chance.randrange(5), 0)
            elif what == 4:
                pool.delete(100 + chance.randrange(5))
            else:
                pool.status()
        except (DmError, OSError, AssertionError):
            failed += 1
    return failed


@pytest.mark.parametrize("what", ["failslab", "fail_page_alloc", "fail_make_request"])
@pytest.mark.spared("broken-stress")
def test_nothing_promised_is_lost(rig, what):
    seed = os.environ.get("INJECTED_SEED", str(time.time_ns() % 1000000))
    print(f"INJECTED_SEED={seed} INJECTED_ROUNDS={ROUNDS}")
    chance = random.Random(int(seed))
    meta, data = rig.disk(16 * MIB), rig.disk(64 * MIB)
    pool = rig.pool(meta=meta, data=data)
    thin = pool.thin(0, sectors=SLOTS * SLOT // SECTOR)
    slots = Slots(SLOTS, chance.random())
    failed = 0
    for _ in range(ROUNDS):
        devices = (meta, data) if what == "fail_make_request" else ()
        probability = chance.choice([1, 5, 20]) if devices else chance.choice([1, 3])
        with Injection(what, probability, devices):
            failed += load(pool, thin, slots, chance)
        # The pool may have become read-only; what it says it has must be there all the same.
        try:
            Slots.prove(thin, *slots.now())
        except OSError as failure:
            # Not to be had before it starts again: it could not read its superblock when it had to go back to it.
            assert failure.errno == errno.EIO
            assert pool.status().failed
        rig.recover(pool)
        thin = pool.activate(0, sectors=SLOTS * SLOT // SECTOR)
        Slots.prove(thin, *slots.now())
        assert pool.status().mode == "rw"
        assert slots.write(thin) is None
    print(f"COUNTS {ROUNDS} rounds of {what}, {failed} operations failed, lost 0")
