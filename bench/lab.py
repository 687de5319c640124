"""The devices of one Setup: dm-linear and thins of either module, by turns on the same disks."""

import contextlib
import os
import random
from concurrent import futures

from cases import KIB, MIB
from lib import io, metadata, proc
from lib.dm import number
from lib.lvm import ModuleSwitch
from lib.rig import PARAMETERS, Rig
from lib.thin import SECTOR

MODULES = {"stock": "in-tree", "ours": "ours"}  # as use-module calls them
BIG = 9999  # id of the restored thin
RUN = 64  # its mappings lie in runs of so many blocks
FLUSH_DELAY_MS = 5
_modules = None


def modules():
    global _modules
    _modules = _modules or ModuleSwitch()
    return _modules


@contextlib.contextmanager
def hurry():
    """Making and removing devices waits mostly for RCU. Not while something is measured."""

    def expedite(on):
        with open("/sys/kernel/rcu_expedited", "w", encoding="ascii") as file:
            file.write(str(int(on)))

    expedite(True)
    try:
        yield
    finally:
        expedite(False)


class Ram:
    """A brd disk: in memory, without a write cache, sparse. There are a few, as big as the kernel was told."""

    def __init__(self, size, index=0):
        self.path, self.size = f"/dev/ram{index}", size
        assert io.size(self.path) >= size, f"{self.path} is smaller than {size} bytes: boot with a larger brd.rd_size"

    def __str__(self):
        return self.path

    def remove(self):
        # Gives the memory back.
        for offset in range(0, self.size, 1 << 30):
            io.discard(self.path, offset, min(1 << 30, self.size - offset))


def _ram(rig, size):
    disk = Ram(size)
    rig.disks.append(disk)
    return disk


def _delayed(rig, size):
    """A loop device whose flushes take a known time; reads and writes pass at once."""
    disk = rig.disk(size)
    return rig.device(f"0 {size // SECTOR} delay {disk} 0 0 {disk} 0 0 {disk} 0 {FLUSH_DELAY_MS}", "delay")


def _cached(rig, size):
    return rig.null_blk(size, cache_mib=64)


def _irq(mode):
    return lambda rig, size: rig.null_blk(size, memory_backed=0, irqmode=mode, completion_nsec=10000)


def _loop(rig, size):
    return rig.disk(size)


def _zero(rig, size):
    return rig.device(f"0 {size // SECTOR} zero", "zero")


# {name: (data disk, metadata disk)}
DISKS = {
    "ram": (_ram, _loop),
    "loop": (_loop, _loop),
    "delay": (_delayed, _delayed),
    "null-cache": (_cached, _cached),
    "null": (_irq(0), _loop),
    "null-irq1": (_irq(1), _loop),
    "null-irq2": (_irq(2), _loop),
    "zero": (_zero, _loop),
}
FORGETFUL = ("null", "null-irq1", "null-irq2", "zero")


def in_parallel(function, things):
    """A removal waits for grace periods; many wait for the same ones."""
    with futures.ThreadPoolExecutor(16) as workers:
        list(workers.map(function, things))


def _write_over(device, size):
    proc.run("dd", "if=/dev/zero", f"of={device}", "bs=1M", f"count={size // MIB}", "oflag=direct")


class Side:
    """What is measured: the devices of one kind, while they are there."""

    def __init__(self, lab, kind):
        self.lab, self.kind = lab, kind
        self.pool = None
        self.thins, self.spare = [], None
        self.tops = []  # dm-linear's devices that no other stands on
        self._big = None

    def restored(self):
        """The restored thin's device, activated when it is first asked for."""
        if self._big is None:
            self._big = self.lab.activate(self, BIG)
        return self._big


class Lab:
    """Made once for a Setup; open(kind) gives the devices in the state that the setup asks for."""

    def __init__(self, directory, setup):
        self.setup, self.directory = setup, directory
        self.rig = Rig(directory)
        self.linears = {}
        self.image = os.path.join(directory, "metadata.image")
        try:
            with hurry():
                self._make_disks()
                self._make_metadata()
        except BaseException:
            self.close()
            raise

    # -- once

    def _make_disks(self):
        setup = self.setup
        ids = list(range(1, setup.thins + 1))
        self.places, at = {}, 0  # {id: (offset, size)} on the data disk, for dm-linear
        for thin_id in ids:
            self.places[thin_id] = (at, setup.size)
            at += setup.size
        self.thin_ids, self.spare_id = ids, None
        if setup.spare:
            self.spare_id = setup.thins + 1
            self.places[self.spare_id] = (at, setup.size)
            at += setup.size
        self.written = at
        if setup.restored:
            self.places[BIG] = (at, setup.restored * setup.block)
            at += setup.restored * setup.block
        if setup.snapshot:
            at += self.written
        self.data_size = at + 64 * setup.block
        self.meta_size = 16 * MIB + setup.restored * 24 // MIB * MIB
        data, meta = DISKS[setup.disk]
        self.data = data(self.rig, self.data_size)
        self.meta = meta(self.rig, self.meta_size)
        # The first write to a place of a disk in memory costs more than others: have that over.
        if setup.disk not in FORGETFUL:
            end = min(self.data_size, at if not setup.restored else self.written)
            _write_over(self.data, end)

    def _make_metadata(self):
        if self.setup.restored:
            self._restore()
        else:
            io.write(self.meta, 0, bytes(4 * KIB))
            modules().use("in-tree")
            pool = self._start()
            for thin_id in [*self.thin_ids, *([self.spare_id] if self.spare_id else [])]:
                thin = pool.thin(thin_id, self.setup.size // SECTOR)
                if self.setup.mapped and thin_id != self.spare_id:
                    _write_over(thin, self.setup.size)
                if self.setup.snapshot:
                    pool.snapshot(thin, 1000 + thin_id)
            in_parallel(lambda thin: thin.remove(), list(self.rig.thins))
            self.rig.stop_quietly(pool)
        self._copy(self.meta, self.image)

    def _restore(self):
        """Metadata of many mappings without the writes: runs of blocks, scattered over the data disk."""
        setup = self.setup
        per_thin = setup.size // setup.block
        starts = list(range(0, setup.restored - RUN + 1, RUN))
        random.Random(1).shuffle(starts)
        first = self.places[BIG][0] // setup.block
        text = self.image + ".xml"
        device = '<device dev_id="{}" mapped_blocks="{}" transaction="0" creation_time="0" snap_time="0">\n'
        run = '<range_mapping origin_begin="{}" data_begin="{}" length="{}" time="0"/>\n'
        with open(text, "w", encoding="ascii") as file:
            file.write(
                f'<superblock uuid="" time="0" transaction="0" version="2" data_block_size="{setup.block // SECTOR}" '
                f'nr_data_blocks="{self.data_size // setup.block}">\n'
            )
            for n, thin_id in enumerate(self.thin_ids):
                file.write(device.format(thin_id, per_thin) + run.format(0, n * per_thin, per_thin) + "</device>\n")
            file.write(device.format(BIG, len(starts) * RUN))
            file.writelines(run.format(n * RUN, first + start, RUN) for n, start in enumerate(starts))
            file.write("</device>\n</superblock>\n")
        proc.run(metadata.tool("thin_restore", "1"), "-i", text, "-o", self.meta, timeout=600)
        os.unlink(text)

    def _copy(self, source, target):
        direct = "iflag=direct" if target == self.image else "oflag=direct"
        proc.run("dd", f"if={source}", f"of={target}", "bs=1M", f"count={self.meta_size // MIB}", direct)

    # -- for each measurement

    def _start(self):
        features = [] if self.setup.zeroing else ["skip_block_zeroing"]
        return self.rig.pool(size=self.data_size, bs=self.setup.block // SECTOR, features=features,
                             meta=self.meta, data=self.data)

    def activate(self, side, thin_id):
        offset, size = self.places[thin_id]
        if side.pool:
            return side.pool.activate(thin_id, size // SECTOR)
        below, begin = self.data, offset // SECTOR
        for _ in range(2 if side.kind == "linear2" else 1):
            below, begin = self.rig.device(f"0 {size // SECTOR} linear {below} {begin}", "linear"), 0
        below.sectors = size // SECTOR
        side.tops.append(below)
        return below

    def _activate_all(self, side):
        side.thins = [self.activate(side, n) for n in self.thin_ids]
        if self.spare_id:
            side.spare = self.activate(side, self.spare_id)
        return side

    @contextlib.contextmanager
    def open(self, kind):
        """kind: linear, linear2 (dm-linear on dm-linear), stock or ours."""
        if kind in ("linear", "linear2"):
            # These need no module and keep nothing, so they stay.
            if kind not in self.linears:
                self.linears[kind] = self._activate_all(Side(self, kind))
            yield self.linears[kind]
            return
        with hurry():
            self._copy(self.image, self.meta)
            modules().use(MODULES[kind])
            if kind == "ours" and self.setup.cache_mb:
                with open(f"{PARAMETERS}/mapping_cache_mb", "w", encoding="ascii") as file:
                    file.write(str(self.setup.cache_mb))
            side = Side(self, kind)
            side.pool = self._start()
        try:
            with hurry():
                self._activate_all(side)
            yield side
        finally:
            with hurry():
                in_parallel(lambda thin: thin.remove(), list(self.rig.thins))
                self.rig.stop_quietly(side.pool)

    def meta_sectors_written(self):
        with open(f"/sys/dev/block/{number(str(self.meta))}/stat", encoding="ascii") as file:
            return int(file.read().split()[6])

    def check(self):
        """Speed is worth nothing if the metadata suffers."""
        if not self.setup.restored:
            metadata.check(self.meta)

    def close(self):
        if os.path.exists(self.image):
            os.unlink(self.image)
        with hurry():
            for side in self.linears.values():
                in_parallel(lambda device: device.remove(), side.tops)
            return self.rig.close()
