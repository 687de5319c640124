"""What the queues of pools and thins announce, block size by block size."""

import os
import platform
import re

import pytest
from lib import proc
from lib.dm import number
from lib.thin import GIB, KIB, MIB

RELEASE = tuple(int(n) for n in platform.release().split(".")[:2])
BLOCK_SIZES = [128, 1536, 2048, 2097152]


def pool_of(rig, bs, **named):
    return rig.pool(size=2 * GIB, bs=bs, **named)


def disk_attribute(disk, name):
    with open(f"/sys/dev/block/{number(disk.path)}/queue/{name}", encoding="ascii") as file:
        return int(file.read())


@pytest.mark.parametrize("bs", BLOCK_SIZES)
def test_sizes_follow_the_block(rig, bs):
    pool = pool_of(rig, bs)
    thin = pool.thin(0)
    assert pool.attribute("optimal_io_size") == thin.attribute("optimal_io_size") == pool.block
    assert pool.attribute("minimum_io_size") == thin.attribute("minimum_io_size")
    assert thin.attribute("discard_granularity") == pool.block
    assert thin.attribute("discard_max_bytes") == (16 * GIB if RELEASE < (6, 2) else 1024 * pool.block)
    # The pool's own device passes discards on as they are.
    for name in ("discard_granularity", "discard_max_bytes"):
        assert pool.attribute(name) == disk_attribute(pool.data, name)
    for device in (pool, thin):
        assert device.attribute("logical_block_size") == 512


@pytest.mark.parametrize("bs", BLOCK_SIZES)
def test_smallest_preferred_size(rig, bs):
    """The largest request, if blocks are made of whole ones; otherwise a block."""
    pool = pool_of(rig, bs)
    largest = disk_attribute(pool.data, "max_sectors_kb") * 2
    if largest < bs:
        largest = 1 << largest.bit_length() - 1
        while bs % largest:
            largest //= 2
    expected = bs if bs % largest else largest
    assert pool.thin(0).attribute("minimum_io_size") == expected * 512


@pytest.mark.skipif(RELEASE < (7, 0), reason="the figures are those of Linux 7")
@pytest.mark.parametrize(
    "bs, smallest, block, most",
    [
        (128, 64 * KIB, 64 * KIB, 64 * MIB),
        (1536, 768 * KIB, 768 * KIB, 768 * MIB),
        (2048, MIB, MIB, GIB),
        (2097152, MIB, GIB, 1024 * GIB),
    ],
    ids=str,
)
def test_figures_above_a_loop_device(rig, bs, smallest, block, most):
    pool = pool_of(rig, bs)
    assert disk_attribute(pool.data, "max_sectors_kb") == 1280
    thin = pool.thin(0)
    found = [thin.attribute(n) for n in ("minimum_io_size", "optimal_io_size", "discard_granularity", "discard_max_bytes")]
    assert found == [smallest, block, block, most]


@pytest.mark.parametrize("bs", [128, 2048])
def test_a_disk_that_prefers_larger_requests(rig, bs):
    """Its own preference stays if it is a multiple of the block."""
    disk = rig.null_blk(64 * MIB)
    pool = rig.pool(bs=bs, data=disk)
    wish = disk_attribute(disk, "optimal_io_size")
    expected = wish if wish >= pool.block and wish % pool.block == 0 else pool.block
    assert pool.thin(0).attribute("optimal_io_size") == expected


def test_discards_ignored(rig):
    pool = pool_of(rig, 128, features=["ignore_discard"])
    thin = pool.thin(0)
    for device in (pool, thin):
        assert device.attribute("discard_max_bytes") == 0
    assert thin.attribute("discard_granularity") == 0


def test_discards_not_passed_down(rig):
    pool = pool_of(rig, 128, features=["no_discard_passdown"])
    thin = pool.thin(0)
    assert thin.attribute("discard_granularity") == pool.block
    assert thin.attribute("discard_max_bytes") >= 1024 * pool.block
    if RELEASE >= (6, 12):
        assert pool.attribute("discard_max_bytes") == 0


def test_a_thin_always_has_a_write_cache(rig):
    """Even above a disk that has none: its mappings are what a flush makes durable."""
    disk = rig.null_blk(64 * MIB)
    pool = rig.pool(data=disk)
    thin = pool.thin(0)

    def cache(queue):
        with open(os.path.join(queue, "write_cache"), encoding="ascii") as file:
            return file.read().strip()

    assert cache(f"/sys/dev/block/{number(disk.path)}/queue") == "write through"
    assert cache(thin.queue) == "write back"
    assert thin.attribute("fua") == 1


def test_limits_are_those_of_the_moment_of_loading(rig):
    """A pool that stops passing discards down leaves the thins' limits as they are."""
    pool = rig.pool()
    thin = pool.thin(0)
    before = thin.attribute("discard_max_bytes")
    pool.change(features=["no_discard_passdown"])
    assert thin.attribute("discard_max_bytes") == before
    thin.reload(thin.table())
    assert thin.attribute("discard_max_bytes") == before
    thin.fill_blocks(0, 4, seed=1)
    thin.discard_blocks(0, 2)
    assert pool.status().used == 2


@pytest.mark.parametrize("bs", [128, 2048])
def test_file_systems_align_themselves(rig, bs):
    """mkfs takes the block for the stripe of an array."""
    pool = pool_of(rig, bs)
    thin = pool.thin(0)
    proc.run("mkfs.ext4", "-q", "-F", thin)
    said = proc.run("dumpe2fs", "-h", thin).out
    wide = re.search(r"RAID stripe width: +(\d+)", said)
    assert wide and int(wide.group(1)) * 4 * KIB == pool.block
    said = proc.run("mkfs.xfs", "-f", thin).out
    unit, width = (int(n) * 4 * KIB for n in re.search(r"sunit=(\d+) +swidth=(\d+)", said).groups())
    smallest = thin.attribute("minimum_io_size")
    assert (unit, width) == ((smallest, pool.block) if smallest < pool.block else (pool.block, pool.block))
