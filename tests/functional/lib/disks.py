"""Block devices to put a pool on: loop devices over sparse files, null_blk, switchable linear ones."""

import glob
import itertools
import os

from . import proc
from .dm import Device, after_table_kind, dmsetup, have_target

CONFIGFS = "/sys/kernel/config"
HOUR = 3600000  # in ms
_serial = itertools.count(1)


class Loop:
    """A loop device over a sparse file. Has a write cache and discards; keeps what is written."""

    def __init__(self, directory, sectors, sector_size=512, content=None):
        """With what the file `content` holds now, if there is one."""
        self.file = os.path.join(directory, f"disk{next(_serial)}")
        if content:
            proc.run("cp", "--sparse=always", content, self.file)
        with open(self.file, "ab") as file:
            file.truncate(sectors * 512)
        if not os.path.exists("/dev/loop-control"):
            proc.run("modprobe", "loop")
        size = ["--sector-size", sector_size] if sector_size != 512 else []
        self.path = proc.run("losetup", "--find", "--show", *size, self.file).out.strip()

    def __str__(self):
        return self.path

    @property
    def sectors(self):
        return os.stat(self.file).st_size // 512

    def grow(self, sectors):
        os.truncate(self.file, sectors * 512)
        proc.run("losetup", "--set-capacity", self.path)

    def attach_again(self, read_only):
        """The same device, now one that can be written or not."""
        proc.run("losetup", "--detach", self.path)
        proc.run("losetup", *(["--read-only"] if read_only else []), self.path, self.file)

    def used_bytes(self):
        """What the file really occupies: falls when discards reach it."""
        return os.stat(self.file).st_blocks * 512

    def remove(self):
        proc.run("losetup", "--detach", self.path)
        # The device is let go lazily when something still looks at it; the file may go anyway.
        os.unlink(self.file)


class NullBlk:
    """null_blk that stores what is written; with a cache it loses what was not flushed."""

    def __init__(self, sectors, cache_mib=0, discard=False, block_size=512, **attributes):
        """attributes: others of its configfs directory, over those set here."""
        self.name = f"thintest{next(_serial)}"
        load_null_blk()
        self.config = f"{CONFIGFS}/nullb/{self.name}"
        os.mkdir(self.config)
        try:
            self.set("memory_backed", 1)
            self.set("size", sectors // 2048)
            self.set("blocksize", block_size)
            self.set("discard", int(discard))
            if cache_mib:
                self.set("cache_size", cache_mib)
            self.set("completion_nsec", 0)
            for attribute, value in attributes.items():
                self.set(attribute, value)
            self.power(True)
        except Exception:
            os.rmdir(self.config)
            raise
        self.sectors = sectors

    def _node(self):
        # Newer kernels name the disk after the directory, older ones nullbN by index.
        with open(f"{self.config}/index", encoding="ascii") as file:
            index = file.read().strip()
        for name in (self.name, f"nullb{index}"):
            if os.path.exists(f"/dev/{name}"):
                return f"/dev/{name}"
        return proc.wait_for(
            lambda: next((f"/dev/{n}" for n in (self.name, f"nullb{index}") if os.path.exists(f"/dev/{n}")), None),
            f"the node of null_blk {self.name} in /dev",
        )

    def set(self, attribute, value):
        with open(f"{self.config}/{attribute}", "w", encoding="ascii") as file:
            file.write(str(value))

    def power(self, on):
        """Off loses the cache and fails whatever comes; on again, the disk is back with what it kept."""
        self.set("power", int(on))
        self.path = self._node() if on else None

    def ignore_flushes(self):
        """The kernel believes that nothing is cached and drops every flush; the cache is there still."""
        with open(f"/sys/block/{os.path.basename(self.path)}/queue/write_cache", "w", encoding="ascii") as file:
            file.write("write through")

    def __str__(self):
        return self.path

    def remove(self):
        self.power(False)
        os.rmdir(self.config)


def load_null_blk():
    if not os.path.isdir(f"{CONFIGFS}/nullb"):
        if not os.path.isdir("/sys/module/null_blk"):
            proc.run("modprobe", "null_blk", "nr_devices=0")
        if not os.path.ismount(CONFIGFS):
            proc.run("mount", "-t", "configfs", "none", CONFIGFS)


class Worn:
    """A SCSI disk in memory that can lose some sectors, with the error that a worn medium gives."""

    MODULE = "/sys/bus/pseudo/drivers/scsi_debug"
    MEDIUM_ERROR = 2

    def __init__(self, sectors, begin, length):
        """begin, length: the sectors in question."""
        proc.run("modprobe", "sd_mod")
        proc.run("modprobe", "scsi_debug", f"dev_size_mb={-(-sectors // 2048)}", "delay=0",
                 f"medium_error_start={begin}", f"medium_error_count={length}")
        self.sectors = sectors
        self.path = "/dev/" + proc.wait_for(self._name, "the SCSI disk")

    @classmethod
    def possible(cls):
        return proc.run("modprobe", "--dry-run", "scsi_debug", check=False).status == 0

    @classmethod
    def _name(cls):
        return next((os.path.basename(p) for p in glob.glob(f"{cls.MODULE}/adapter0/host*/target*/*/block/*")), None)

    def __str__(self):
        return self.path

    def _set(self, options):
        with open(f"{self.MODULE}/opts", "w", encoding="ascii") as file:
            file.write(str(options))

    def lose(self):
        self._set(self.MEDIUM_ERROR)

    def good(self):
        self._set(0)

    def remove(self):
        proc.run("modprobe", "--remove", "scsi_debug")


class Switch(Device):
    """A linear device above another one that can be told to fail reads, writes or both, or to hold them back."""

    def __init__(self, lower, sectors=None):
        super().__init__(f"thintest-switch{next(_serial)}")
        self.lower = lower
        self.sectors = sectors or lower.sectors
        self.slowed = False
        self.create(self._good())

    def _good(self):
        return f"0 {self.sectors} linear {self.lower} 0"

    def _swap(self, table):
        self.load(table)
        self.suspend(noflush=True)
        self.resume()

    def good(self):
        self._swap(self._good())
        self.slowed = False

    def fail_writes(self):
        have_target("flakey")
        self._swap(f"0 {self.sectors} flakey {self.lower} 0 0 3600 1 error_writes")

    def fail_flushes(self):
        """All else passes, but for writes of the last sectors: each part of a device gets its flushes."""
        have_target("flakey")
        begin = self.sectors - 8
        self._swap(f"0 {begin} linear {self.lower} 0\n{begin} 8 flakey {self.lower} {begin} 0 3600 1 error_writes")

    def fail_all(self):
        self._swap(f"0 {self.sectors} error")

    def spoil(self, offset, length):
        """Bytes that can be neither read nor written."""
        begin, end = offset // 512, (offset + length) // 512
        table = [f"0 {begin} linear {self.lower} 0"] if begin else []
        table += [f"{begin} {end - begin} error", f"{end} {self.sectors - end} linear {self.lower} {end}"]
        self._swap("\n".join(table))

    def dust(self, offset, length):
        """Bytes whose sectors cannot be read until they are written."""
        have_target("dust")
        self._swap(f"0 {self.sectors} dust {self.lower} 0 512")
        for sector in range(offset // 512, (offset + length) // 512):
            dmsetup("message", self.name, 0, f"addbadblock {sector}")
        dmsetup("message", self.name, 0, "enable")

    def slow(self, reads=0, writes=0):
        """So many milliseconds more for each; flushes stay quick."""
        have_target("delay")
        self._swap(f"0 {self.sectors} delay {self.lower} 0 {reads} {self.lower} 0 {writes} {self.lower} 0 0")
        self.slowed = True

    def hold(self, reads=False, writes=False):
        """Let them wait (discards count as writes) until good() lets them through."""
        self.slow(HOUR if reads else 0, HOUR if writes else 0)

    def held(self):
        """(reads, writes) that wait."""
        words = after_table_kind(self.status_line(noflush=True), "delay").split()
        return int(words[0]), int(words[1])
