"""One test's devices: makes them, takes them down in the right order whatever happened, checks what they leave."""

import itertools
import os

from . import io, metadata, proc
from .disks import Loop, NullBlk, Switch, Worn
from .dm import Device, DmError
from .thin import MIB, SECTOR, Pool

PARAMETERS = "/sys/module/dm_thin_pool/parameters"
_serial = itertools.count(1)


def module_is_stock():
    """Only the kernel's own module stands on dm-persistent-data."""
    return os.path.exists("/sys/module/dm_persistent_data/holders/dm_thin_pool")


class Rig:
    def __init__(self, directory):
        self.directory = directory
        self.judges = True  # metadata that is left at the end is checked
        self.pools, self.thins, self.devices, self.disks = [], [], [], []
        self.parameters = {}

    @staticmethod
    def name(kind):
        return f"thintest-{kind}{next(_serial)}"

    # -- making things

    def disk(self, size=64 * MIB, **named):
        disk = Loop(self.directory, size // SECTOR, **named)
        self.disks.append(disk)
        return disk

    def copy_of(self, disk):
        """What a crash at this moment would leave of a disk: its content, on another one."""
        lower = disk.lower if isinstance(disk, Switch) else disk
        return self.disk(lower.sectors * SECTOR, content=lower.file)

    def null_blk(self, size=64 * MIB, **named):
        disk = NullBlk(size // SECTOR, **named)
        self.disks.append(disk)
        return disk

    def worn_copy(self, disk, offset, length):
        """What a disk holds, on one that can lose these bytes of it."""
        worn = Worn(disk.sectors, offset // SECTOR, length // SECTOR)
        self.disks.append(worn)
        proc.run("dd", f"if={disk}", f"of={worn}", "bs=1M", "iflag=direct", "oflag=direct")
        return worn

    def switch(self, size=4 * MIB):
        """A disk that can be told to fail."""
        device = Switch(self.disk(size))
        self.devices.append(device)
        return device

    def device(self, table=None, kind="dev"):
        """A mapped device of any other target."""
        device = Device(self.name(kind))
        self.devices.append(device)
        if table:
            device.create(table)
        return device

    def pool(self, size=64 * MIB, bs=128, low_water=0, features=(), meta=4 * MIB, data=None, start=True):
        """A pool; meta and data are disks, or the sizes of new ones."""
        meta = self.disk(meta) if isinstance(meta, int) else meta
        data = self.disk(size if data is None else data) if data is None or isinstance(data, int) else data
        pool = Pool(self, self.name("pool"), meta, data, size // SECTOR, bs, low_water, features)
        self.pools.append(pool)
        if start:
            pool.start()
        return pool

    def parameter(self, name, value):
        """Set a module parameter until the test's end."""
        path = f"{PARAMETERS}/{name}"
        with open(path, encoding="ascii") as file:
            self.parameters.setdefault(path, file.read().strip())
        with open(path, "w", encoding="ascii") as file:
            file.write(str(value))

    # -- taking things down

    def down(self, pool):
        """Take the pool and its thins down."""
        for thin in [t for t in self.thins if t.pool is pool]:
            if thin.exists():
                thin.remove()
            else:
                self.thins.remove(thin)
        if pool.exists():
            pool.remove()

    def restart(self, pool):
        """Take the pool and its thins down and bring the pool up again."""
        self.down(pool)
        pool.start()

    def stop(self, pool):
        """Take the pool and its thins down, for good; its metadata must be clean."""
        self.down(pool)
        self.pools.remove(pool)
        self.inspect(pool)

    def stop_quietly(self, pool):
        """The same, for a pool whose metadata the test judges itself."""
        pool.checked = False
        self.stop(pool)

    def recover(self, pool):
        """What an administrator does with a damaged one: down, checked, up again."""
        self.down(pool)
        metadata.check(pool.meta)
        if metadata.Superblock(pool.meta).needs_check:
            metadata.clear_needs_check(pool.meta)
        pool.start()

    @staticmethod
    def healed(disk):
        """The disk, no longer failing if it is one that can be told to."""
        if isinstance(disk, (Switch, Worn)):
            disk.good()
        return disk

    def inspect(self, pool):
        if not pool.checked:
            return
        disk = self.healed(pool.meta)
        metadata.check(disk)
        needs_check = metadata.Superblock(disk).needs_check
        assert needs_check == pool.expect_needs_check, f"needs_check is {needs_check} on {pool.name}'s disk"

    def close(self):
        """Everything down. Returns what went wrong, as sentences."""
        wrong = []

        def attempt(what, function, *args):
            try:
                function(*args)
                return True
            except (AssertionError, DmError, proc.Failed, proc.Hung, OSError) as error:
                wrong.append(f"{what}: {error}")
                return False

        for path, value in self.parameters.items():
            with open(path, "w", encoding="ascii") as file:
                file.write(value)
        for device in self.devices:
            if isinstance(device, Switch) and device.slowed:
                attempt(f"let through what {device.name} holds", device.good)
        for job in list(io.Job.jobs):
            if not job.done():
                wrong.append(f"{job.name} has not completed at the end of the test")
        for device in [t for t in reversed(self.thins) if t.exists()]:
            if io.Job.jobs:
                self._abandon_io(device)
            if not attempt(f"remove {device.name}", device.remove):
                self._abandon_io(device)
                attempt(f"remove {device.name} after its I/O was failed", device.remove)
        io.Job.forget_all()
        for pool in reversed(self.pools):
            gone = not pool.exists() or attempt(f"remove {pool.name}", pool.remove)
            if gone and self.judges:
                attempt(f"metadata of {pool.name}", self.inspect, pool)
        for device in reversed(self.devices):
            if device.exists():
                attempt(f"remove {device.name}", device.remove)
        for disk in reversed(self.disks):
            attempt(f"remove {disk.path}", disk.remove)
        return wrong

    @staticmethod
    def _abandon_io(device):
        """Fail I/O that hangs in a thin, so that the rest can be taken down."""
        try:
            device.load(f"0 {device.sectors} error")
            device.suspend(noflush=True, timeout=30)
            device.resume()
        except (DmError, proc.Hung):
            pass
