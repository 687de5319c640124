"""Pools and thin volumes as objects over dmsetup, and their status lines taken apart."""

import re

from . import io
from .dm import Device, after_table_kind

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SECTOR = 512

_POOL_STATUS = re.compile(
    r"(?P<transaction_id>\d+) (?P<meta_used>\d+)/(?P<meta_total>\d+) (?P<used>\d+)/(?P<total>\d+)"
    r" (?P<held>-|\d+) (?P<mode>rw|ro|out_of_data_space)"
    r" (?P<discard>ignore_discard|discard_passdown|no_discard_passdown)"
    r" (?P<no_space>error_if_no_space|queue_if_no_space)"
    r" (?P<check>needs_check|-) (?P<meta_low>\d+) "
)


class PoolStatus:
    """The words behind 'thin-pool'. `text` has them as they came, the blank at the end included."""

    def __init__(self, line):
        self.text = after_table_kind(line, "thin-pool")
        self.failed = self.text == "Fail"
        self.error = self.text == "Error"
        if self.failed or self.error:
            self.mode = None
            return
        found = _POOL_STATUS.fullmatch(self.text)
        assert found, f"not a pool's status: {self.text!r}"
        for key, value in found.groupdict().items():
            setattr(self, key, int(value) if value.isdigit() else value)
        self.needs_check = self.check == "needs_check"
        self.free = self.total - self.used

    def __repr__(self):
        return f"<{self.text}>"


class ThinStatus:
    def __init__(self, line):
        self.text = after_table_kind(line, "thin")
        self.failed = self.text == "Fail"
        self.error = self.text == "Error"
        if self.failed or self.error:
            return
        found = re.fullmatch(r"(\d+) (\d+|-)", self.text)
        assert found, f"not a thin's status: {self.text!r}"
        self.mapped = int(found.group(1))
        self.highest = None if found.group(2) == "-" else int(found.group(2))

    def __repr__(self):
        return f"<{self.text}>"


class Pool(Device):
    """A thin pool. Made by Rig.pool(), which also takes it down and checks its metadata."""

    def __init__(self, rig, name, meta, data, sectors, bs=128, low_water=0, features=()):
        super().__init__(name)
        self.rig, self.meta, self.data = rig, meta, data
        self.sectors, self.bs, self.low_water, self.features = sectors, bs, low_water, tuple(features)
        self.checked = True  # thin_check after removal
        self.expect_needs_check = False

    @property
    def block(self):
        """Bytes in a block."""
        return self.bs * SECTOR

    def table(self, **changed):
        """Its table line, with some of (sectors, meta, data, bs, low_water, features) changed."""
        for key in ("sectors", "meta", "data", "bs", "low_water", "features"):
            changed.setdefault(key, getattr(self, key))
        words = list(changed["features"])
        count = f" {len(words)} {' '.join(words)}" if words else ""
        return "0 {sectors} thin-pool {meta} {data} {bs} {low_water}".format(**changed) + count

    def start(self):
        self.create(self.table())
        return self

    def change(self, noflush=False, **changed):
        """Reload with some things changed, for good."""
        self.reload(self.table(**changed), noflush)
        for key, value in changed.items():
            setattr(self, key, value)

    def status(self, noflush=False):
        return PoolStatus(self.status_line(noflush))

    def table_text(self, inactive=False):
        return after_table_kind(self.table_line(inactive), "thin-pool")

    def create_thin(self, thin_id):
        self.message(f"create_thin {thin_id}")

    def create_snap(self, thin_id, origin):
        self.message(f"create_snap {thin_id} {origin}")

    def delete(self, thin_id):
        self.message(f"delete {thin_id}")

    def thin(self, thin_id, sectors=None, create=True, origin=None, **named):
        """An active thin device, made first unless create=False."""
        if create:
            self.create_thin(thin_id)
        return self.activate(thin_id, sectors, origin, **named)

    def activate(self, thin_id, sectors=None, origin=None, readonly=False):
        thin = Thin(self, self.rig.name("thin"), thin_id, sectors or self.sectors, origin)
        self.rig.thins.append(thin)
        thin.create(thin.table(), readonly)
        return thin

    def snapshot(self, thin, snap_id):
        """Snapshot an active thin as every tool does: suspended meanwhile."""
        thin.suspend()
        try:
            self.create_snap(snap_id, thin.id)
        finally:
            thin.resume()


class Thin(Device):
    def __init__(self, pool, name, thin_id, sectors, origin=None):
        super().__init__(name)
        self.pool, self.id, self.sectors, self.origin = pool, thin_id, sectors, origin

    def table(self, sectors=None):
        origin = f" {self.origin}" if self.origin else ""
        return f"0 {sectors or self.sectors} thin {self.pool.path} {self.id}{origin}"

    def remove(self, force=False, retry=True):
        super().remove(force, retry)
        if self in self.pool.rig.thins:
            self.pool.rig.thins.remove(self)

    def status(self):
        return ThinStatus(self.status_line())

    def table_text(self):
        return after_table_kind(self.table_line(), "thin")

    # -- I/O in bytes

    def write(self, offset, data, fua=False):
        io.write(self.path, offset, data, fua)

    def read(self, offset, length):
        return io.read(self.path, offset, length)

    def fill(self, offset, length, seed, fua=False):
        io.fill(self.path, offset, length, seed, fua)

    def verify(self, offset, length, seed):
        io.verify(self.path, offset, length, seed)

    def verify_zero(self, offset, length):
        io.verify_zero(self.path, offset, length)

    def discard(self, offset, length):
        io.discard(self.path, offset, length)

    def flush(self):
        io.flush(self.path)

    # -- I/O in whole blocks of the pool

    def fill_blocks(self, first, count, seed):
        self.fill(first * self.pool.block, count * self.pool.block, seed)

    def verify_blocks(self, first, count, seed):
        self.verify(first * self.pool.block, count * self.pool.block, seed)

    def zero_blocks(self, first, count):
        self.verify_zero(first * self.pool.block, count * self.pool.block)

    def discard_blocks(self, first, count):
        self.discard(first * self.pool.block, count * self.pool.block)
