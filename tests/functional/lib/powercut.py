"""Writers that remember what fsync promised, and the power cut that puts it to the proof.

The disks are null_blk with a cache: power off loses what was not flushed, with one exception: a
page that the disk already keeps is rewritten in place and survives. So every free block is
discarded between two cuts, after which whatever the pool writes to new places can be lost.

Two kinds of writers work at once, each with a journal outside the disks, in which a line stands only after
fsync returned (or, for deletions, before the file goes):

  files   on ext4 on a thin: "+k" file k is safe, "-k" file k may be gone
  slots   on a bare thin, 16 KiB each, rewritten over and over and shared with snapshots
          taken meanwhile: "s g" slot s is safe in generation g
"""

import os
import random
import time

from . import io, metadata, proc, tree
from .dm import DmError
from .thin import KIB, MIB, SECTOR

SLOT = 16 * KIB
SLOTS = 256
KEEP = 60  # files of one writer before it deletes its oldest


class Journal:
    """A file that a writer appends lines to between two cuts; only what is new in it is read."""

    def __init__(self, path):
        self.path = path
        self.begin()

    def begin(self):
        self._lines, self._end = [], 0
        if os.path.exists(self.path):
            os.unlink(self.path)

    def lines(self):
        if os.path.exists(self.path):
            with open(self.path, encoding="ascii") as file:
                file.seek(self._end)
                text = file.read()
            whole = text[: text.rfind("\n") + 1]
            self._end += len(whole)
            self._lines += whole.split("\n")[:-1]
        return self._lines


def _content(writer, k):
    size = random.Random(writer * 1000003 + k).choice([100, 3000, 20000, 90000])
    return io.pattern(writer * 1000003 + k, 0, -(-size // SECTOR) * SECTOR)[:size]


def write_files(where, writer, first, journal):
    """Until an error: make file k, fsync it and its directory, note it; delete the oldest."""
    log = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    directory = os.open(where, os.O_RDONLY)
    k = first
    while True:
        fd = os.open(f"{where}/{writer}-{k}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(fd, _content(writer, k))
        os.fsync(fd)
        os.close(fd)
        os.fsync(directory)
        os.write(log, b"+%d\n" % k)
        if k >= KEEP:
            os.write(log, b"-%d\n" % (k - KEEP))
            try:
                os.unlink(f"{where}/{writer}-{k - KEEP}")
            except FileNotFoundError:
                pass
        k += 1


def write_slots(path, generations, seed, journal):
    """Until an error: write some slots, make them durable, note them."""
    chance = random.Random(seed)
    log = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    generations = dict(generations)
    while True:
        batch = chance.sample(range(SLOTS), chance.choice([1, 1, 3, 8]))
        through = chance.random() < 0.3
        for slot in batch:
            generation = generations.get(slot, 0) + 1
            # Begun is noted as well: after a cut the slot may be of either generation.
            os.write(log, b"?%d %d\n" % (slot, generation))
            io._do_write(path, slot * SLOT, io.pattern(generation * 1000 + slot, slot * SLOT, SLOT), through)
            generations[slot] = generation
        if not through:
            io._do_flush(path)
        os.write(log, b"".join(b"%d %d\n" % (slot, generations[slot]) for slot in batch))


class Losses(AssertionError):
    """Something that fsync had promised is gone, or the metadata is not clean."""


class PowerCut:
    """A pool with a file system and a bare thin on disks whose power can be cut under load."""

    WRITERS = 3

    def __init__(self, rig, cache_mib, ignore_flushes=False, seed=1):
        self.rig = rig
        self.chance = random.Random(seed)
        self.ignore_flushes = ignore_flushes
        self.where = os.path.join(rig.directory, "powercut")
        self.journals = [Journal(os.path.join(rig.directory, f"journal{n}")) for n in range(self.WRITERS + 1)]
        # What the journals of all cuts so far say.
        self.safe_files = [set() for _ in range(self.WRITERS)]
        self.next_file = [0] * self.WRITERS
        self.safe, self.begun = {}, {}
        meta = rig.null_blk(16 * MIB, cache_mib=cache_mib, discard=True)
        data = rig.null_blk(512 * MIB, cache_mib=cache_mib, discard=True)
        self.pool = rig.pool(size=512 * MIB, meta=meta, data=data)
        self.pool.checked = False  # checked here after every cut
        self.pool.create_thin(0)
        self.pool.create_thin(1)
        self.snapshot = None
        self._activate()
        proc.run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.files)
        self._mount()
        os.sync()
        self._unmount()
        self._deactivate()
        if ignore_flushes:
            meta.ignore_flushes()
            data.ignore_flushes()
        self.pool.start()
        self._activate()
        self._mount()

    def _activate(self):
        self.files = self.pool.activate(0, sectors=256 * MIB // SECTOR)
        self.slots = self.pool.activate(1, sectors=SLOTS * SLOT // SECTOR)

    def _mount(self):
        tree.mount("ext4", self.files, self.where)

    def _unmount(self):
        proc.run("umount", self.where)

    def _deactivate(self):
        for thin in (self.files, self.slots):
            thin.remove()
        self.pool.remove()

    def _promised(self):
        return sum(len(journal.lines()) for journal in self.journals)

    def load_and_cut(self, least):
        """Writers at work until at least so many promises were made; then the power goes."""
        for journal in self.journals:
            journal.begin()
        jobs = [
            io.Job(write_files, self.where, n, self.next_file[n], self.journals[n].path) for n in range(self.WRITERS)
        ]
        seed = self.chance.randrange(1 << 30)
        jobs.append(io.Job(write_slots, self.slots.path, tuple(self.begun.items()), seed, self.journals[-1].path))
        proc.wait_for(lambda: self._promised() >= least // 2, "the writers make promises", pause=0.01)
        snapshot = (self.snapshot or 100) + 1
        self.pool.snapshot(self.slots, snapshot)
        if self.snapshot:
            self.pool.delete(self.snapshot)
        self.snapshot = snapshot
        proc.wait_for(lambda: self._promised() >= least, "the writers make promises", pause=0.01)
        time.sleep(self.chance.random() * 0.3)  # not always at the same moment of a commit
        # Metadata first: a pool that still could write there would note the data device's errors.
        self.pool.meta.power(False)
        self.pool.data.power(False)
        for job in jobs:
            assert job.errno() is not None, "a writer ended without an error"
        self._note_promises()

    def _note_promises(self):
        for n in range(self.WRITERS):
            for line in self.journals[n].lines():
                k = int(line[1:])
                if line[0] == "+":
                    self.safe_files[n].add(k)
                    self.next_file[n] = k + 1
                else:
                    self.safe_files[n].discard(k)
        for line in self.journals[-1].lines():
            slot, generation = (int(word) for word in line.lstrip("?").split())
            (self.begun if line[0] == "?" else self.safe)[slot] = generation

    def restart(self):
        """Away with what hangs above the dead disks; then power, check, and up again."""
        self._unmount()
        self._deactivate()
        self.pool.meta.power(True)
        self.pool.data.power(True)
        try:
            metadata.check(self.pool.meta)
            if not self.ignore_flushes:
                self._forget_free_blocks()
            self.pool.start()
            self._activate()
            self._mount()
        except (AssertionError, DmError, proc.Failed) as error:
            raise Losses(str(error)) from None

    def _forget_free_blocks(self):
        """Make every place the pool may write to next one that the disks know nothing of."""
        for first, last in metadata.free_ranges(self.pool.meta):
            io.discard(self.pool.meta, first * metadata.BLOCK, (last - first) * metadata.BLOCK)
        block, total = self.pool.block, self.pool.sectors // self.pool.bs
        used = {data for device in metadata.mappings(self.pool.meta).values() for data in device.values()}
        first = 0
        for data in sorted(used) + [total]:
            if data > first:
                io.discard(self.pool.data, first * block, (data - first) * block)
            first = data + 1

    # -- the proof

    def prove(self):
        """Raise Losses unless every promise was kept; number of promises looked at."""
        return self._prove_files() + self._prove_slots()

    def _prove_files(self):
        proven = 0
        for n, safe in enumerate(self.safe_files):
            for k in sorted(safe):
                path = f"{self.where}/{n}-{k}"
                if not os.path.exists(path):
                    raise Losses(f"file {n}-{k} was safe and is gone")
                with open(path, "rb") as file:
                    if file.read() != _content(n, k):
                        raise Losses(f"file {n}-{k} was safe and has other content")
                proven += 1
        return proven

    def _prove_slots(self):
        content = self.slots.read(0, SLOTS * SLOT)
        for slot in sorted(self.begun):
            found = content[slot * SLOT : (slot + 1) * SLOT]
            lowest = self.safe.get(slot, 0)
            allowed = [
                io.pattern(g * 1000 + slot, slot * SLOT, SLOT) if g else bytes(SLOT)
                for g in range(max(0, lowest), self.begun[slot] + 1)
            ]
            # A cut may tear a write, so each sector may be of another generation.
            for at in range(0, SLOT, SECTOR):
                if not any(found[at : at + SECTOR] == one[at : at + SECTOR] for one in allowed):
                    raise Losses(f"slot {slot}, byte {at}: not of a generation from {lowest} to {self.begun[slot]}")
        return len(self.safe)

    def settle(self):
        """After a proof: what was begun and not promised may hold either, so write it anew; and away
        with files that nobody knows of, or these would fill the file system in time."""
        for slot in [slot for slot in self.begun if self.begun[slot] != self.safe.get(slot)]:
            generation = self.begun[slot] + 1
            self.slots.write(slot * SLOT, io.pattern(generation * 1000 + slot, slot * SLOT, SLOT))
            self.slots.flush()
            self.begun[slot] = self.safe[slot] = generation
        known = {f"{n}-{k}" for n, safe in enumerate(self.safe_files) for k in safe}
        for name in os.listdir(self.where):
            if name != "lost+found" and name not in known:
                os.unlink(os.path.join(self.where, name))

    def close(self):
        self._unmount()
        self._deactivate()
        metadata.check(self.pool.meta)
