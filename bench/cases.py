"""The benchmark's rows: what is set up, the load on it, the unit of the result. No code here."""

from dataclasses import dataclass, field, replace

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# Units. Only ratios are shown; what a ratio is made of stands in the JSON file.
LINEAR = "of dm-linear"  # rate by dm-linear's rate; more is better
TIMES = "x dm-linear"  # latency by dm-linear's latency; less is better
FLUSHES = "flush times"  # latency by the time of one flush of the device; less is better
STOCK = "of stock"  # duration by the stock module's duration; less is better
BYTES = "bytes a write"  # a count; less is better
UNITS = (LINEAR, TIMES, FLUSHES, STOCK, BYTES)


@dataclass(frozen=True)
class Setup:
    """Devices. Every measurement of a row begins with the same data and the same metadata."""

    disk: str = "ram"  # a key of lab.DISKS
    size: int = 512 * MIB  # of each thin
    thins: int = 1
    block: int = 64 * KIB
    zeroing: bool = False
    mapped: bool = True  # the thins are written once, in order, beforehand
    snapshot: bool = False  # and each has a snapshot
    spare: bool = False  # an unmapped thin more, for a load beside the measured one
    restored: int = 0  # mappings of one thin more, whose metadata comes from thin_restore
    cache_mb: int = 0  # ceiling of our mapping cache

    def scaled_down(self):
        """The same in small, for --quick."""
        restored = max(self.restored // 16, min(self.restored, 250_000))
        size = max(self.size // (4 if self.mapped else 8), 16 * self.block)
        return replace(self, size=size, restored=restored)


@dataclass(frozen=True)
class Case:
    name: str
    title: str
    setup: Setup
    fio: dict = field(default_factory=dict, hash=False)  # over fio.COMMON
    beside: dict = field(default_factory=dict, hash=False)  # another load at the same time, on the spare thin
    action: str = "rate"  # a function of actions.py
    unit: str = LINEAR
    target: float | None = None
    by_stock: float | None = None  # the target, if it is a share of what the stock module does
    quick: bool = False  # part of --quick
    once: bool = False  # the load goes over the devices and they are flushed, instead of running for a time
    restored: bool = False  # the load is on the thin that thin_restore made


RAM = Setup()
LOOP = Setup(disk="loop")
CACHED = Setup(disk="null-cache")
DELAYED = Setup(disk="delay", size=GIB, mapped=False)
FRESH = Setup(size=4 * GIB, mapped=False)
ZEROED = Setup(size=4 * GIB, mapped=False, zeroing=True)
SHARED = Setup(size=GIB, snapshot=True)
LARGE_SHARED = Setup(size=GIB, snapshot=True, block=512 * KIB)
MANY = Setup(disk="zero", size=64 * MIB, restored=16_000_000)


def without_disk(setup):
    """The same on a disk that takes no time: what a row owes to the speed of memory is not in it."""
    return replace(setup, disk="null")


READ = {"rw": "randread", "bs": "4k"}
WRITE = {"rw": "randwrite", "bs": "4k"}
SYNCED = {**WRITE, "fdatasync": 1, "iodepth": 1}
TOUCH_SYNCED = {**SYNCED, "blockalign": "block"}
ONE, TWO = {"numjobs": 1}, {"numjobs": 2}
SINGLE = {"iodepth": 1}
# A reader that hurries reads so often between two stalls that p99 does not see them.
STEADY = {"rate_iops": 500}
# Each write goes to another block of the pool, in random order.
TOUCH = {**WRITE, "blockalign": "block"}
# The targets of first writes are from a load under which the stock module had 0.47 of dm-linear: so has it under this.
TOUCH_BY_FOUR = {**TOUCH, "iodepth_batch_submit": 4}
STREAM = {"rw": "write"}
TURNS = {**STREAM, "file_service_type": "roundrobin:1"}
FIRST_WRITES = {**TOUCH, "iodepth": 1, "rate_iops": 500}

MAPPED = [
    Case("read-1", "4 KiB random read, 1 job", RAM, {**READ, **ONE}, target=0.95),
    Case("read-2", "4 KiB random read, 2 jobs", RAM, {**READ, **TWO}, target=0.95, quick=True),
    Case("read-1-depth-1", "4 KiB random read, 1 job, one at a time", RAM, {**READ, **ONE, **SINGLE}, target=0.95),
    Case("write-1", "4 KiB random write, 1 job", RAM, {**WRITE, **ONE}, target=0.95),
    Case("write-2", "4 KiB random write, 2 jobs", RAM, {**WRITE, **TWO}, target=0.95, quick=True),
    Case("write-1-depth-1", "4 KiB random write, 1 job, one at a time", RAM, {**WRITE, **ONE, **SINGLE}, target=0.95),
    Case("mixed-2", "4 KiB random, 70 % reads, 2 jobs", RAM,
         {"rw": "randrw", "rwmixread": 70, "bs": "4k", **TWO}, target=0.95),
    Case("snap-read-1", "4 KiB random read after a snapshot, 1 job", Setup(snapshot=True), {**READ, **ONE},
         target=0.95),
    Case("snap-read-2", "4 KiB random read after a snapshot, 2 jobs", Setup(snapshot=True), {**READ, **TWO},
         target=0.95, quick=True),
    Case("seq-read", "1 MiB sequential read", RAM, {"rw": "read", "bs": "1m", "iodepth": 4}, target=0.95, quick=True),
    Case("seq-write", "1 MiB sequential write", RAM, {"rw": "write", "bs": "1m", "iodepth": 4}, target=0.95),
    Case("read-16-thins", "4 KiB random read from 16 thins, 2 jobs", Setup(size=32 * MIB, thins=16),
         {**READ, **TWO}, target=0.95),
    Case("read-128-thins", "4 KiB random read from 128 thins, 2 jobs", Setup(size=4 * MIB, thins=128),
         {**READ, **TWO}, target=0.95),
    Case("read-small-cache", "4 KiB random read, 2 jobs, 1 % of the mappings fit into the cache",
         Setup(size=64 * MIB, restored=12_000_000, cache_mb=1), {**READ, **TWO}, restored=True),
    Case("irq1-read-2", "4 KiB random read, 2 jobs, null_blk irqmode 1", Setup(disk="null-irq1"), {**READ, **TWO},
         target=0.95),
    Case("irq1-write-2", "4 KiB random write, 2 jobs, null_blk irqmode 1", Setup(disk="null-irq1"), {**WRITE, **TWO},
         target=0.95),
    Case("irq2-read-2", "4 KiB random read, 2 jobs, null_blk irqmode 2", Setup(disk="null-irq2"), {**READ, **TWO},
         target=0.95),
    Case("irq2-write-2", "4 KiB random write, 2 jobs, null_blk irqmode 2", Setup(disk="null-irq2"), {**WRITE, **TWO},
         target=0.95),
    Case("sync-loop", "4 KiB random write, fdatasync after each, loop", LOOP, SYNCED, target=0.95, quick=True),
    Case("sync-null", "4 KiB random write, fdatasync after each, null_blk with a cache", CACHED, SYNCED, target=0.95),
    Case("sync-loop-beside", "the same on loop while another thin first-writes", Setup(disk="loop", spare=True),
         SYNCED, FIRST_WRITES, target=0.9),
    Case("sync-null-beside", "the same on null_blk while another thin first-writes",
         Setup(disk="null-cache", spare=True), SYNCED, FIRST_WRITES, target=0.9),
    Case("tail-beside", "p99 of 4 KiB reads while another thin first-writes with fdatasync",
         Setup(disk="delay", spare=True), {**READ, **SINGLE, **STEADY}, TOUCH_SYNCED,
         "tail", FLUSHES, quick=True, target=0.2),
]

SLOW = [
    Case("first-write", "4 KiB random first write", FRESH, TOUCH_BY_FOUR, once=True, quick=True, target=0.8),
    Case("first-write-16", "the same, 16 submitted together", FRESH, TOUCH, once=True),
    Case("first-write-alone", "the same, one at a time", FRESH, {**TOUCH, **SINGLE}, once=True),
    Case("first-write-zeroing", "4 KiB random first write, zeroing", ZEROED, TOUCH_BY_FOUR, once=True, target=0.6),
    Case("first-write-zeroing-null", "the same on a disk that takes no time", without_disk(ZEROED), TOUCH_BY_FOUR,
         once=True, target=0.6),
    Case("fill-4k", "4 KiB sequential first write", Setup(size=GIB, mapped=False), {**STREAM, "bs": "4k"}, once=True, by_stock=2),
    Case("fill-4k-4-thins", "4 KiB sequential first write, 4 thins by turns",
         Setup(size=256 * MIB, mapped=False, thins=4), {**TURNS, "bs": "4k"}, once=True, by_stock=2),
    Case("fill-64k", "64 KiB sequential first write", FRESH, {**STREAM, "bs": "64k"}, once=True, by_stock=2),
    Case("fill-64k-4-thins", "64 KiB sequential first write, 4 thins by turns",
         Setup(size=GIB, mapped=False, thins=4), {**TURNS, "bs": "64k"}, once=True, by_stock=2),
    Case("fill-64k-null", "64 KiB sequential first write on a disk that takes no time", without_disk(FRESH),
         {**STREAM, "bs": "64k"}, once=True, by_stock=2),
    Case("cow-64k", "4 KiB random write after a snapshot, 64 KiB blocks", SHARED, TOUCH,
         once=True, quick=True, by_stock=2.5),
    Case("cow-512k", "4 KiB random write after a snapshot, 512 KiB blocks", LARGE_SHARED, TOUCH, once=True, by_stock=2),
    Case("cow-64k-null", "the first of these on a disk that takes no time", without_disk(SHARED), TOUCH,
         once=True, by_stock=2.5),
    Case("cow-512k-null", "the second", without_disk(LARGE_SHARED), TOUCH, once=True, by_stock=2),
    Case("first-sync-1", "4 KiB first write and fdatasync, 1 writer", DELAYED,
         TOUCH_SYNCED, {}, "per_write", FLUSHES, quick=True, target=2.1),
    Case("first-sync-16", "4 KiB first write and fdatasync, 16 writers",
         DELAYED,
         {**TOUCH_SYNCED, "numjobs": 16}, {}, "per_write", FLUSHES, target=3.2),
    Case("first-write-metadata", "metadata written for a 4 KiB random first write, 2,000 of them a second",
         Setup(disk="loop", size=GIB, mapped=False), {**TOUCH, "rate_iops": 2000}, {}, "metadata_bytes", BYTES,
         once=True, by_stock=0.5),
    Case("first-sync-metadata", "metadata written for a 4 KiB first write and its fdatasync",
         Setup(disk="loop", size=GIB, mapped=False), TOUCH_SYNCED, {}, "metadata_bytes", BYTES),
    Case("discard", "blkdiscard of a thin with very many mappings", MANY, {}, {}, "discard", STOCK, target=0.05),
    Case("discard-tail", "p99 of another thin's reads during that", MANY, {}, {}, "discard_tail", TIMES, by_stock=0.2),
    Case("delete", "delete of a thin with very many mappings", MANY, {}, {}, "delete", STOCK, target=1.0),
    Case("delete-longest", "longest read of another thin during that", MANY, {}, {}, "delete_longest", TIMES, by_stock=0.02),
    Case("snap", "create_snap of a thin with very many mappings", MANY, {}, {}, "snap", STOCK),
    Case("snap-1000", "1,000 of these", MANY, {}, {}, "thousand_snaps", STOCK),
    Case("activate", "activation of a pool with very many mappings", MANY, {}, {}, "activate", STOCK),
]

CASES = {case.name: case for case in MAPPED + SLOW}
