"""Metadata that the thin tools wrote: opened, read through, grown."""

import os

import pytest
from lib import io, metadata
from lib.thin import GIB, KIB, MIB

BLOCK = 64 * KIB

# What 0.9 writes opens and reads with the stock module too, but cannot be grown when it is full.
SERIES = pytest.mark.parametrize("series", [pytest.param("0.9", marks=pytest.mark.improvement("grow-restored")), "1"])


def stamp(block):
    """What data block N begins with."""
    return b"data block %-20d\n" % block + bytes(4096 - 32)


def write_xml(path, nr_data_blocks, devices):
    """devices: {id: [(origin begin, data begin, length)]}"""
    with open(path, "w", encoding="ascii") as file:
        file.write(
            f'<superblock uuid="" time="1" transaction="7" data_block_size="128" nr_data_blocks="{nr_data_blocks}">\n'
        )
        for dev_id, runs in devices.items():
            mapped = sum(length for _, _, length in runs)
            file.write(
                f'<device dev_id="{dev_id}" mapped_blocks="{mapped}" transaction="0" creation_time="0" snap_time="0">\n'
            )
            for origin, data, length in runs:
                if length == 1:
                    file.write(f'<single_mapping origin_block="{origin}" data_block="{data}" time="0"/>\n')
                else:
                    file.write(
                        f'<range_mapping origin_begin="{origin}" data_begin="{data}" length="{length}" time="0"/>\n'
                    )
            file.write("</device>\n")
        file.write("</superblock>\n")


def shuffled(count, per_device):
    """Runs of 1 to 9 blocks that lie elsewhere on the data device than on the thin, every data block used once."""
    lengths = [1, 3, 1, 9, 1, 1, 5, 2, 1, 8]
    runs, at, n = [], 0, 0
    while at < count:
        length = min(lengths[n % 10], count - at)
        runs.append((at, length))
        at += length
        n += 1
    # The data places: the same lengths, handed out from both ends in turn.
    low, high, placed = 0, count, []
    for n, (origin, length) in enumerate(runs):
        if n % 2:
            high -= length
            placed.append((origin + n // 7, high, length))
        else:
            placed.append((origin + n // 7, low, length))
            low += length
    devices = {}
    for origin, data, length in placed:
        devices.setdefault(origin // per_device, []).append((origin, data, length))
    return devices


def live(rig, series, mappings, spare, samples):
    rig.parameter("no_space_timeout", 2)  # a write that finds no space fails instead of waiting
    devices = shuffled(mappings, mappings // 3)
    total = mappings + spare
    data = rig.disk(total * BLOCK)
    meta = rig.disk(max(4 * MIB, mappings * 48))
    xml = os.path.join(rig.directory, "metadata.xml")
    write_xml(xml, total, devices)
    metadata.restore(meta, xml, series)
    os.unlink(xml)

    # Stamp the data blocks that will be looked at; the disk is sparse.
    flat = [(dev, origin + n, data_at + n) for dev, runs in devices.items() for origin, data_at, length in runs for n in range(length)]
    chosen = flat[:: max(1, len(flat) // samples)] + [flat[-1]]
    for _, _, block in chosen:
        io.write(data.path, block * BLOCK, stamp(block))

    pool = rig.pool(size=total * BLOCK, meta=meta, data=data)
    status = pool.status()
    assert (status.transaction_id, status.used, status.total, status.mode) == (7, mappings, total, "rw")
    sectors = (flat[-1][1] + 100) * 128
    thins = {dev: pool.activate(dev, sectors=sectors) for dev in devices}
    for dev, runs in devices.items():
        assert thins[dev].status().mapped == sum(length for _, _, length in runs) * 128
    for dev, origin, block in chosen:
        assert thins[dev].read(origin * BLOCK, 4096) == stamp(block)
    return pool, thins, data, total, sectors


def fill_up(pool, thin, first, count):
    """Map so many new blocks with small writes."""
    for block in range(first, first + count):
        thin.write(block * BLOCK, b"n" * 512)


@SERIES
def test_small_metadata_from_thin_restore(rig, series):
    pool, thins, data, total, _ = live(rig, series, mappings=16000, spare=64, samples=100)
    thin = thins[0]
    thin.reload(thin.table(sectors=1 << 28))
    fill_up(pool, thin, 500000, 64)
    assert pool.status().used == total
    data.grow((total + 10) * 128)
    pool.change(sectors=(total + 10) * 128)
    fill_up(pool, thin, 600000, 10)
    status = pool.status()
    assert (status.used, status.total, status.mode) == (total + 10, total + 10, "rw")


@pytest.mark.heavy
@SERIES
def test_a_million_mappings_from_thin_restore(rig, series):
    pool, thins, data, total, _ = live(rig, series, mappings=1000000, spare=0, samples=2000)
    thin = thins[0]
    thin.reload(thin.table(sectors=1 << 30))
    data.grow((total + 5) * 128)
    pool.change(sectors=(total + 5) * 128)
    fill_up(pool, thin, 2000000, 5)
    status = pool.status()
    assert (status.used, status.total, status.mode) == (total + 5, total + 5, "rw")


def last_bitmap_full(rig, series, blocks):
    """All data blocks used, the last bitmap partly outside the map; then grown by some."""
    meta, data = rig.disk(16 * MIB), rig.disk(blocks * BLOCK)
    xml = os.path.join(rig.directory, "metadata.xml")
    write_xml(xml, blocks, {0: [(0, 0, blocks)]})
    metadata.restore(meta, xml, series)
    os.unlink(xml)
    pool = rig.pool(size=blocks * BLOCK, meta=meta, data=data)
    thin = pool.activate(0, sectors=1 << 26)
    assert pool.status().used == blocks
    data.grow((blocks + 10) * 128)
    pool.change(sectors=(blocks + 10) * 128)
    assert pool.status().total == blocks + 10
    for block in range(10):
        thin.write((blocks + block) * BLOCK, b"n" * 512)
    status = pool.status()
    assert (status.used, status.mode) == (blocks + 10, "rw")


def test_growing_a_full_pool_restored_by_1(rig):
    last_bitmap_full(rig, "1", 20000)


@pytest.mark.improvement("grow-restored")
def test_growing_a_full_pool_restored_by_09(rig):
    rig.parameter("no_space_timeout", 1)
    last_bitmap_full(rig, "0.9", 20000)


def test_restored_devices_share_blocks(rig):
    """The same data blocks in two devices: written in one, the other keeps them."""
    meta, data = rig.disk(4 * MIB), rig.disk(64 * MIB)
    xml = os.path.join(rig.directory, "metadata.xml")
    write_xml(xml, 1024, {1: [(0, 0, 64)], 2: [(0, 0, 64)], 3: [(10, 20, 30)]})
    text = open(xml, encoding="ascii").read().replace('snap_time="0"', 'snap_time="1"')
    metadata.restore(meta, text)
    io.fill(data.path, 0, 4 * MIB, seed=1)
    pool = rig.pool(meta=meta, data=data)
    assert pool.status().used == 64
    one, two = pool.activate(1), pool.activate(2)
    one.fill_blocks(0, 8, seed=2)
    two.verify_blocks(0, 64, seed=1)
    one.verify_blocks(0, 8, seed=2)
    assert pool.status().used == 72


def test_sixteen_gib_metadata_device(rig):
    """Formats, opens, is capped a little below 16 GiB; reserve and threshold are at their caps."""
    pool = rig.pool(size=64 * MIB, meta=16 * GIB)
    assert pool.status().text == "0 4359/4161600 0/1024 - rw discard_passdown queue_if_no_space - 1024 "
    pool.data.grow(1024 * GIB // 512)
    pool.change(sectors=1024 * GIB // 512)
    assert pool.status().total == 16777216
    thin = pool.thin(0)
    thin.fill((1024 * GIB) - MIB, MIB, seed=1)
    rig.restart(pool)
    status = pool.status()
    assert (status.meta_total, status.meta_low, status.used, status.mode) == (4161600, 1024, 16, "rw")
    pool.activate(0).verify((1024 * GIB) - MIB, MIB, seed=1)
