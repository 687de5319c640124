"""Where the kernel's own module is wrong on purpose of no one, and this one is right.

A test marked improvement("ID") must fail with the kernel's own module (otherwise it proves
nothing) and pass with this one. The reasons stand here and nowhere else.
"""

IMPROVEMENTS = {
    "lost-commit": "after a commit that failed on the metadata device the stock module says success to fsync, "
    "though the thin's changes are gone",
    "grow-restored": "metadata written by thin_restore 0.9 counts the free entries of the last bitmap in another way; "
    "the stock module believes it, finds no free block after growing a full pool and stops with ENOSPC",
    "B1": "the stock module does not notice space that a discard freed which took long to be passed down; "
    "a full pool stays full",
    "B2": "a discard under way when the pool turns read-only makes the stock module fail the whole pool",
    "B4": "after an interrupted noflush suspend of a thin the stock module fails all its I/O",
    "B5": "the stock module ties a flush to block 0; where that is a hole, fsync fails or hangs in read-only and full pools",
    "B7": "the stock module says success to a message whose commit failed and was rolled back",
    "B10": "in a read-only pool the stock module answers EIO behind the end of an external origin, not zeros",
    "B11": "the stock module tries to grow a read-only pool and fails it",
    "B15": "the stock module does not commit for freed blocks that only wait for a commit, and says ENOSPC",
    "B17": "the stock module writes needs_check to the disk when something else makes it write",
    "snapshot-clock": "the stock module counts snapshots beyond the 24 bits that mappings have for the count",
    "B23": "the stock module rewrites the superblock at each status of an idle pool",
    "B28": "with skip_block_zeroing the stock module shows stale data behind the end of an external origin",
    "B6": "a first write or a copy whose I/O failed keeps its data block for ever in the stock module: a leak",
    "B12": "the stock module answers 'Fail' to a thin's table query in fail mode",
    "B16": "out of metadata space the stock module refuses to delete thins, which would free some; "
    "only taking the whole pool down helps",
    "B19": "the stock module takes a snapshot of a thin that is not suspended while writes to it are under way, "
    "and these then change the snapshot",
    "B20": "the stock module goes by the time of a mapping alone: the last owner of a block still copies it, "
    "and needs space for that",
    "B21": "after the forced removal of a pool the stock module leaves its thins suspended for ever; their I/O hangs",
    "tracepoints": "the stock module has none",
    "zeroes": "the stock module takes no request for zeroes: they are written, and take space; holes cannot be punched",
    "nowait": "the stock module takes no request that must not wait, so that io_uring hands each one to a thread",
    "stats": "the stock module counts nothing and knows no such message",
    "B14": "the stock module silently ignores another block size in a reloaded table, and refuses all five words at once",
    "B13": "the stock module takes one device under two names for data and metadata, and destroys the metadata",
}
