"""Reading a pool's metadata device behind the kernel's back: the superblock, and the checkers' verdict."""

import re
import struct
import tempfile

from . import io, proc

BLOCK = 4096
SUPERBLOCK_SALT = 160774
NODE_SALT = 121107
BITMAP_SALT = 240779
INDEX_SALT = 160478
NEEDS_CHECK = 1


def crc32c(data, register=0xFFFFFFFF):
    """The raw register, not inverted at the end."""
    for byte in data:
        register = _TABLE[(register ^ byte) & 0xFF] ^ (register >> 8)
    return register


def _make_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _make_table()


class Superblock:
    """Fields of block 0 as it is on the disk now."""

    def __init__(self, disk):
        self.raw = io.read(disk, 0, BLOCK)
        (self.csum, self.flags, self.blocknr) = struct.unpack_from("<IIQ", self.raw, 0)
        (self.magic, self.version, self.time) = struct.unpack_from("<QII", self.raw, 32)
        (self.transaction_id, self.held_root) = struct.unpack_from("<QQ", self.raw, 48)
        (self.data_blocks, self.data_used) = struct.unpack_from("<QQ", self.raw, 64)
        (self.metadata_blocks, self.metadata_used) = struct.unpack_from("<QQ", self.raw, 192)
        (self.data_block_size,) = struct.unpack_from("<I", self.raw, 336)

    @property
    def needs_check(self):
        return bool(self.flags & NEEDS_CHECK)


def patch_superblock(disk, changes, checksum=True):
    """Change fields ({offset: bytes}) of an inactive pool's superblock."""
    patch(disk, 0, changes, SUPERBLOCK_SALT if checksum else None)


def patch(disk, block, changes, salt):
    """Change bytes ({offset: bytes}) of a metadata block; a salt makes its checksum right again."""
    raw = bytearray(io.read(disk, block * BLOCK, BLOCK))
    for offset, data in changes.items():
        raw[offset : offset + len(data)] = data
    if salt is not None:
        raw[0:4] = struct.pack("<I", crc32c(raw[4:]) ^ salt)
    io.write(disk, block * BLOCK, raw)


class FirstBitmap:
    """The index entry of a map's first bitmap: where it lies, where it points, what it says of free entries."""

    def __init__(self, disk, of_data):
        self.disk = disk
        root = Superblock(disk).raw
        # The data map keeps its entries in a leaf (values of 16 bytes, behind 168 keys), the metadata map in one block.
        (self.holder,) = struct.unpack_from("<Q", root, (64 if of_data else 192) + 16)
        self.salt, self.offset = (NODE_SALT, 0x560) if of_data else (INDEX_SALT, 16)
        raw = io.read(disk, self.holder * BLOCK, BLOCK)
        (self.block, self.nr_free, self.none_free_before) = struct.unpack_from("<QII", raw, self.offset)

    def set_hints(self, nr_free, none_free_before):
        hints = struct.pack("<II", nr_free, none_free_before)
        patch(self.disk, self.holder, {self.offset + 8: hints}, self.salt)

    def set_count_to_one(self, entry):
        """For an entry whose count is 0."""
        at = 16 + entry // 4
        byte = io.read(self.disk, self.block * BLOCK, BLOCK)[at] | 2 << entry % 4 * 2
        patch(self.disk, self.block, {at: bytes([byte])}, BITMAP_SALT)


def free_ranges(disk):
    """[(first, behind last)] of the metadata blocks that nothing uses; for at most 16320 blocks."""
    block = Superblock(disk)
    entries = io.read(disk, FirstBitmap(disk, of_data=False).block * BLOCK, BLOCK)[16:]
    assert block.metadata_blocks <= 16320
    free = [n for n in range(block.metadata_blocks) if not entries[n // 4] >> (n % 4 * 2) & 3]
    ranges = []
    for n in free:
        if ranges and ranges[-1][1] == n:
            ranges[-1] = (ranges[-1][0], n + 1)
        else:
            ranges.append((n, n + 1))
    return ranges


def first_child(disk, block):
    """What the first entry of a node with values of 8 bytes says."""
    raw = io.read(disk, block * BLOCK, BLOCK)
    entries, most, size = struct.unpack_from("<III", raw, 16)
    assert entries and size == 8
    return struct.unpack_from("<Q", raw, 32 + 8 * most)[0]


def one_of_each_kind(disk):
    """{kind: a block of that kind}. The first thin's tree must have an inner node, some count must be above 2."""
    raw = Superblock(disk).raw
    thins, details = struct.unpack_from("<QQ", raw, 320)
    (counts,) = struct.unpack_from("<Q", raw, 64 + 24)
    data, own = FirstBitmap(disk, of_data=True), FirstBitmap(disk, of_data=False)
    inner = first_child(disk, thins)
    return {
        "superblock": 0,
        "thins": thins,
        "inner": inner,
        "leaf": first_child(disk, inner),
        "details": details,
        "data-index": data.holder,
        "data-bitmap": data.block,
        "data-counts": counts,
        "metadata-index": own.holder,
        "metadata-bitmap": own.block,
    }


# -- the checkers ----------------------------------------------------------------------

_found = {}


def tool(name, series):
    """Path of thin tool NAME of series '0.9' or '1'. They judge differently, so tests want both."""
    key = (name, series)
    if key not in _found:
        _found[key] = None
        for command in (f"{name}-{series}", f"{name}-{series}.x", name):
            if proc.have(command) and _version(command).startswith(f"{series}."):
                _found[key] = command
                break
    assert _found[key], f"no {name} of series {series}.x in this guest"
    return _found[key]


def _version(command):
    said = proc.run(command, "--version", check=False)
    found = re.search(r"\d+\.\d+\.\d+", said.out + said.err)
    return found.group(0) if found else ""


def check(disk):
    """Both generations of thin_check must find nothing at all, leaks included."""
    for series in ("1", "0.9"):
        verdict = proc.run(tool("thin_check", series), disk, check=False)
        assert verdict.status == 0, f"thin_check {series}.x on {disk}: {verdict.out}{verdict.err}"


def clear_needs_check(disk):
    proc.run(tool("thin_check", "1"), "--clear-needs-check-flag", disk)


def repair(disk):
    """What thin_check repairs by itself: leaks."""
    proc.run(tool("thin_check", "1"), "--auto-repair", disk)


def dump(disk, *options):
    """The metadata as XML, in the form of thin_dump 1.x."""
    return proc.run(tool("thin_dump", "1"), *options, disk).out


def mappings(disk, *options):
    """{device: {thin block: data block}} of an inactive pool (or of its metadata snapshot with -m)."""
    text = dump(disk, *options)
    shared, devices = {}, {}
    current = None
    for line in text.splitlines():
        word = line.strip()
        if found := re.match(r'<def name="(\w+)"', word):
            current = shared.setdefault(found.group(1), {})
        elif found := re.match(r'<device dev_id="(\d+)"', word):
            current = devices.setdefault(int(found.group(1)), {})
            if word.endswith("/>"):
                current = None
        elif found := re.match(r'<ref name="(\w+)"', word):
            current.update(shared[found.group(1)])
        elif found := re.match(r'<single_mapping origin_block="(\d+)" data_block="(\d+)"', word):
            current[int(found.group(1))] = int(found.group(2))
        elif found := re.match(r'<range_mapping origin_begin="(\d+)" data_begin="(\d+)" length="(\d+)"', word):
            origin, data, length = (int(n) for n in found.groups())
            current.update((origin + n, data + n) for n in range(length))
    return devices


def restore(disk, xml, series="1"):
    """Write the metadata that XML (text, or the path of a file) describes."""
    with tempfile.NamedTemporaryFile("w", suffix=".xml", encoding="ascii") as file:
        if xml.lstrip().startswith("<"):
            file.write(xml)
            file.flush()
            xml = file.name
        proc.run(tool("thin_restore", series), "-i", xml, "-o", disk)
