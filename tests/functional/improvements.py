"""Where the kernel's own module is wrong on purpose of no one, and this one is right.

A test marked improvement("ID") must fail with the kernel's own module (otherwise it proves
nothing) and pass with this one. The reasons stand here and nowhere else.

SPARED has what would hang the stock module or leave it useless: tests marked spared("ID") are not run on it.

Section 10 of docs/behaviour.md tells the same to administrators, by the same names.
"""

IMPROVEMENTS = {
    "lost-commit": "after a commit that failed on the metadata device the stock module says success to fsync, "
    "though the thin's changes are gone",
    "grow-restored": "metadata written by thin_restore 0.9 counts the free entries of the last bitmap in another way; "
    "the stock module believes it, finds no free block after growing a full pool and stops with ENOSPC",
    "grow-unrecorded": "when metadata has no room to count more data blocks, the stock module rolls back, sets "
    "needs_check and is read-only from then on, or brings a new pool up like that",
    "hints": "the stock module believes what the metadata says about free entries and where to look for them, which "
    "thin_restore 0.9 and a repair by thin_check leave wrong, and never finds the blocks that are free",
    "leak-on-crash": "the stock module counts a data block as used before it is mapped; a commit and a crash in "
    "between leave it used by nobody",
    "B1": "in the stock module a pool out of data space does not notice blocks that a slow discard of the data device "
    "frees after the last commit, and goes on refusing writes",
    "B2": "when the stock module becomes read-only during a discard of the data device, the end of the discard turns "
    "the pool to Fail",
    "B3": "the stock module keeps discarded blocks counted on disk until the data device has discarded them; a crash "
    "before that leaks them",
    "B4": "after an interrupted noflush suspend of a thin the stock module fails all its I/O with EIO",
    "B5": "in the stock module a flush fails in a mode that gives no space when block 0 of the thin is a hole",
    "B6": "the stock module loses the data block when the zeroing, copy or write that should fill it fails",
    "B7": "the stock module says success to a message whose commit failed and was rolled back",
    "B8": "after a rollback the stock module goes on showing the mapped blocks and the transaction id that were lost",
    "B9": "the stock module compares free metadata with the low-water mark without its reserve, so a large metadata "
    "device is full without a warning, and without hysteresis, so others warn over and over",
    "B10": "in modes that give no space the stock module answers EIO to reads behind the end of an external origin",
    "B11": "the stock module grows the metadata of a read-only pool whose devices have grown, and ends in Fail or with "
    "sizes that are not on disk",
    "B12": "the stock module answers 'Fail' to a thin's table query in fail mode",
    "B13": "the stock module takes one device under two names for data and metadata, and destroys the metadata, or for "
    "pool and origin",
    "B14": "the stock module silently ignores another block size in a reloaded table, and refuses all features at once",
    "B15": "the stock module declares a pool out of data space, and fails writes, when all free blocks were freed in "
    "the open transaction and a commit would do",
    "B16": "out of metadata space the stock module refuses to delete thins, which would free some; "
    "only taking the whole pool down helps",
    "B17": "the stock module leaves needs_check in memory, and a crash soon after a failure loses it",
    "B18": "when a discard is two ranges on the data device and the first is busy, the stock module skips it and takes "
    "the thin's blocks of the first for those of the second",
    "B19": "the stock module takes a snapshot of a thin that is not suspended while writes to it are under way, "
    "and these then change the snapshot",
    "B20": "the stock module goes by the time of a mapping alone: the last owner of a block still copies it, "
    "and needs space for that; nor does it see the end of the clock's 24 bits, behind which lies the block number",
    "B21": "after the forced removal of a pool the stock module leaves its thins suspended for ever; their I/O hangs",
    "B22": "the stock module deletes a thin under one hold of the metadata lock, and every write that needs metadata "
    "waits until the whole thin is gone",
    "B23": "the stock module writes the superblock at every status, though nothing has changed",
    "B24": "the stock module commits by time alone, and takes all writes that wait into one transaction",
    "B25": "in the stock module a discard waits for as long as any block of its range is being written for the first time",
    "B28": "without zeroing the stock module shows old content of the data device behind the end of an external origin",
    "B31": "the stock module takes it for a full data device when its metadata finds no block for the bitmap of data",
    "B33": "the stock module discards on the data device what the metadata on disk still maps for another thin; a "
    "crash before the next commit loses what that thin had flushed",
    "alias": "the core asks for a module dm-thin when it meets a thin table; the stock module does not say that this "
    "is its name, too",
    "tracepoints": "the stock module has none",
    "zeroes": "the stock module takes no request for zeroes: they are written, and take space; holes cannot be punched",
    "nowait": "the stock module takes no request that must not wait, so that io_uring hands each one to a thread",
    "cache": "the stock module asks the metadata for each mapping; it has no cache of them, and no parameter for its size",
    "version": "the stock module has no version of its own, and not all of its parameters a description",
    "worn-sector": "the stock module takes a metadata sector that the disk reports as worn out for an empty one: it "
    "reads zeroes where there is data",
    "lost-flush": "the core sends a journal's record though the flush before it has failed, and nobody stops it",
    "extents": "in the stock module the blocks of thins that are filled at the same time alternate on the data device",
    "stats": "the stock module counts nothing and knows no such message",
}

SPARED = {
    "origin-order": "suspending a pool, the stock module may suspend a thin before another one that has it as external "
    "origin, and waits for ever for what this one reads",
    "broken-stress": "when commits fail or the machine crashes under load the stock module leaks blocks, shows what was "
    "rolled back, passes discards down too early and may end in Fail, all of which has tests of its own",
}
