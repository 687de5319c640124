"""A thin in slots of 16 KiB, each of a generation: what was begun, what fsync has promised, what may be found."""

import random

from . import io
from .thin import KIB, SECTOR

SLOT = 16 * KIB


class Slots:
    """Writes slots of a thin and knows what each may hold from then on."""

    def __init__(self, count, seed):
        self.count = count
        self.chance = random.Random(seed)
        self.begun = [0] * count
        self.safe = [0] * count

    @staticmethod
    def content(slot, generation):
        return io.pattern(generation * 1000 + slot, slot * SLOT, SLOT) if generation else bytes(SLOT)

    def write(self, thin, most=4):
        """Some slots, then a flush. Returns the errno of what failed, None when all is promised."""
        failed = None
        batch = self.chance.sample(range(self.count), self.chance.randint(1, most))
        through = self.chance.random() < 0.3
        for slot in batch:
            self.begun[slot] += 1
            error = io.error_of(thin.write, slot * SLOT, self.content(slot, self.begun[slot]), through)
            failed = failed or error
        if not through and not failed:
            failed = io.error_of(thin.flush)
        if not failed:
            for slot in batch:
                self.safe[slot] = self.begun[slot]
        return failed

    def now(self):
        """(promised, begun) at this moment."""
        return list(self.safe), list(self.begun)

    @classmethod
    def prove(cls, thin, safe, begun):
        """Each slot must be of a generation from the promised one to the one begun last; a cut may tear it."""
        for slot, (low, high) in enumerate(zip(safe, begun)):
            found = thin.read(slot * SLOT, SLOT)
            allowed = [cls.content(slot, generation) for generation in range(low, high + 1)]
            for at in range(0, SLOT, SECTOR):
                assert any(found[at : at + SECTOR] == one[at : at + SECTOR] for one in allowed), (
                    f"slot {slot}, byte {at}: not of a generation from {low} to {high}"
                )
