"""dm-log-writes: every write to a disk in the order in which it became durable, and the disk as it was at any point.

The format, as the target's documentation has it: a header in the first sector, then for each write one sector that says
where it went and how long it is, and the data. A flush is an entry without data; a mark is a message of ours.
"""

import struct

from .dm import Device
from .thin import SECTOR

MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8


class Entry:
    def __init__(self, flags, sector, count, data, mark):
        self.flags, self.sector, self.count, self.data, self.mark = flags, sector, count, data, mark

    @property
    def ordered(self):
        """What came before it is durable."""
        return bool(self.flags & (FLUSH | FUA))


class LogWrites(Device):
    """A device that passes everything on to a disk and logs it on another one."""

    def __init__(self, rig, disk, log):
        super().__init__(rig.name("log"))
        self.disk, self.log, self.sectors = disk, log, disk.sectors
        rig.devices.append(self)
        self.create(f"0 {disk.sectors} log-writes {disk} {log}")

    def mark(self, number):
        self.message(f"mark {number}")

    def entries(self):
        """All that was logged; for when the device is gone."""
        with open(self.log.file, "rb") as log:
            magic, _, count, size = struct.unpack_from("<QQQI", log.read(SECTOR))
            assert magic == MAGIC and size == SECTOR, "not a log of sectors of 512 bytes"
            for _ in range(count):
                head = log.read(SECTOR)
                sector, sectors, flags, length = struct.unpack_from("<QQQQ", head)
                text = head[32 : 32 + length].rstrip(b"\0") if flags & MARK else b""
                mark = int(text) if text.isdigit() else None  # the target sets one at the end
                data = None if flags & (DISCARD | MARK) else log.read(sectors * SECTOR)
                yield Entry(flags, sector, sectors, data, mark)
