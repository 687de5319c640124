"""A real tree of files through a thin's whole life, on both file systems and several block sizes."""

import os

import pytest
from lib import tree
from lib.thin import GIB, MIB


def live(rig, fs, bs, features, min_bytes, min_files):
    pool = rig.pool(size=2 * GIB, bs=bs, meta=16 * MIB, features=features)
    thin = pool.thin(0)
    origin_at, snap_at = (os.path.join(rig.directory, name) for name in ("origin", "snap"))
    files = tree.choose(min_bytes, min_files)
    thin_size = 1 * GIB // 512
    thin.reload(thin.table(sectors=thin_size))
    mounted = []

    def mount(device, where):
        tree.mount(fs, device, where)
        mounted.append(where)

    def unmount(where):
        tree.unmount(where)
        mounted.remove(where)

    try:
        tree.make_filesystem(fs, thin)
        mount(thin, origin_at)
        tree.copy(files, origin_at)
        before = tree.Tree(tree.digests(tree.SOURCE, files))
        assert len(before.expected) == len(files)

        pool.snapshot(thin, 1)  # while mounted: the suspend freezes the file system
        after = before.copy()
        after.change(origin_at, changes=len(files) // 3, deletions=len(files) // 6)

        snap = pool.activate(1, sectors=thin_size)
        mount(snap, snap_at)
        after.prove(origin_at)
        before.prove(snap_at)

        used = pool.status().used
        tree.proc.run("fstrim", origin_at)
        after.prove(origin_at)
        unmount(snap_at)
        tree.check_filesystem(fs, snap)
        snap.remove()
        trimmed = pool.status().used
        assert trimmed <= used
        pool.delete(1)
        assert pool.status().used < trimmed
        after.prove(origin_at)
        unmount(origin_at)
        tree.check_filesystem(fs, thin)
        rig.restart(pool)
        thin = pool.activate(0, sectors=thin_size)
        mount(thin, origin_at)
        after.prove(origin_at)
        unmount(origin_at)
        thin.discard(0, GIB)
        assert thin.status().mapped == 0 or bs == 384
        thin.remove()
        pool.delete(0)
        assert pool.status().used == 0
    finally:
        for where in reversed(mounted):
            tree.unmount(where)


@pytest.mark.parametrize("fs, bs, features", [("ext4", 128, []), ("xfs", 384, ["skip_block_zeroing"])])
def test_small_tree(rig, fs, bs, features):
    live(rig, fs, bs, features, 8 * MIB, 500)


@pytest.mark.heavy
@pytest.mark.parametrize("features", [[], ["skip_block_zeroing"]], ids=["zeroing", "skip"])
@pytest.mark.parametrize("bs", [128, 384, 2048], ids=["64K", "192K", "1M"])
@pytest.mark.parametrize("fs", ["ext4", "xfs"])
def test_tree(rig, fs, bs, features):
    live(rig, fs, bs, features, 100 * MIB, 5000)
