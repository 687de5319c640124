#!/usr/bin/env python3
"""The demonstration, told in a guest: real files on a thin volume, through both modules.

Every step says in one line what it does, shows the pool's status line, and stops the whole
with an exit status other than 0 when something is not as it should be. scripts/demo runs it.
"""

import os
import platform
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "functional"))

from lib import dm, metadata, proc, tree  # noqa: E402
from lib.rig import Rig, module_is_stock  # noqa: E402
from lib.thin import GIB, MIB  # noqa: E402

LEAST_BYTES, LEAST_FILES = 100 * MIB, 5000
CHANGED, DELETED = 2500, 1000
THIN_SECTORS = GIB // 512


class Story:
    def __init__(self, fs):
        self.fs = fs
        self.step, self.began = 0, time.monotonic()
        directory = tempfile.mkdtemp(prefix="demo.", dir="/run")
        proc.run("mount", "-t", "tmpfs", "-o", "size=90%", "none", directory)
        self.rig = Rig(directory)
        self.pool = None
        self.origin_at, self.snap_at = (os.path.join(directory, name) for name in ("origin", "snapshot"))

    # -- telling

    def say(self, text):
        self.step += 1
        print(f"\n{self.step:2}. {text}", flush=True)

    def show(self, *lines):
        for line in lines:
            print(f"      {line}", flush=True)

    def status(self):
        """The pool's status line as the kernel prints it, and what it says about space."""
        line = self.pool.status_line()
        status = self.pool.status()
        self.show(
            f"dmsetup status: {line.strip()}",
            f"                {status.used * self.pool.block // MIB} MiB of {status.total * self.pool.block // MIB} MiB in use",
        )
        return status

    def proven(self, wanted, where, what):
        count = wanted.prove(where)
        self.show(f"SHA-256 of all {count} files of {what}: as they should be")

    def module(self):
        version = ".".join(str(n) for n in dm.targets()["thin-pool"])
        whose = "the kernel's own" if module_is_stock() else "this project's"
        self.show(f"Linux {platform.release()}, loaded: {whose} dm-thin-pool, target version {version}")

    # -- doing

    def use(self, which):
        proc.run("use-module", which)
        expected = which == "in-tree"
        assert module_is_stock() == expected, f"the module loaded is not the one asked for ({which})"
        self.module()

    def open_pool(self):
        self.pool.start()
        self.thin = self.pool.activate(0, sectors=THIN_SECTORS)

    def close_pool(self):
        self.thin.remove()
        self.pool.remove()
        for series in ("1", "0.9"):
            command = metadata.tool("thin_check", series)
            proc.run(command, self.pool.meta)
            self.show(f"thin_check {proc.run(command, '--version').out.strip()}: no error, no leak")

    def mount(self, device, where):
        tree.mount(self.fs, device, where)

    def tell(self):
        self.say("This project's module runs on a kernel as Debian ships it.")
        assert not module_is_stock(), "the kernel's own module is loaded"
        self.module()

        self.say("Two disks become a pool, the pool gives a thin volume, by dmsetup as ever.")
        self.pool = self.rig.pool(size=2 * GIB, meta=16 * MIB)
        self.thin = self.pool.thin(0, sectors=THIN_SECTORS)
        self.show(f"pool: {self.pool.table_line().strip()}", f"thin: {self.thin.table_line()}")
        self.status()

        self.say(f"An {self.fs} on it takes a copy of a good part of this guest's /usr.")
        files = tree.choose(LEAST_BYTES, LEAST_FILES)
        size = sum(os.path.getsize(os.path.join(tree.SOURCE, name)) for name in files)
        tree.make_filesystem(self.fs, self.thin)
        self.mount(self.thin, self.origin_at)
        tree.copy(files, self.origin_at)
        os.sync()
        before = tree.Tree(tree.digests(tree.SOURCE, files))
        self.show(f"{len(files)} files, {size // MIB} MiB; their SHA-256 are taken from /usr itself")
        self.status()

        self.say("A snapshot of the mounted volume: suspend, one message, resume. It costs no data block.")
        used = self.pool.status().used
        self.pool.snapshot(self.thin, 1)
        assert self.pool.status().used - used < 64, "the snapshot copied data"
        self.status()

        self.say(f"{CHANGED} files of the original are changed and {DELETED} deleted; shared blocks are copied on write.")
        after = before.copy()
        after.change(self.origin_at, CHANGED, DELETED)
        os.sync()
        self.status()

        self.say("The snapshot is mounted beside the original, caches dropped, every file of both is proven.")
        snap = self.pool.activate(1, sectors=THIN_SECTORS)
        self.mount(snap, self.snap_at)
        self.proven(after, self.origin_at, "the original (changed)")
        self.proven(before, self.snap_at, "the snapshot (as at first)")
        self.status()

        self.say("fstrim discards what the deleted files held; what the snapshot still needs stays.")
        mapped = self.thin.status().mapped
        proc.run("fstrim", self.origin_at)
        trimmed = self.status().used
        now = self.thin.status().mapped
        assert now < mapped, "nothing was unmapped"
        self.show(f"the thin volume maps {now // 2048} MiB, it was {mapped // 2048} MiB")

        self.say("The snapshot is deleted, and its space comes back.")
        tree.unmount(self.snap_at)
        snap.remove()
        self.pool.delete(1)
        freed = self.status().used
        assert freed < trimmed, "no space came back"
        self.show(f"{(trimmed - freed) * self.pool.block // MIB} MiB came back")

        self.say("The pool is taken down and both generations of thin_check look at its metadata.")
        tree.unmount(self.origin_at)
        self.close_pool()

        self.say("The kernel's own module takes over the same pool, and proves every file again.")
        self.use("in-tree")
        self.open_pool()
        self.mount(self.thin, self.origin_at)
        self.status()
        self.proven(after, self.origin_at, "the original")

        self.say("With the kernel's module 200 files are changed, 100 deleted, and a snapshot is left.")
        middle = after.copy()
        self.pool.snapshot(self.thin, 2)
        after.change(self.origin_at, 200, 100, seed=2)
        self.status()
        tree.unmount(self.origin_at)
        self.close_pool()

        self.say("And back: this project's module opens what the kernel's left, and proves both trees.")
        self.use("ours")
        self.open_pool()
        snap = self.pool.activate(2, sectors=THIN_SECTORS)
        self.mount(self.thin, self.origin_at)
        self.mount(snap, self.snap_at)
        self.status()
        self.proven(after, self.origin_at, "the original")
        self.proven(middle, self.snap_at, "the snapshot")
        tree.unmount(self.snap_at)
        tree.unmount(self.origin_at)
        snap.remove()
        self.close_pool()
        print(f"\nAll of it held. {self.step} steps, {time.monotonic() - self.began:.0f} s in the guest.", flush=True)


def main():
    os.environ["PATH"] += ":" + os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guest")
    story = Story(sys.argv[1] if len(sys.argv) > 1 else "ext4")
    try:
        story.tell()
    except (AssertionError, dm.DmError, proc.Failed, proc.Hung, OSError, subprocess.SubprocessError) as error:
        print(f"\nThe demonstration failed at step {story.step}: {error}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
