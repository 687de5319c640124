"""What other programs than LVM do with a pool, step by step as they do it: container engines, stratis."""

import errno
import os
import re

import pytest
from lib import io, proc, tree
from lib.dm import DmError, dmsetup, error_of
from lib.thin import KIB, MIB, Thin


@pytest.fixture
def where(rig):
    path = os.path.join(rig.directory, "consumer")
    os.makedirs(path, exist_ok=True)
    return path


# -- container engines -------------------------------------------------------------------


@pytest.fixture
def engine(rig):
    """Their pool: no zeroing, a low-water mark far above its size."""
    return rig.pool(size=256 * MIB, low_water=32768, features=["skip_block_zeroing"])


def layer_on(pool, snap_id, base):
    """The base rests, if it is active, while its copy is made."""
    base_active = base.exists()
    if base_active:
        base.suspend()
    try:
        pool.create_snap(snap_id, base.id)
    finally:
        if base_active:
            base.resume()
    return pool.activate(snap_id, base.sectors)


def test_layers_of_images(rig, engine, where):
    """A base with a file system, layers on layers, each mounted, written, unmounted."""
    assert engine.table_text().split()[2:] == ["128", "32768", "1", "skip_block_zeroing"]
    base = engine.thin(1, sectors=131072)
    tree.make_filesystem("ext4", base)
    below, contents = base, {}
    for layer in range(2, 6):
        thin = layer_on(engine, layer, below)
        tree.mount("ext4", thin, where)
        try:
            for name, data in contents.items():
                with open(f"{where}/{name}", "rb") as file:
                    assert file.read() == data, f"{name} in layer {layer}"
            name = f"layer{layer}"
            contents[name] = io.pattern(layer, 0, 300 * KIB)
            with open(f"{where}/{name}", "wb") as file:
                file.write(contents[name])
        finally:
            tree.unmount(where)
        below = thin
    # The first layer never saw what the later ones wrote.
    tree.mount("ext4", next(t for t in rig.thins if t.id == 2), where, readonly=True)
    try:
        assert sorted(n for n in os.listdir(where) if n != "lost+found") == ["layer2"]
    finally:
        tree.unmount(where)


def test_next_id_when_one_is_taken(rig, engine):
    for taken in (1, 2, 3):
        engine.create_thin(taken)
    thin_id = 1
    while error_of(engine.create_thin, thin_id) == errno.EEXIST:
        thin_id += 1
    assert thin_id == 4
    assert error_of(engine.create_snap, 4, 1) == errno.EEXIST
    assert error_of(engine.create_snap, 5, 1) is None


def test_delete_that_has_to_be_repeated(rig, engine):
    thin = engine.thin(1)
    thin.fill_blocks(0, 8, seed=1)
    layer = layer_on(engine, 2, thin)
    # In use: the node is open, so it cannot go, and the id with it.
    holder = os.open(layer.path, os.O_RDONLY)
    try:
        assert error_of(layer.remove, retry=False) == errno.EBUSY
        assert error_of(engine.delete, 2) == errno.EBUSY
        dmsetup("remove", "--deferred", layer.name)
        assert layer.exists()
        assert error_of(engine.delete, 2) == errno.EBUSY
    finally:
        os.close(holder)
    proc.wait_for(lambda: not layer.exists(), "the deferred removal")
    # Its table may outlive its name a little.
    proc.wait_for(lambda: error_of(engine.delete, 2) != errno.EBUSY, "nobody has the id open")
    assert error_of(engine.delete, 2) == errno.ENODATA
    assert error_of(engine.create_snap, 3, 2) == errno.ENODATA
    thin.verify_blocks(0, 8, seed=1)
    # The words that these programs turn back into an errno.
    with pytest.raises(DmError, match="No data available"):
        engine.delete(2)
    with pytest.raises(DmError, match="File exists"):
        engine.create_thin(1)
    with pytest.raises(DmError, match="Device or resource busy"):
        engine.delete(1)


def test_layers_removed_in_any_order(rig, engine):
    base = engine.thin(1, sectors=32768)
    base.fill(0, 4 * MIB, seed=1)
    for layer in range(2, 8):
        thin = layer_on(engine, layer, base)
        thin.fill((layer - 2) * 64 * KIB, 64 * KIB, seed=layer)
    assert engine.status().used == 64 + 6
    for gone in (4, 7, 2):
        next(t for t in rig.thins if t.id == gone).remove()
        engine.delete(gone)
    base.remove()
    engine.delete(1)
    assert engine.status().used == 64 + 3
    for layer in (3, 5, 6):
        thin = next(t for t in rig.thins if t.id == layer)
        at = (layer - 2) * 64 * KIB
        thin.verify(at, 64 * KIB, seed=layer)
        thin.verify(at + 64 * KIB, 4 * MIB - at - 64 * KIB, seed=1)


def test_snapshot_of_a_mounted_and_suspended_base(rig, engine, where):
    base = engine.thin(1, sectors=131072)
    tree.make_filesystem("ext4", base)
    tree.mount("ext4", base, where)
    try:
        with open(f"{where}/file", "wb") as file:
            file.write(io.pattern(1, 0, MIB))  # not synced: the suspend does it
        layer = layer_on(engine, 2, base)
        with open(f"{where}/file", "r+b") as file:
            file.write(io.pattern(2, 0, MIB))
    finally:
        tree.unmount(where)
    tree.check_filesystem("ext4", layer)
    tree.mount("ext4", layer, where)
    try:
        with open(f"{where}/file", "rb") as file:
            assert file.read() == io.pattern(1, 0, MIB)
    finally:
        tree.unmount(where)


# -- stratis -----------------------------------------------------------------------------

WORDS = re.compile(
    r"\d+ \d+/\d+ \d+/\d+ (-|\d+) (rw|ro|out_of_data_space) (no_)?discard_passdown (queue|error)_if_no_space (-|needs_check) \d+"
)


class Grown:
    """A linear device that is made longer, a piece at a time, as pools of disks do it."""

    def __init__(self, rig, disk, sectors):
        self.disk, self.sectors = disk, sectors
        self.device = rig.device(self.table())

    def table(self):
        return f"0 {self.sectors} linear {self.disk} 0"

    def grow(self, sectors):
        self.sectors = sectors
        self.device.reload(self.table(), noflush=True)


@pytest.fixture
def stratis(rig):
    """Pool, and the devices below it."""
    meta = Grown(rig, rig.disk(16 * MIB), 4096)
    data = Grown(rig, rig.disk(256 * MIB), 32768)
    pool = rig.pool(
        size=16 * MIB, bs=2048, low_water=4, meta=meta.device, data=data.device, features=["no_discard_passdown", "skip_block_zeroing"]
    )
    return pool, meta, data


def parsed(pool):
    """Its status as their library takes it apart: blanks separate, and every word has its place."""
    assert WORDS.fullmatch(pool.status_line(noflush=True).split(" thin-pool ")[1].strip())
    return pool.status(noflush=True)


def test_table_lines_word_by_word(rig, stratis):
    pool, _, _ = stratis
    thin = pool.thin(0)
    assert thin.table_line() == f"0 {thin.sectors} thin {pool.number} 0"
    words = pool.table_text().split()
    assert words[2:5] == ["2048", "4", "2"] and sorted(words[5:]) == ["no_discard_passdown", "skip_block_zeroing"]
    parsed(pool)


def test_both_devices_grow_below_a_writer(rig, stratis):
    pool, meta, data = stratis
    thin = pool.thin(0, sectors=262144)
    writer = io.Job(io.fill, thin.path, 0, 96 * MIB, 1)
    grown = 0
    # At each low-water event: a larger data device, then a pool that knows of it.
    while not writer.done(0.05):
        status = parsed(pool)
        if status.free <= 4 and data.sectors < 262144:
            data.grow(data.sectors + 32768)
            pool.change(sectors=data.sectors, noflush=True)
            grown += 1
    writer.result()
    assert grown >= 5
    meta.grow(16384)
    pool.cycle(noflush=True)
    assert parsed(pool).meta_total == 2048
    thin.verify(0, 96 * MIB, seed=1)
    assert parsed(pool).mode == "rw"


def test_queue_and_error_are_switched(rig, stratis):
    rig.parameter("no_space_timeout", 0)
    pool, _, data = stratis
    thin = pool.thin(0, sectors=262144)
    both = ["no_discard_passdown", "skip_block_zeroing"]
    writer = io.Job(io.fill, thin.path, 0, 20 * MIB, 1)
    proc.wait_for(lambda: parsed(pool).mode == "out_of_data_space", "the pool is full")
    pool.change(features=[*both, "error_if_no_space"], noflush=True)
    assert writer.errno() == errno.ENOSPC
    assert parsed(pool).no_space == "error_if_no_space"
    pool.change(features=both, noflush=True)
    assert parsed(pool).no_space == "queue_if_no_space"
    writer = io.Job(io.fill, thin.path, 0, 20 * MIB, 2)
    assert not writer.done(0.5)
    data.grow(65536)
    pool.change(sectors=65536, noflush=True)
    writer.result()
    thin.verify(0, 20 * MIB, seed=2)


@pytest.mark.parametrize("fs", ["xfs"])
def test_file_system_that_grows_with_its_thin(rig, stratis, where, fs):
    pool, _, data = stratis
    data.grow(524288)
    pool.change(sectors=524288, noflush=True)
    thin = pool.thin(0, sectors=1 << 20)  # 512 MiB
    tree.make_filesystem(fs, thin)
    tree.mount(fs, thin, where)
    try:
        with open(f"{where}/file", "wb") as file:
            file.write(io.pattern(1, 0, 4 * MIB))
        thin.sectors = 1 << 21
        thin.reload(thin.table(), noflush=True)
        before = os.statvfs(where).f_blocks
        proc.run("xfs_growfs", where)
        assert os.statvfs(where).f_blocks > before * 1.8
        # A snapshot of it, taken as they do: suspended, flushed, with its file system at rest.
        pool.snapshot(thin, 1)
        with open(f"{where}/file", "r+b") as file:
            file.write(io.pattern(2, 0, 4 * MIB))
        proc.run("fstrim", where)
    finally:
        tree.unmount(where)
    snap = pool.activate(1, sectors=thin.sectors)
    tree.mount(fs, snap, where)
    try:
        with open(f"{where}/file", "rb") as file:
            assert file.read() == io.pattern(1, 0, 4 * MIB)
    finally:
        tree.unmount(where)
    tree.check_filesystem(fs, thin)


def test_pool_taken_down_and_set_up_again(rig, stratis):
    """Set up by tables loaded first and resumed together, from the bottom to the top."""
    pool, _, _ = stratis
    thin = pool.thin(0, sectors=65536)
    thin.fill(0, 4 * MIB, seed=1)
    pool.message("set_transaction_id 0 7")
    thin.remove()
    pool.remove()
    pool.create_empty()
    pool.load(pool.table())
    pool.resume()
    again = Thin(pool, rig.name("thin"), 0, 65536)
    rig.thins.append(again)
    again.create_empty()
    again.load(again.table())
    again.resume()
    assert parsed(pool).transaction_id == 7
    again.verify(0, 4 * MIB, seed=1)
