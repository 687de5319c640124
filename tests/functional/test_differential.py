"""The same random traces on the kernel's own module and on this one; and one pool that goes from one to the other and back.

TRACES and ALTERNATIONS make it longer, TRACE_SEED is the first trace's seed.
"""

import hashlib
import os
import random

import pytest
from lib import metadata, proc
from lib.dm import DmError
from lib.rig import module_is_stock
from lib.slots import SLOT, Slots
from lib.thin import KIB, MIB, SECTOR

TRACES = int(os.environ.get("TRACES", "3"))
ALTERNATIONS = int(os.environ.get("ALTERNATIONS", "2"))
FIRST = int(os.environ.get("TRACE_SEED", "1"))
BATCH = 25  # traces between two changes of the module
THINS, BLOCKS = 4, 48
GUEST = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guest")

pytestmark = pytest.mark.deadline(900 + 20 * TRACES + 60 * ALTERNATIONS)


def use(which):
    proc.run(os.path.join(GUEST, "use-module"), which)
    assert module_is_stock() == (which == "in-tree")


@pytest.fixture
def modules(stock):
    """Both can be loaded; this one is, before and after."""
    if stock:
        pytest.skip("compares this module with the kernel's own")
    yield
    use("ours")


class Trace:
    """Random operations on a small pool, the same for the same seed whatever the answers are."""

    def __init__(self, rig, seed):
        self.chance = random.Random(seed)
        features = self.chance.choice([(), ("skip_block_zeroing",), ("no_discard_passdown",), ("error_if_no_space",)])
        # Some pools fill up; none waits for room.
        size = self.chance.choice([16, 16, 4]) * MIB
        if size == 4 * MIB:
            features = ("error_if_no_space",)
        self.zeroes = "skip_block_zeroing" not in features
        self.pool = rig.pool(size=size, features=features)
        self.rig, self.seed, self.thins, self.answers = rig, seed, {}, []

    @staticmethod
    def _errno(function, *args):
        try:
            function(*args)
        except (OSError, DmError) as refused:
            return refused.errno
        return None

    def step(self, number):
        chance, pool = self.chance, self.pool
        what, thin_id = chance.randrange(100), chance.randrange(THINS)
        first, count = chance.randrange(BLOCKS), chance.randint(1, 6)
        other = chance.randrange(THINS)
        thin = self.thins.get(thin_id)
        if what < 10 or not self.thins:
            if thin_id not in self.thins:
                self.answers.append(self._errno(pool.create_thin, thin_id))
                self.thins[thin_id] = pool.activate(thin_id, sectors=BLOCKS * 128)
        elif what < 20:
            if thin and other not in self.thins:
                self.answers.append(self._errno(pool.snapshot, thin, other))
                self.thins[other] = pool.activate(other, sectors=BLOCKS * 128)
        elif what < 25:
            if thin:
                thin.remove()
                del self.thins[thin_id]
                self.answers.append(self._errno(pool.delete, thin_id))
        elif what < 30:
            self.answers.append(self._errno(pool.message, f"set_transaction_id {chance.randrange(3)} {chance.randrange(3)}"))
        elif what < 34:
            self.answers.append(self._errno(pool.message, chance.choice(["reserve_metadata_snap", "release_metadata_snap"])))
        elif what < 50 and thin:
            length = min(count, BLOCKS - first) * pool.block
            self.answers.append(self._errno(thin.discard, first * pool.block, length))
        elif what < 75 and thin:
            length = min(count, BLOCKS - first) * pool.block
            self.answers.append(self._errno(thin.fill, first * pool.block, length, number))
        elif what < 95 and thin and self.zeroes:
            self.answers.append(self._errno(thin.fill, first * pool.block + chance.randrange(16) * 4 * KIB, 4 * KIB, number))
        elif what < 98:
            pool.status()
        elif thin:
            self.answers.append(self._errno(thin.flush))

    def run(self):
        """All that can be compared of the end."""
        for number in range(40):
            self.step(number)
        status = self.pool.status()
        found = {
            "answers": self.answers,
            "status": (status.transaction_id, status.used, status.total, status.held != "-", status.mode, status.needs_check),
            "thins": {number: thin.status().text for number, thin in self.thins.items()},
            "contents": {
                number: hashlib.sha256(thin.read(0, BLOCKS * self.pool.block)).hexdigest()
                for number, thin in self.thins.items()
            },
        }
        self.rig.stop(self.pool)
        found["mapped"] = {number: sorted(blocks) for number, blocks in metadata.mappings(self.pool.meta).items()}
        for disk in (self.pool.meta, self.pool.data):
            self.rig.disks.remove(disk)
            disk.remove()
        return found


def test_same_traces(rig, modules):
    compared = 0
    for first in range(FIRST, FIRST + TRACES, BATCH):
        seeds = range(first, min(first + BATCH, FIRST + TRACES))
        found = {}
        for which in ("in-tree", "ours"):
            use(which)
            for seed in seeds:
                found[which, seed] = Trace(rig, seed).run()
        for seed in seeds:
            theirs, ours = found["in-tree", seed], found["ours", seed]
            for key, value in theirs.items():
                assert ours[key] == value, f"TRACE_SEED={seed} TRACES=1: {key} differ"
            compared += 1
    print(f"COUNTS {compared} traces compared")


def test_from_one_module_to_the_other_and_back(rig, modules):
    pool = rig.pool(size=64 * MIB)
    sectors = 64 * SLOT // SECTOR
    pool.create_thin(0)
    slots = Slots(64, FIRST)
    chance = random.Random(FIRST)
    snapshots, number = {}, 10
    for turn in range(ALTERNATIONS):
        if pool in rig.pools and pool.exists():
            rig.stop(pool)
        use("in-tree" if turn % 2 == 0 else "ours")
        rig.pools.append(pool)
        pool.start()
        thin = pool.activate(0, sectors=sectors)
        for snap, state in snapshots.items():
            Slots.prove(pool.activate(snap, sectors=sectors), *state)
        Slots.prove(thin, *slots.now())
        for _ in range(8):
            assert slots.write(thin) is None
        pool.snapshot(thin, number)
        snapshots[number] = slots.now()
        number += 1
        for _ in range(4):
            assert slots.write(thin) is None
        thin.discard(0, SLOT * 4)
        for slot in range(4):  # what was discarded is written anew
            slots.begun[slot] += 1
            thin.write(slot * SLOT, Slots.content(slot, slots.begun[slot]), True)
            slots.safe[slot] = slots.begun[slot]
        if len(snapshots) > 3:
            gone = chance.choice(sorted(snapshots))
            if any(thin.id == gone for thin in rig.thins):
                next(thin for thin in rig.thins if thin.id == gone).remove()
            pool.delete(gone)
            del snapshots[gone]
    rig.stop(pool)
    print(f"COUNTS {ALTERNATIONS} changes of the module below one pool")
