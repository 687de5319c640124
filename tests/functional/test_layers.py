"""A pool and thins among other block devices: below them, above them, on each other."""

import errno
import os
import time

import pytest
from lib import dm, io, metadata, proc, tree
from lib.thin import KIB, MIB


def need_target(name):
    """Skip where the kernel has no such device-mapper target."""
    if not dm.have_target(name):
        pytest.skip(f"this kernel has no device-mapper target '{name}'")


def use_everything(pool, thin, seed=1):
    """First writes, overwriting, a snapshot, copies, discards, commits: each once, all of it proven."""
    thin.fill(0, 4 * MIB, seed)
    thin.fill(MIB, 64 * KIB, seed + 1)
    pool.snapshot(thin, 1000)
    thin.fill(2 * MIB + 8 * KIB, 4 * KIB, seed + 2)
    thin.fill(3 * MIB, pool.block, seed + 2, fua=True)
    snap = pool.activate(1000, sectors=thin.sectors)
    snap.verify(2 * MIB, 2 * MIB, seed)
    snap.verify(MIB, 64 * KIB, seed + 1)
    thin.verify(2 * MIB, 8 * KIB, seed)
    thin.verify(2 * MIB + 8 * KIB, 4 * KIB, seed + 2)
    thin.verify(2 * MIB + 12 * KIB, MIB - 12 * KIB, seed)
    thin.discard_blocks(0, 4)
    thin.zero_blocks(0, 4)
    thin.flush()
    snap.remove()
    pool.delete(1000)
    pool.cycle()
    assert pool.status().mode == "rw"
    thin.verify(3 * MIB, pool.block, seed + 2)


def survives_a_restart(rig, pool, seed=1):
    sectors = rig.thins[-1].sectors
    rig.restart(pool)
    thin = pool.activate(0, sectors)
    thin.zero_blocks(0, 4)
    thin.verify(MIB, 64 * KIB, seed + 1)
    thin.verify(2 * MIB + 8 * KIB, 4 * KIB, seed + 2)
    thin.verify(3 * MIB, pool.block, seed + 2)
    return thin


# -- sector sizes ------------------------------------------------------------------------


@pytest.mark.parametrize("data_sector, meta_sector", [(4096, 512), (512, 4096), (4096, 4096)])
@pytest.mark.parametrize("features", [[], ["skip_block_zeroing"]], ids=["zeroing", "skip"])
def test_logical_blocks_of_4_kib(rig, data_sector, meta_sector, features):
    pool = rig.pool(
        data=rig.disk(64 * MIB, sector_size=data_sector), meta=rig.disk(4 * MIB, sector_size=meta_sector), features=features
    )
    thin = pool.thin(0)
    assert thin.attribute("logical_block_size") == pool.attribute("logical_block_size") == data_sector
    if data_sector == 4096:
        assert io.error_of(thin.write, 512, bytes(512)) == errno.EINVAL
    use_everything(pool, thin)
    survives_a_restart(rig, pool)


def test_null_blk_with_logical_blocks_of_4_kib(rig):
    pool = rig.pool(data=rig.null_blk(64 * MIB, block_size=4096, discard=True), meta=rig.null_blk(4 * MIB, block_size=4096))
    thin = pool.thin(0)
    assert thin.attribute("logical_block_size") == 4096
    use_everything(pool, thin)
    survives_a_restart(rig, pool)


def test_origin_with_other_sectors(rig):
    """What the thin may be asked for is the pool's business alone: the origin must be able to serve it."""
    origin = rig.disk(4 * MIB)
    io.fill(origin.path, 0, 4 * MIB, seed=9)
    pool = rig.pool(data=rig.disk(64 * MIB, sector_size=4096))
    thin = pool.thin(0, sectors=8192, origin=origin)
    thin.verify(0, 4 * MIB, seed=9)
    thin.fill(4 * KIB, 4 * KIB, seed=1)
    thin.verify(0, 4 * KIB, seed=9)
    thin.verify(8 * KIB, 56 * KIB, seed=9)


# -- below -------------------------------------------------------------------------------


def test_data_and_metadata_on_one_disk(rig):
    disk = rig.disk(72 * MIB)
    meta = rig.device(f"0 8192 linear {disk} 0")
    data = rig.device(f"0 131072 linear {disk} 8192")
    pool = rig.pool(meta=meta, data=data)
    use_everything(pool, pool.thin(0))
    survives_a_restart(rig, pool)


def test_data_device_of_many_pieces(rig):
    """Blocks lie across the seams, and the metadata is in pieces of a block."""
    one, two = rig.disk(64 * MIB), rig.disk(64 * MIB)
    pieces, at = [], 0
    for n in range(64):
        length = 2040 if n % 2 else 2056
        pieces.append(f"{at} {length} linear {(one, two)[n % 2]} {n // 2 * 4096}")
        at += length
    data = rig.device("\n".join(pieces))
    meta = rig.device("\n".join(f"{n * 8} 8 linear {(one, two)[n % 2]} {131072 - 8 - n * 8}" for n in range(256)))
    pool = rig.pool(meta=meta, data=data, size=at * 512)
    use_everything(pool, pool.thin(0))
    survives_a_restart(rig, pool)


def test_striped_data(rig):
    need_target("striped")
    one, two = rig.disk(32 * MIB), rig.disk(32 * MIB)
    data = rig.device(f"0 131072 striped 2 128 {one} 0 {two} 0")
    pool = rig.pool(data=data, bs=384, size=60 * MIB)
    use_everything(pool, pool.thin(0))
    survives_a_restart(rig, pool)


def legs(rig, kind, size):
    """A device of two copies, and its second leg, which can be told to fail."""
    sectors = size // 512
    one, two = rig.disk(size), rig.switch(size)
    if kind == "raid":
        # With metadata of its own: without, md does not get over the loss of a leg.
        table = f"0 {sectors} raid raid1 2 0 nosync 2 {rig.disk(4 * MIB)} {one} {rig.disk(4 * MIB)} {two}"
    else:
        table = f"0 {sectors} mirror core 2 1024 nosync 2 {one} 0 {two} 0"
    return rig.device(table), one, two


@pytest.mark.parametrize("kind", ["raid", "mirror"])
def test_pool_on_two_copies(rig, kind):
    need_target(kind)
    meta, meta_one, _ = legs(rig, kind, 4 * MIB)
    data, _, _ = legs(rig, kind, 64 * MIB)
    pool = rig.pool(meta=meta, data=data)
    use_everything(pool, pool.thin(0))
    survives_a_restart(rig, pool)
    rig.stop(pool)
    meta.remove()
    metadata.check(meta_one)


def test_raid_that_loses_a_leg(rig):
    need_target("raid")
    meta, _, meta_leg = legs(rig, "raid", 4 * MIB)
    data, _, data_leg = legs(rig, "raid", 64 * MIB)
    pool = rig.pool(meta=meta, data=data)
    thin = pool.thin(0)
    thin.fill(0, 2 * MIB, seed=1)
    meta_leg.fail_all()
    thin.fill(2 * MIB, 2 * MIB, seed=1)
    pool.create_thin(5)
    data_leg.fail_all()
    thin.fill(4 * MIB, 2 * MIB, seed=1)
    thin.flush()
    pool.snapshot(thin, 6)
    thin.fill(0, 4 * KIB, seed=2)
    status = pool.status()
    assert (status.mode, status.needs_check) == ("rw", False)
    thin.verify(4 * KIB, 6 * MIB - 4 * KIB, seed=1)
    rig.restart(pool)
    pool.activate(6).verify(0, 6 * MIB, seed=1)


def test_raid_that_is_checked(rig):
    """What RAID keeps of a batch to send it together, it sends before the thin waits for the array.

    Else each would wait for the other: the check for writes that lie in the submitter's plug, and the
    submitter, who fills the new blocks of his batch, for the check.
    """
    need_target("raid")
    legs = " ".join(f"{rig.disk(4 * MIB)} {rig.disk(64 * MIB)}" for _ in range(2))
    # Fast, whatever else there is to do.
    data = rig.device(f"0 131072 raid raid1 3 0 min_recovery_rate 1000000 2 {legs}")
    pool = rig.pool(data=data)
    thin = pool.thin(0)
    thin.fill_blocks(0, 8, seed=1)
    places = [block * pool.block + 4 * KIB for block in range(40)]
    checks = 0
    for _ in range(200):
        thin.discard_blocks(8, 32)
        checks += dm.error_of(data.message, "check") is None
        io.scatter(thin.path, places)
    assert checks
    for block in range(8):
        thin.verify(block * pool.block, 4 * KIB, seed=1)
        thin.verify_zero((block + 8) * pool.block, 4 * KIB)


KEY = "0123456789abcdef" * 8


def crypt(rig, lower, sectors):
    need_target("crypt")
    return rig.device(f"0 {sectors} crypt aes-xts-plain64 {KEY} 0 {lower} 0 1 allow_discards")


def test_pool_on_encrypted_disks(rig):
    need_target("crypt")
    disks = rig.disk(4 * MIB), rig.disk(64 * MIB)
    meta, data = (crypt(rig, disk, disk.sectors) for disk in disks)
    # Encrypted, a disk of zeros reads as noise.
    io.write(meta.path, 0, bytes(4096))
    pool = rig.pool(meta=meta, data=data)
    use_everything(pool, pool.thin(0))
    thin = survives_a_restart(rig, pool)
    thin.fill_blocks(200, 4, seed=3)
    thin.flush()
    with open(disks[1].file, "rb") as file:
        assert io.pattern(3, 200 * pool.block, 512)[:64] not in file.read()


# -- above -------------------------------------------------------------------------------


def test_encrypted_thin(rig):
    pool = rig.pool()
    thin = pool.thin(0, sectors=32768)
    secret = crypt(rig, thin, 32768)
    io.fill(secret.path, 0, 4 * MIB, seed=1)
    # A snapshot below it is as good as one of a plain thin, if the upper device rests.
    secret.suspend()
    pool.snapshot(thin, 1)
    secret.resume()
    io.fill(secret.path, 0, MIB, seed=2)
    io.discard(secret.path, 2 * MIB, MIB)
    assert thin.status().mapped == 3 * MIB // 512
    snap = crypt(rig, pool.activate(1, sectors=32768), 32768)
    io.verify(snap.path, 0, 4 * MIB, seed=1)
    io.verify(secret.path, 0, MIB, seed=2)
    io.verify(secret.path, MIB, MIB, seed=1)
    for device in (snap, secret):
        device.remove()


class LoopOn:
    """A loop device on anything; to be used with 'with'."""

    def __init__(self, backing, *options):
        self.path = proc.run("losetup", "--find", "--show", *options, backing).out.strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        proc.run("losetup", "--detach", self.path)
        proc.wait_for(lambda: not proc.run("losetup", self.path, check=False).out, f"{self.path} is free")

    def __str__(self):
        return self.path


@pytest.mark.parametrize("direct", ["on", "off"])
def test_loop_device_on_a_thin(rig, direct):
    pool = rig.pool()
    thin = pool.thin(0)
    with LoopOn(thin, f"--direct-io={direct}") as loop:
        io.fill(loop.path, 0, 4 * MIB, seed=1)
        io.flush(loop.path)
        thin.verify(0, 4 * MIB, seed=1)
        assert thin.status().mapped == 8192
        pool.snapshot(thin, 1)
        io.fill(loop.path, 0, MIB, seed=2)
        io.flush(loop.path)
        pool.cycle()
        thin.verify(0, MIB, seed=2)
        io.verify(loop.path, MIB, 3 * MIB, seed=1)
    pool.activate(1).verify(0, 4 * MIB, seed=1)


def test_pool_in_files_on_a_thin(rig):
    """An image file on a file system on a thin, and a whole pool in such files."""
    outer = rig.pool(size=256 * MIB)
    thin = outer.thin(0)
    tree.make_filesystem("ext4", thin)
    where = os.path.join(rig.directory, "images")
    tree.mount("ext4", thin, where)
    try:
        for name, size in (("meta", 4 * MIB), ("data", 64 * MIB)):
            with open(f"{where}/{name}", "wb") as file:
                file.truncate(size)
        with LoopOn(f"{where}/meta") as meta, LoopOn(f"{where}/data") as data:
            inner = rig.pool(meta=meta, data=data)
            use_everything(inner, inner.thin(0))
            outer.cycle()
            survives_a_restart(rig, inner)
            # Freezes the file system, hence what lies in it, for the snapshot.
            outer.snapshot(thin, 1)
            inner_thin = rig.thins[-1]
            inner_thin.fill(8 * MIB, MIB, seed=4)
            inner_thin.verify(3 * MIB, inner.block, seed=3)
            rig.stop(inner)
    finally:
        tree.unmount(where)
    tree.check_filesystem("ext4", thin)


@pytest.mark.parametrize("bs", [128, 384])
def test_pool_on_thins_of_another(rig, bs):
    outer = rig.pool(size=128 * MIB)
    meta, data = outer.thin(0, sectors=8192), outer.thin(1, sectors=131072)
    inner = rig.pool(meta=meta, data=data, bs=bs, size=60 * MIB)
    use_everything(inner, inner.thin(0))
    for pool in (outer, inner, outer):
        pool.cycle()
    thin = survives_a_restart(rig, inner)
    # What is freed above is freed below.
    before = outer.status().used
    thin.fill(16 * MIB, 12 * MIB, seed=5)
    inner.status()
    assert outer.status().used >= before + 8 * 16  # some of them were there before
    thin.discard(16 * MIB, 12 * MIB)
    inner.status()
    proc.wait_for(lambda: outer.status().used <= before + 20, "the lower pool has its blocks back")
    # The lower one grows while the upper one writes.
    job = io.Job(io.fill, thin.path, 16 * MIB, 8 * MIB, 6)
    outer.data.grow(2 * 131072 * 2)
    outer.change(sectors=2 * 131072 * 2)
    job.result()
    thin.verify(16 * MIB, 8 * MIB, seed=6)
    assert inner.status().mode == outer.status().mode == "rw"
    rig.stop(inner)


@pytest.mark.improvement("B6")
def test_full_lower_pool_is_an_error_of_the_upper_ones_disk(rig):
    outer = rig.pool(size=4 * MIB, features=["error_if_no_space"])
    data = outer.thin(0, sectors=131072)
    inner = rig.pool(data=data)
    thin = inner.thin(0)
    assert io.error_of(thin.fill, 0, 8 * MIB, 1) in (errno.ENOSPC, errno.EIO)
    assert outer.status(noflush=True).mode == "out_of_data_space"
    assert inner.status(noflush=True).mode == "rw"
    outer.data.grow(2 * 65536)
    outer.change(sectors=2 * 65536)
    thin.fill(0, 8 * MIB, seed=2)
    thin.verify(0, 8 * MIB, seed=2)
    rig.stop(inner)


# -- swap --------------------------------------------------------------------------------


def swapped_bytes():
    with open("/proc/swaps", encoding="ascii") as file:
        return sum(int(line.split()[3]) for line in file.readlines()[1:]) * 1024


class SwapOn:
    """A thin as swap space, the only one; on memory of null_blk, which belongs to no group."""

    def __init__(self, rig):
        self.pool = rig.pool(data=rig.null_blk(192 * MIB, discard=True), meta=rig.null_blk(4 * MIB), size=192 * MIB)
        self.thin = self.pool.thin(0)

    def __enter__(self):
        proc.run("mkswap", self.thin)
        proc.run("swapon", "--discard", self.thin)
        return self

    def __exit__(self, *_):
        proc.run("swapoff", self.thin)


PUSH_OUT = """
import ctypes, mmap, sys
size = 64 << 20
memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, size, 4096):
    memory[at : at + 8] = at.to_bytes(8, "little")
for _ in range(3):
    for at in range(0, size, 4 << 20):
        memory.madvise(21, at, 4 << 20)  # MADV_PAGEOUT
print("out", flush=True)
sys.stdin.readline()
wrong = sum(memory[at : at + 8] != at.to_bytes(8, "little") for at in range(0, size, 4096))
print("wrong", wrong, flush=True)
"""


def test_pages_swapped_to_a_thin(rig):
    """A process pushes its pages out; the pool is suspended and resumed; all of them come back."""
    import subprocess

    with SwapOn(rig) as swap:
        child = proc.start("python3", "-c", PUSH_OUT, stdin=subprocess.PIPE)
        try:
            assert child.stdout.readline() == "out\n"
            assert swapped_bytes() > 32 * MIB
            # What has just been swapped may still be on its way.
            used = lambda: swap.pool.status().used * swap.pool.block
            proc.wait_for(lambda: used() > 32 * MIB, "the thin has the pages")
            swap.pool.cycle()
            child.stdin.write("\n")
            child.stdin.flush()
            assert child.stdout.readline() == "wrong 0\n"
        finally:
            child.kill()
            child.wait()


PRESSURE = """
import mmap, os, random, sys
os.write(os.open(sys.argv[1] + "/cgroup.procs", os.O_WRONLY), str(os.getpid()).encode())
size = 96 << 20
memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
chance, expected = random.Random(1), [0] * (size // 4096)
for turn in range(3):
    for page in range(len(expected)):
        if turn == 0 or chance.random() < 0.3:
            expected[page] = turn * 1000000 + page + 1
            memory[page * 4096 : page * 4096 + 8] = expected[page].to_bytes(8, "little")
wrong = sum(int.from_bytes(memory[p * 4096 : p * 4096 + 8], "little") != want for p, want in enumerate(expected))
print("wrong", wrong, flush=True)
"""


@pytest.fixture
def small_group():
    """A control group that is held to 32 MiB, and may never use more than 64.

    In between it is slowed down; at the end processes are killed, which a short suspend must not lead to.
    """
    root = next((line.split()[1] for line in open("/proc/mounts", encoding="utf-8") if line.split()[2] == "cgroup2"), None)
    mounted = None
    if not root:
        root = mounted = "/run/thintest-cgroup"
        os.makedirs(root, exist_ok=True)
        if proc.run("mount", "-t", "cgroup2", "none", root, check=False).status:
            pytest.skip("this kernel has no control groups of version 2")
    with open(f"{root}/cgroup.controllers", encoding="ascii") as file:
        has_memory = "memory" in file.read().split()
    if not has_memory:
        if mounted:
            proc.run("umount", mounted)
        pytest.skip("this kernel cannot limit the memory of a control group")
    with open(f"{root}/cgroup.subtree_control", "w", encoding="ascii") as file:
        file.write("+memory")
    path = f"{root}/thintest"
    os.mkdir(path)
    for name, limit in (("memory.high", 32 * MIB), ("memory.max", 64 * MIB)):
        with open(f"{path}/{name}", "w", encoding="ascii") as file:
            file.write(str(limit))
    yield path
    proc.wait_for(lambda: not open(f"{path}/cgroup.procs", encoding="ascii").read(), "the group is empty")
    os.rmdir(path)
    if mounted:
        proc.run("umount", mounted)


def test_swap_under_memory_pressure(rig, small_group):
    """A process that needs three times what it is meant to have, on nothing but a thin to swap to."""
    with SwapOn(rig) as swap:
        child = proc.start("python3", "-c", PRESSURE, small_group)
        try:
            turns = most = 0
            while child.poll() is None:
                swap.pool.cycle(noflush=bool(turns % 2))
                most = max(most, swap.pool.status().used)
                turns += 1
                time.sleep(0.2)
            assert child.stdout.read() == "wrong 0\n", child.stderr.read()
        finally:
            child.kill()
            child.wait()
        assert most * swap.pool.block > 32 * MIB
