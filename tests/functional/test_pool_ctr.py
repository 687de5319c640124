"""What a thin-pool table must look like: every check of the constructor, and who may share a pool."""

import errno
import os
import struct

import pytest
from lib import io, metadata
from lib.dm import NO_SUCH_DEVICE, dmsetup, error_of, number
from lib.thin import GIB, KIB, MIB

EINVAL = errno.EINVAL


def refused(rig, table, readonly=False, device=None):
    """errno of a table that is refused at load (not later)."""
    if device is None:
        device = rig.device(kind="pool")
        device.create_empty()
    return error_of(device.load, table, readonly)


def all_refused(rig, tables, number):
    """Each of the tables is refused with this errno."""
    device = rig.device(kind="pool")
    device.create_empty()
    for table in tables:
        assert refused(rig, table, device=device) == number, table


@pytest.fixture
def disks(rig):
    return rig.disk(4 * MIB), rig.disk(64 * MIB)


# -- the form of the line ----------------------------------------------------------------


def test_too_few_arguments(rig, disks):
    meta, data = disks
    few = ["", f"{meta}", f"{meta} {data}", f"{meta} {data} 128"]
    all_refused(rig, ["0 131072 thin-pool " + arguments for arguments in few], EINVAL)


BAD_FEATURES = [
    "x",
    "-1",
    "0x1",
    "6 " + " ".join(["skip_block_zeroing"] * 6),
    "1",
    "2 skip_block_zeroing",
    "1 no_such_feature",
    "2 skip_block_zeroing no_such_feature",
    "1 skip_block_zeroings",
]
BAD_BLOCK_SIZES = ["0", "64", "127", "129", "192", "2097152000", "2097280", "0x80", "-128", "abc", "128k"]
BAD_MARKS = ["-1", "abc", "0x10", "18446744073709551616"]


def test_bad_features(rig, disks):
    meta, data = disks
    all_refused(rig, [f"0 131072 thin-pool {meta} {data} 128 0 {tail}" for tail in BAD_FEATURES], EINVAL)


def test_bad_block_size(rig, disks):
    meta, data = disks
    all_refused(rig, [f"0 131072 thin-pool {meta} {data} {bs} 0" for bs in BAD_BLOCK_SIZES], EINVAL)


def test_bad_low_water_mark(rig, disks):
    meta, data = disks
    all_refused(rig, [f"0 131072 thin-pool {meta} {data} 128 {mark}" for mark in BAD_MARKS], EINVAL)


@pytest.mark.parametrize("bs", [128, 384, 1024, 2048])
def test_good_block_size(rig, bs):
    pool = rig.pool(bs=bs)
    assert pool.status().total == 131072 // bs
    assert metadata.Superblock(pool.meta).data_block_size == bs


def test_largest_block_size(rig):
    pool = rig.pool(size=2 * GIB, bs=2097152)
    assert pool.status().total == 2
    assert pool.thin(0).status().text == "0 -"


@pytest.mark.parametrize("mark, shown", [("+5", "5"), ("0005", "5"), ("18446744073709551615", "18446744073709551615")])
def test_good_low_water_mark(rig, mark, shown):
    pool = rig.pool(low_water=mark)
    assert pool.table_text().split()[3] == shown


def test_features_any_case_any_order_collapsed(rig):
    pool = rig.pool(features=["ERROR_if_no_space", "No_Discard_Passdown", "skip_block_ZEROING", "skip_block_zeroing"])
    words = "3 skip_block_zeroing no_discard_passdown error_if_no_space"
    assert pool.table_text() == f"{number(pool.meta.path)} {number(pool.data.path)} 128 0 {words} "


@pytest.mark.improvement("B14")
def test_all_features_at_once(rig):
    pool = rig.pool()
    rig.stop(pool)
    words = ["skip_block_zeroing", "ignore_discard", "no_discard_passdown", "read_only", "error_if_no_space"]
    pool = rig.pool(meta=pool.meta, data=pool.data, features=words)
    assert pool.table_text().endswith(" 128 0 5 " + " ".join(words) + " ")


def test_words_behind_the_features_are_ignored(rig):
    pool = rig.pool(features=[], start=False)
    pool.create(pool.table() + " 1 skip_block_zeroing and more 7")
    assert pool.table_text().endswith(" 128 0 1 skip_block_zeroing ")


def test_same_device_string_for_both(rig, disks):
    _, data = disks
    assert refused(rig, f"0 131072 thin-pool {data} {data} 128 0") == EINVAL


@pytest.mark.improvement("B13")
def test_same_device_under_two_names(rig, disks):
    _, data = disks
    for tail in ("", " 1 read_only"):
        assert refused(rig, f"0 131072 thin-pool {number(data.path)} {data} 128 0{tail}") == EINVAL


def test_missing_devices(rig, disks):
    meta, data = disks
    assert refused(rig, f"0 131072 thin-pool /dev/no-such-disk {data} 128 0") in NO_SUCH_DEVICE
    assert refused(rig, f"0 131072 thin-pool {meta} /dev/no-such-disk 128 0") in NO_SUCH_DEVICE


def test_busy_devices(rig, disks):
    meta, data = disks
    for busy in disks:
        fd = os.open(busy.path, os.O_RDWR | os.O_EXCL)
        try:
            assert refused(rig, f"0 131072 thin-pool {meta} {data} 128 0") == errno.EBUSY
        finally:
            os.close(fd)


def test_metadata_that_cannot_be_written(rig, formatted):
    """The core opens such a device all the same; the first commit fails, and nothing older is lost."""
    formatted.meta.attach_again(read_only=True)
    pool = rig.pool(meta=formatted.meta, data=formatted.data)
    thin = pool.activate(3)
    thin.verify_blocks(0, 2, seed=1)
    thin.fill_blocks(2, 1, seed=1)
    assert io.error_of(thin.flush) == errno.EIO
    status = pool.status()
    assert (status.mode, status.needs_check, status.used) == ("ro", True, 2)
    assert io.error_of(thin.fill_blocks, 3, 1, seed=1) == errno.EIO
    thin.verify_blocks(0, 2, seed=1)
    thin.fill_blocks(0, 2, seed=2)
    rig.stop_quietly(pool)
    formatted.meta.attach_again(read_only=False)
    pool = rig.pool(meta=formatted.meta, data=formatted.data)
    assert (pool.status().mode, pool.status().used) == ("rw", 2)
    pool.activate(3).verify_blocks(0, 2, seed=2)


def test_blank_metadata_that_cannot_be_written(rig, disks):
    meta, data = disks
    meta.attach_again(read_only=True)
    # The stock module at times looks at what it failed to write before it sees that it failed.
    assert refused(rig, f"0 131072 thin-pool {meta} {data} 128 0") in (errno.EIO, errno.ENOTBLK)
    io.verify_zero(meta.path, 0, 4 * MIB)


def test_data_that_cannot_be_written(rig, formatted):
    formatted.data.attach_again(read_only=True)
    pool = rig.pool(meta=formatted.meta, data=formatted.data)
    thin = pool.activate(3)
    for first in (2, 0):
        assert io.error_of(thin.fill_blocks, first, 1, seed=2) == errno.EIO
    thin.verify_blocks(0, 2, seed=1)
    assert (pool.status().mode, pool.status().needs_check) == ("rw", False)
    pool.checked = False  # the stock module has lost a block (B6)


def test_must_be_alone_and_start_at_zero(rig, disks):
    meta, data = disks
    pool = f"thin-pool {meta} {data} 128 0"
    assert refused(rig, f"8 131064 {pool}") == EINVAL
    assert refused(rig, f"0 65536 {pool}\n65536 8 zero") == EINVAL
    assert refused(rig, f"0 8 zero\n8 65536 {pool}") == EINVAL
    assert refused(rig, f"0 0 {pool}") == EINVAL


def test_readonly_table_is_refused(rig, disks):
    meta, data = disks
    assert refused(rig, f"0 131072 thin-pool {meta} {data} 128 0", readonly=True) == EINVAL


def test_data_device_too_small(rig, disks):
    meta, data = disks
    assert refused(rig, f"0 131080 thin-pool {meta} {data} 128 0") == EINVAL


def test_length_must_fit_the_logical_blocks(rig, disks):
    data = rig.disk(64 * MIB, sector_size=4096)
    assert refused(rig, f"0 131068 thin-pool {disks[0]} {data} 128 0") == EINVAL
    assert refused(rig, f"0 131064 thin-pool {disks[0]} {data} 128 0") is None


def test_first_failure_wins(rig, disks):
    """Seen from outside where the errnos of two mistakes differ."""
    meta, data = disks
    pool = rig.pool()
    missing = "/dev/no-such-disk"
    cases = [
        (f"{missing} {data} 128 0 1 no_such_feature", (EINVAL,)),
        (f"{missing} {missing} 128 0", (EINVAL,)),
        (f"{missing} {data} 100 0", NO_SUCH_DEVICE),
        (f"{meta} {missing} 128 x", NO_SUCH_DEVICE),
        (f"{pool.meta} {data} 100 0", (EINVAL,)),
        (f"{pool.meta} {data} 128 x", (EINVAL,)),
        (f"{pool.meta} {rig.disk(MIB)} 128 0", (errno.EBUSY,)),  # and it is too small
    ]
    for arguments, expected in cases:
        assert refused(rig, f"0 131072 thin-pool {arguments}") in expected, arguments


def test_length_is_rounded_down_to_blocks(rig):
    pool = rig.pool(start=False)
    pool.create(pool.table(sectors=3 * 128 + 64))
    assert pool.status().total == 3


def test_pool_without_a_whole_block(rig):
    pool = rig.pool(start=False)
    pool.create(pool.table(sectors=64))
    assert pool.status().total == 0
    assert error_of(pool.create_thin, 0) is None


def test_target_type_of_a_live_pool_cannot_change(rig):
    pool = rig.pool()
    assert error_of(pool.load, f"0 131072 linear {pool.data} 0") == EINVAL
    assert error_of(pool.load, "0 131072 error") is None
    pool.clear()


# -- who shares a pool -------------------------------------------------------------------


def test_metadata_in_use_by_another_pool(rig):
    pool = rig.pool()
    other = rig.disk(64 * MIB)
    assert refused(rig, f"0 131072 thin-pool {pool.meta} {other} 128 0") == errno.EBUSY


def test_reload_with_another_data_device(rig):
    pool = rig.pool()
    other = rig.disk(64 * MIB)
    assert error_of(pool.load, pool.table(data=other)) == errno.EBUSY


def test_reload_with_other_metadata(rig):
    pool = rig.pool()
    other = rig.disk(4 * MIB)
    assert error_of(pool.load, pool.table(meta=other)) == EINVAL


def test_two_pools_may_share_a_data_device(rig):
    pool = rig.pool()
    other = rig.pool(data=pool.data)
    assert other.status().total == pool.status().total == 1024


def test_reload_checks_the_form_of_the_block_size(rig):
    pool = rig.pool()
    assert error_of(pool.load, pool.table(bs=129)) == EINVAL


@pytest.mark.improvement("B14")
def test_reload_with_another_block_size(rig):
    pool = rig.pool()
    assert error_of(pool.load, pool.table(bs=256)) == EINVAL


def test_ignore_discard_cannot_be_toggled(rig):
    pool = rig.pool()
    assert error_of(pool.load, pool.table(features=["ignore_discard"])) == EINVAL
    other = rig.pool(features=["ignore_discard"])
    assert error_of(other.load, other.table(features=[])) == EINVAL


def test_a_loaded_table_changes_nothing_before_resume(rig):
    pool = rig.pool()
    pool.load(pool.table(low_water=77, features=["error_if_no_space"]))
    devices = f"{number(pool.meta.path)} {number(pool.data.path)}"
    assert pool.table_text() == f"{devices} 128 0 0 "
    assert pool.table_text(inactive=True) == f"{devices} 128 77 1 error_if_no_space "
    assert pool.status().no_space == "queue_if_no_space"
    live = dmsetup("status", "--inactive", pool.name)
    assert live.rstrip("\n") == pool.status_line()
    pool.cycle()
    assert pool.table_text() == f"{devices} 128 77 1 error_if_no_space "
    assert pool.status().no_space == "error_if_no_space"


def test_a_cleared_table_is_forgotten(rig):
    pool = rig.pool()
    pool.load(pool.table(features=["error_if_no_space"]))
    pool.clear()
    pool.cycle()
    assert pool.status().no_space == "queue_if_no_space"


# -- formatting and opening --------------------------------------------------------------


def test_blank_metadata_is_formatted_at_load(rig):
    pool = rig.pool(start=False)
    pool.create_empty()
    assert metadata.Superblock(pool.meta).magic == 0
    pool.load(pool.table())
    found = metadata.Superblock(pool.meta)
    assert (found.magic, found.version, found.data_block_size) == (27022010, 2, 128)
    assert (found.metadata_blocks, found.data_blocks, found.transaction_id) == (1024, 0, 0)
    pool.resume()
    pool.status()


def test_blank_metadata_read_only(rig, disks):
    meta, data = disks
    assert refused(rig, f"0 131072 thin-pool {meta} {data} 128 0 1 read_only") == errno.EPERM
    io.verify_zero(meta.path, 0, 4096)


@pytest.mark.parametrize("place", [0, 8, 100, 4095])
def test_garbage_is_not_formatted(rig, disks, place):
    meta, data = disks
    block = bytearray(4096)
    block[place] = 1
    io.write(meta.path, 0, block)
    assert refused(rig, f"0 131072 thin-pool {meta} {data} 128 0") in (errno.EILSEQ, errno.ENOTBLK)
    assert io.read(meta.path, 0, 4096) == bytes(block)


@pytest.fixture
def formatted(rig):
    """A pool's disks after a clean life."""
    pool = rig.pool()
    pool.thin(3).fill_blocks(0, 2, seed=1)
    rig.stop(pool)
    return pool


@pytest.mark.parametrize(
    "changes, checksum, expected",
    [
        ({200: b"\x55"}, False, errno.EILSEQ),
        ({0: b"\0\0\0\0"}, False, errno.EILSEQ),
        ({32: b"\x77"}, True, errno.EILSEQ),
        ({8: b"\1"}, True, errno.ENOTBLK),
        ({336: struct.pack("<I", 256)}, True, EINVAL),
        ({356: b"\1"}, True, EINVAL),
        ({360: b"\1"}, True, EINVAL),
    ],
    ids=["checksum", "no-checksum", "magic", "blocknr", "block-size", "ro-compat", "incompat"],
)
def test_damaged_superblock(rig, formatted, changes, checksum, expected):
    metadata.patch_superblock(formatted.meta, changes, checksum)
    before = io.read(formatted.meta.path, 0, 4 * MIB)
    assert refused(rig, formatted.table()) == expected
    assert io.read(formatted.meta.path, 0, 4 * MIB) == before, "a refused pool was written to"


def test_read_only_pool_with_newer_features(rig, formatted):
    """It writes nothing, but its metadata could be written to: only a device that cannot makes the first kind harmless."""
    table = formatted.table(features=["read_only"])
    for place, harmless in ((356, True), (360, False)):
        metadata.patch_superblock(formatted.meta, {place: b"\1"})
        assert refused(rig, table) == EINVAL
        formatted.meta.attach_again(read_only=True)
        device = rig.device(kind="pool")
        device.create_empty()
        assert refused(rig, table, device=device) == (None if harmless else EINVAL)
        device.clear()
        formatted.meta.attach_again(read_only=False)
        metadata.patch_superblock(formatted.meta, {place: b"\0"})
    assert refused(rig, table) is None


def test_compatible_feature_bits_are_ignored(rig, formatted):
    metadata.patch_superblock(formatted.meta, {352: b"\1"})
    assert refused(rig, formatted.table()) is None


def test_block_size_differs_from_the_one_on_disk(rig, formatted):
    assert refused(rig, formatted.table(bs=256)) == EINVAL


def test_unreadable_metadata(rig, disks):
    meta = rig.switch()
    meta.fail_all()
    assert refused(rig, f"0 131072 thin-pool {meta} {disks[1]} 128 0") == errno.EIO


@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 7])
def test_metadata_too_small_to_format(rig, disks, blocks):
    meta = rig.disk(blocks * 4 * KIB)
    expected = (EINVAL,) if blocks < 3 else (EINVAL, errno.ENOSPC)
    assert refused(rig, f"0 131072 thin-pool {meta} {disks[1]} 128 0") in expected


@pytest.mark.parametrize("blocks", [8, 9, 10, 11])
def test_metadata_too_small_to_use(rig, blocks):
    """Refused when it is to be activated, or without space for anything at once; never taken for a usable pool."""
    pool = rig.pool(size=8 * MIB, meta=blocks * 4 * KIB, start=False)
    pool.create_empty()
    assert error_of(pool.load, pool.table()) is None
    found = error_of(pool.resume)
    if found is None:
        error_of(pool.create_thin, 0)
        assert pool.status().mode == "ro"
    else:
        assert found == errno.ENOSPC
    pool.checked = False


@pytest.mark.parametrize("blocks", [12, 13])
def test_metadata_just_large_enough(rig, blocks):
    pool = rig.pool(size=8 * MIB, meta=blocks * 4 * KIB)
    status = pool.status()
    assert (status.mode, status.needs_check, status.meta_total) == ("rw", False, blocks)


def test_smallest_usable_metadata(rig):
    pool = rig.pool(size=8 * MIB, meta=16 * 4 * KIB)
    status = pool.status()
    assert (status.mode, status.meta_total, status.meta_low) == ("rw", 16, 4)


def test_metadata_length_is_rounded_down(rig):
    pool = rig.pool(meta=4 * MIB + 2048)
    assert pool.status().meta_total == 1024


def test_reopening_finds_everything(rig):
    pool = rig.pool()
    thin = pool.thin(7)
    thin.fill_blocks(0, 8, seed=1)
    thin.fill_blocks(100, 1, seed=1)
    pool.message("set_transaction_id 0 42")
    before = pool.status()
    rig.restart(pool)
    after = pool.status()
    assert after.transaction_id == 42
    assert (after.used, after.total, after.mode) == (before.used, before.total, "rw")
    thin = pool.activate(7)
    assert thin.status().text == f"{9 * 128} {101 * 128 - 1}"
    thin.verify_blocks(0, 8, seed=1)
    thin.verify_blocks(100, 1, seed=1)
    thin.zero_blocks(8, 8)


def test_activation_and_deactivation_write_nothing(rig, formatted):
    before = io.read(formatted.meta.path, 0, 4 * MIB)
    pool = rig.pool(meta=formatted.meta, data=formatted.data)
    thin = pool.activate(3)
    thin.verify_blocks(0, 2, seed=1)
    thin.zero_blocks(2, 2)
    thin.fill_blocks(1, 1, seed=2)
    pool.status()
    rig.stop(pool)
    assert io.read(formatted.meta.path, 0, 4 * MIB) == before
