"""The thin tools on a pool of LVM, live and inactive, and pools that were not taken down in order."""

import re

import pytest
from lib import io, metadata, proc
from lib.lvm import Offline, group, lvm  # noqa: F401
from lib.thin import KIB, MIB

BLOCK = 64 * KIB


def blocks(found):
    return {device: set(mapped) for device, mapped in found.items()}


def thin_delta(disk, first, second, *options):
    """{kind: set of thin blocks} of what differs between two volumes."""
    said = proc.run(
        metadata.tool("thin_delta", "1"), *options, "--thin1", first, "--thin2", second, disk
    ).out
    found = {}
    for kind, begin, length in re.findall(r'<(\w+) begin="(\d+)" length="(\d+)"', said):
        found.setdefault(kind, set()).update(range(int(begin), int(begin) + int(length)))
    return found


def thin_ls(disk, *options):
    """{device: (mapped, exclusive, shared)} in blocks."""
    said = proc.run(
        metadata.tool("thin_ls", "1"), *options, "--no-headers",
        "-o", "DEV,MAPPED_BLOCKS,EXCLUSIVE_BLOCKS,SHARED_BLOCKS", disk,
    ).out  # fmt: skip
    rows = [[int(word) for word in line.split()] for line in said.splitlines() if line.strip()]
    return {device: (mapped, exclusive, shared) for device, mapped, exclusive, shared in rows}


def origin_and_snapshot(group):
    """thin (id 1) has blocks 0 to 31, the first 8 and block 40 unshared; snap (id 2) has 0 to 31."""
    pool, thin = group.create_both()
    thin.fill(0, 32 * BLOCK, seed=1)
    snap = group.snapshot(thin, "snap", activate=False)
    thin.fill(0, 8 * BLOCK, seed=2)
    thin.fill(40 * BLOCK, BLOCK, seed=2)
    return pool, thin, snap


WHOLE = set(range(32))


def test_tools_on_the_metadata_snapshot_of_a_live_pool(group):
    pool, thin, _ = origin_and_snapshot(group)
    pool.target.message("reserve_metadata_snap")
    assert pool.status().held != "-"
    # What happens from now on the tools may not see.
    thin.fill(100 * BLOCK, 10 * BLOCK, seed=3)
    thin.fill(0, 16 * BLOCK, seed=3)
    thin.discard(20 * BLOCK, 4 * BLOCK)
    group.create_thin("later", 4 * MIB)

    disk = pool.tmeta.path
    assert blocks(metadata.mappings(disk, "-m")) == {1: WHOLE | {40}, 2: WHOLE}
    assert thin_ls(disk, "-m") == {1: (33, 9, 24), 2: (32, 8, 24)}
    assert thin_delta(disk, 2, 1, "-m") == {
        "same": set(range(8, 32)), "different": set(range(8)), "right_only": {40},
    }  # fmt: skip
    # Not without: the kernel claims the device.
    assert proc.run(metadata.tool("thin_ls", "1"), disk, check=False).status != 0

    pool.target.message("release_metadata_snap")
    assert pool.status().held == "-"
    pool.target.message("reserve_metadata_snap")
    assert set(metadata.mappings(disk, "-m")) == {1, 2, 3}
    pool.target.message("release_metadata_snap")
    thin.verify(0, 16 * BLOCK, seed=3)


@pytest.mark.heavy
def test_tools_on_an_inactive_pool(group, rig):
    pool, _, _ = origin_and_snapshot(group)
    offline = Offline(rig, pool)
    group.deactivate()
    with offline as (tmeta, _):
        mapped = metadata.mappings(tmeta)
        assert blocks(mapped) == {1: WHOLE | {40}, 2: WHOLE}
        assert thin_ls(tmeta) == {1: (33, 9, 24), 2: (32, 8, 24)}
        assert thin_delta(tmeta, 1, 2) == {
            "same": set(range(8, 32)), "different": set(range(8)), "left_only": {40},
        }  # fmt: skip
        said = proc.run(metadata.tool("thin_rmap", "1"), "--region", "0..512", tmeta).out
        owners = {}
        for data, data_end, device, first, end in re.findall(
            r"data (\d+)\.\.(\d+) -> thin\((\d+)\) (\d+)\.\.(\d+)", said
        ):
            assert int(data_end) - int(data) == int(end) - int(first)
            for n in range(int(end) - int(first)):
                owners.setdefault(int(device), {})[int(first) + n] = int(data) + n
        assert owners == mapped


@pytest.mark.heavy
def test_trim_of_an_inactive_pool(group, rig):
    """thin_trim discards what no volume maps, and nothing else."""
    disk = group.disks[0]
    pool, thin = group.create_both(options=["--discards", "nopassdown"])
    thin.fill(0, 8 * MIB, seed=1)
    thin.discard(2 * MIB, 4 * MIB)
    offline = Offline(rig, pool)
    group.deactivate()
    before = disk.used_bytes()
    with offline as (tmeta, tdata):
        proc.run("thin_trim", "--metadata-dev", tmeta, "--data-dev", tdata)
    assert disk.used_bytes() <= before - 4 * MIB
    group.activate()
    thin.verify(0, 2 * MIB, seed=1)
    thin.verify_zero(2 * MIB, 4 * MIB)
    thin.verify(6 * MIB, 2 * MIB, seed=1)


# -- crashes -------------------------------------------------------------------------------


def freeze_and_copy(pool, disk, copy):
    """What both devices of the pool hold at one moment, while it works."""
    for part in (pool.tdata, pool.tmeta):
        part.suspend(noflush=True)
    try:
        proc.run("dd", f"if={disk.file}", f"of={copy.file}", "bs=64K", "conv=notrunc,sparse", "status=none")
    finally:
        for part in (pool.tmeta, pool.tdata):
            part.resume()


def test_activation_after_a_crash(group, rig):
    disk, copy = group.disks[0], rig.disk(96 * MIB)
    pool, thin = group.create_both(size=48 * MIB, virtual=32 * MIB)
    thin.fill(0, 2 * MIB, seed=1)
    snap = group.snapshot(thin, "snap", activate=False)
    thin.fill(0, MIB, seed=2)
    thin.flush()
    job = io.Job(io.fill, thin.path, 4 * MIB, 24 * MIB, 3)
    freeze_and_copy(pool, disk, copy)
    job.result()
    group.deactivate()

    group.use(copy)
    group.activate()
    thin.verify(0, MIB, seed=2)
    thin.verify(MIB, MIB, seed=1)
    # Of the writes that nobody flushed each block is there or not, but it holds nothing else.
    for at in range(4 * MIB, 28 * MIB, MIB):
        found, wanted = thin.read(at, MIB), io.pattern(3, at, MIB)
        for n in range(0, MIB, 4096):
            piece = found[n : n + 4096]
            assert piece in (wanted[n : n + 4096], b"\0" * 4096), f"strange data at byte {at + n}"
    group.lvm("lvchange", "-ay", "-K", snap.full_name)
    snap.verify(0, 2 * MIB, seed=1)
    thin.fill(4 * MIB, 4 * MIB, seed=4)
    thin.verify(4 * MIB, 4 * MIB, seed=4)
    group.snapshot(thin, "after")
    group.lvm("lvremove", "-y", snap.full_name)


@pytest.mark.heavy
def test_activation_after_devices_vanished(group):
    """Somebody removed the devices behind LVM's back."""
    pool, thin = group.create_both()
    thin.fill(0, MIB, seed=1)
    group.drop()
    assert not pool.active
    group.activate()
    thin.verify(0, MIB, seed=1)
    group.create_thin("other", 4 * MIB)
    assert pool.status().transaction_id == 2


@pytest.mark.heavy
def test_crash_before_the_message_was_sent(group, rig):
    """LVM's metadata is one transaction ahead of the pool's and holds the message: it catches up."""
    pool, thin = group.create_both()
    thin.fill(0, MIB, seed=1)
    offline = Offline(rig, pool)
    group.deactivate()
    with offline as (tmeta, _):
        before = io.read(tmeta, 0, 2 * MIB)
    group.activate()
    later = group.create_thin("later", 4 * MIB)
    group.deactivate()
    with offline as (tmeta, _):
        io.write(tmeta, 0, before)
    # LVM drops the message once it was sent.
    text = group.description()
    assert "transaction_id = 2" in text and "message1" not in text
    group.restore_description(
        text.replace("transaction_id = 2", 'transaction_id = 2\nmessage1 {\ncreate = "later"\n}', 1)
    )
    assert "message1" in group.description()

    group.lvm("lvchange", "-ay", thin.full_name)
    assert pool.status().transaction_id == 1
    # The next change of the pool sends what is left over first.
    third = group.create_thin("third", 4 * MIB)
    assert pool.status().transaction_id == 3
    assert "message1" not in group.description()
    group.activate()
    for volume in (later, third):
        volume.fill(0, MIB, seed=2)
        volume.verify(0, MIB, seed=2)
    thin.verify(0, MIB, seed=1)
