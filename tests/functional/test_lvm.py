"""LVM on the module, as an administrator uses it: making, snapshots, merging, growing, moving, removing."""

import pytest
from lib import io, proc
from lib.dm import number
from lib.lvm import PoolVolume, Volume, both_modules, group, lvm, modules  # noqa: F401
from lib.thin import GIB, KIB, MIB

# -- loading, activating -----------------------------------------------------------------


def test_lvm_loads_the_module(modules, group):
    start = modules.start
    modules.use("none")
    group.create_both()
    assert modules.now() == start


@pytest.mark.heavy
def test_volumes_outlive_deactivation(group):
    pool, thin = group.create_both()
    thin.fill(0, 3 * MIB, seed=1)
    thin.fill(10 * MIB, 64 * KIB, seed=1)
    assert pool.status().transaction_id == 1
    assert thin.percent("data") == pytest.approx(100 * 49 / 256, abs=0.01)
    assert pool.percent("data") == pytest.approx(100 * 49 / 512, abs=0.01)
    group.deactivate()
    assert not group.devices()
    group.activate()
    thin.verify(0, 3 * MIB, seed=1)
    thin.verify_zero(3 * MIB, 7 * MIB)
    thin.verify(10 * MIB, 64 * KIB, seed=1)
    assert (pool.status().used, thin.status().mapped) == (49, 49 * 128)


def test_tables_as_lvm_writes_them(group):
    pool, thin = group.create_both()
    data, meta = number(pool.tdata.path), number(pool.tmeta.path)
    assert pool.target.table_line() == f"0 65536 thin-pool {meta} {data} 128 0 0 "
    assert thin.table_line() == f"0 32768 thin {number(pool.target.path)} 1"
    group.configure(threshold=80)
    group.lvm("lvchange", "--refresh", pool.full_name)
    assert pool.target.table_line().split()[6] == str(512 * 20 // 100)


# -- snapshots ---------------------------------------------------------------------------


def test_snapshot_of_an_active_volume(group):
    pool, thin = group.create_both()
    thin.fill(0, 2 * MIB, seed=1)
    snap = group.snapshot(thin, "snap")
    thin.fill(MIB, MIB, seed=2)
    second = group.snapshot(snap, "second")
    snap.fill(0, 64 * KIB, seed=3)
    thin.verify(0, MIB, seed=1)
    thin.verify(MIB, MIB, seed=2)
    snap.verify(0, 64 * KIB, seed=3)
    snap.verify(64 * KIB, 2 * MIB - 64 * KIB, seed=1)
    second.verify(0, 2 * MIB, seed=1)
    assert pool.status().used == 32 + 16 + 1
    assert pool.status().transaction_id == 3

    group.lvm("lvremove", "-y", thin.full_name)
    assert pool.status().used == 32 + 1
    group.lvm("lvremove", "-y", snap.full_name)
    second.verify(0, 2 * MIB, seed=1)
    group.lvm("lvremove", "-y", second.full_name)
    status = pool.status()
    assert (status.used, status.mode) == (0, "rw")


@pytest.mark.heavy
def test_snapshot_is_inactive_at_first(group):
    _, thin = group.create_both()
    thin.fill(0, MIB, seed=1)
    snap = group.snapshot(thin, "snap", activate=False)
    assert not snap.active
    thin.fill(0, MIB, seed=2)
    group.lvm("lvchange", "-ay", "-K", snap.full_name)
    snap.verify(0, MIB, seed=1)


def test_merge_of_an_inactive_volume(group):
    pool, thin = group.create_both()
    thin.fill(0, 2 * MIB, seed=1)
    snap = group.snapshot(thin, "snap", activate=False)
    thin.fill(0, MIB, seed=2)
    group.lvm("lvchange", "-an", thin.full_name)
    group.lvm("lvconvert", "--merge", snap.full_name)
    group.lvm("lvchange", "-ay", thin.full_name)
    thin.verify(0, 2 * MIB, seed=1)
    assert pool.status().used == 32
    assert "snap" not in group.lvm("lvs", group.name)


@pytest.mark.heavy
def test_merge_waits_until_the_origin_is_closed(group):
    pool, thin = group.create_both()
    thin.fill(0, 2 * MIB, seed=1)
    snap = group.snapshot(thin, "snap", activate=False)
    thin.fill(0, MIB, seed=2)
    with open(thin.path, "rb"):
        group.lvm("lvconvert", "--merge", snap.full_name)
        thin.verify(0, MIB, seed=2)
        assert thin.field("lv_attr")[0] == "O"
    group.lvm("lvchange", "-an", thin.full_name)
    group.lvm("lvchange", "-ay", thin.full_name)
    thin.verify(0, 2 * MIB, seed=1)
    assert pool.status().used == 32


# -- external origins --------------------------------------------------------------------


def read_only_origin(group, size):
    """A plain volume that is filled, inactive and read-only, as an external origin has to be."""
    group.lvm("lvcreate", "--yes", "-L", f"{size}b", "-n", "origin", group.name)
    io.fill(f"/dev/mapper/{group.name}-origin", 0, size, 7)
    group.lvm("lvchange", "-an", f"{group.name}/origin")
    group.lvm("lvchange", "-pr", f"{group.name}/origin")


# Five blocks of 192 KiB and a third of one.
@pytest.mark.parametrize(
    "chunk, size",
    [pytest.param("64k", 4 * MIB, id="whole", marks=pytest.mark.heavy), pytest.param("192k", MIB, id="tail")],
)
def test_external_origin(group, chunk, size):
    pool = group.create_pool(size=24 * MIB, options=["-c", chunk])
    read_only_origin(group, size)
    group.lvm(
        "lvcreate", "--yes", "-s", "-kn", "-n", "ext", "--thinpool", pool.full_name, f"{group.name}/origin"
    )
    ext = Volume(group, "ext")
    ext.verify(0, size, seed=7)
    assert ext.status().mapped == 0
    ext.fill(0, 4 * KIB, seed=1)
    ext.fill(size - 4 * KIB, 4 * KIB, seed=1)
    ext.verify(0, 4 * KIB, seed=1)
    ext.verify(4 * KIB, size - 8 * KIB, seed=7)
    ext.verify(size - 4 * KIB, 4 * KIB, seed=1)

    # Beyond the origin's end the volume has zeros, in the block of the tail as well.
    group.lvm("lvextend", "-L", f"{2 * size}b", ext.full_name)
    ext.verify_zero(size, size)
    ext.fill(size + 64 * KIB, 4 * KIB, seed=2)
    ext.verify(size - 4 * KIB, 4 * KIB, seed=1)
    ext.verify_zero(size, 64 * KIB)
    ext.verify(size + 64 * KIB, 4 * KIB, seed=2)
    group.lvm("lvreduce", "-f", "-L", f"{size}b", ext.full_name)
    group.lvm("lvextend", "-L", f"{2 * size}b", ext.full_name)
    ext.verify(4 * KIB, size - 8 * KIB, seed=7)
    ext.verify(size + 64 * KIB, 4 * KIB, seed=2)


@pytest.mark.heavy
def test_volume_turned_into_a_thin_with_external_origin(group):
    pool = group.create_pool()
    group.lvm("lvcreate", "--yes", "-L", f"{4 * MIB}b", "-n", "vol", group.name)
    vol, old = Volume(group, "vol"), Volume(group, "old")
    vol.fill(0, 4 * MIB, seed=7)
    group.lvm("lvconvert", "--yes", "--thin", "--thinpool", pool.full_name, "--originname", "old", vol.full_name)
    vol.fill(0, MIB, seed=1)
    vol.verify(0, MIB, seed=1)
    vol.verify(MIB, 3 * MIB, seed=7)
    group.deactivate()
    group.activate()
    vol.verify(0, MIB, seed=1)
    vol.verify(MIB, 3 * MIB, seed=7)
    old.verify(0, 4 * MIB, seed=7)


# -- growth ------------------------------------------------------------------------------


def test_growth_below_a_writer(group):
    pool, thin = group.create_both(size=8 * MIB, virtual=32 * MIB)
    job = io.Job(io.fill, thin.path, 0, 20 * MIB, 1)
    group.lvm("lvextend", "-L", f"{16 * MIB}b", pool.full_name)
    group.lvm("lvextend", "--poolmetadatasize", f"+{2 * MIB}b", pool.full_name)
    group.lvm("lvextend", "-L", f"{24 * MIB}b", pool.full_name)
    job.result()
    thin.verify(0, 20 * MIB, seed=1)
    status = pool.status()
    assert (status.total, status.meta_total, status.used, status.mode) == (384, 1024, 320, "rw")


@pytest.mark.heavy
def test_growth_of_the_volume(group):
    _, thin = group.create_both(virtual=4 * MIB)
    thin.fill(0, 4 * MIB, seed=1)
    group.lvm("lvextend", "-L", f"{8 * MIB}b", thin.full_name)
    thin.fill(7 * MIB, MIB, seed=1)
    thin.verify(0, 4 * MIB, seed=1)
    thin.verify_zero(4 * MIB, 3 * MIB)
    thin.verify(7 * MIB, MIB, seed=1)


@pytest.mark.heavy
def test_growth_while_inactive(group):
    pool, thin = group.create_both(size=8 * MIB)
    thin.fill(0, 8 * MIB, seed=1)
    group.deactivate()
    group.lvm("lvextend", "-L", f"{16 * MIB}b", pool.full_name)
    group.lvm("lvextend", "--poolmetadatasize", f"+{2 * MIB}b", pool.full_name)
    group.activate()
    status = pool.status()
    assert (status.total, status.meta_total) == (256, 1024)
    thin.fill(8 * MIB, 8 * MIB, seed=1)
    thin.verify(0, 16 * MIB, seed=1)


@pytest.mark.heavy
def test_metadata_of_16_gib(lvm, rig):
    """More than a pool can use: the table has all of it, the status what is used."""
    group = lvm.create(rig.disk(17 * GIB))
    group.lvm(
        "lvcreate", "--yes", "--thin", "-L", "32m", "-V", "16m", "--poolmetadatasize", "16g", "--poolmetadataspare", "n",
        "--config", "allocation/zero_metadata=0", "-n", "thin", f"{group.name}/pool",
    )  # fmt: skip
    pool, thin = PoolVolume(group, "pool"), Volume(group, "thin")
    assert int(pool.tmeta.table_line().split()[1]) >= 4161600 * 8
    thin.fill(0, MIB, seed=1)
    thin.verify(0, MIB, seed=1)
    status = pool.status()
    assert status.meta_total == 4161600
    group.checked = False  # thin_check 0.9 would read all of the bitmaps


# -- features ----------------------------------------------------------------------------


def test_discards_are_changed_online(group):
    pool, thin = group.create_both()
    assert pool.words == [] and pool.status().discard == "discard_passdown"
    assert pool.field("discards") == pool.field("kernel_discards") == "passdown"
    used = group.disks[0].used_bytes
    thin.fill(0, 4 * MIB, seed=1)
    full = used()
    group.lvm("lvchange", "--discards", "nopassdown", pool.full_name)
    assert pool.words == ["no_discard_passdown"] and pool.status().discard == "no_discard_passdown"
    assert pool.field("kernel_discards") == "nopassdown"
    thin.discard(0, 2 * MIB)
    assert pool.status().used == 32
    assert used() >= full

    group.lvm("lvchange", "--discards", "passdown", pool.full_name)
    assert pool.words == [] and pool.status().discard == "discard_passdown"
    thin.discard(2 * MIB, 2 * MIB)
    assert pool.status().used == 0
    thin.verify_zero(0, 4 * MIB)
    proc.wait_for(lambda: used() <= full - 2 * MIB, "the discard reaches the disk")


@pytest.mark.heavy
def test_discards_ignored(group):
    pool, thin = group.create_both(options=["--discards", "ignore"])
    assert pool.words == ["ignore_discard"] and pool.status().discard == "ignore_discard"
    thin.fill(0, MIB, seed=1)
    with pytest.raises(OSError):
        thin.discard(0, MIB)
    assert pool.status().used == 16
    group.deactivate()
    group.lvm("lvchange", "--discards", "nopassdown", pool.full_name)
    group.activate()
    thin.discard(0, MIB)
    assert pool.status().used == 0


@pytest.mark.heavy
def test_passdown_over_a_disk_without_discards(lvm, rig):
    group = lvm.create(rig.null_blk(64 * MIB))
    pool, thin = group.create_both()
    assert pool.field("discards") == "passdown"
    assert pool.status().discard == "no_discard_passdown"
    assert pool.field("kernel_discards") == "nopassdown"
    thin.fill(0, MIB, seed=1)
    thin.discard(0, MIB)
    assert pool.status().used == 0


@pytest.mark.heavy
def test_error_when_full_is_changed_online(group):
    pool, _ = group.create_both(options=["--errorwhenfull", "y"])
    assert pool.words == ["error_if_no_space"] and pool.status().no_space == "error_if_no_space"
    assert pool.field("lv_when_full") == "error"
    group.lvm("lvchange", "--errorwhenfull", "n", pool.full_name)
    assert pool.words == [] and pool.status().no_space == "queue_if_no_space"
    assert pool.field("lv_when_full") == "queue"


@pytest.mark.heavy
@pytest.mark.parametrize("zero", ["y", "n"])
def test_zeroing(group, zero):
    """What a volume left in its blocks shows through in the next one only if zeroing is off."""
    pool, thin = group.create_both(size=4 * MIB, virtual=4 * MIB, options=["--discards", "nopassdown"])
    thin.fill(0, 4 * MIB, seed=1)
    group.lvm("lvremove", "-y", thin.full_name)
    if zero == "n":
        group.lvm("lvchange", "--zero", zero, pool.full_name)
    assert pool.words == {"y": ["no_discard_passdown"], "n": ["skip_block_zeroing", "no_discard_passdown"]}[zero]
    new = group.create_thin("new", 4 * MIB)
    new.fill(64 * KIB, 4 * KIB, seed=2)
    new.verify(64 * KIB, 4 * KIB, seed=2)
    rest = new.read(68 * KIB, 60 * KIB)
    assert (rest.count(0) == len(rest)) == (zero == "y")


# -- whole pools -------------------------------------------------------------------------


@pytest.mark.heavy
def test_plain_volumes_made_into_a_pool(group):
    for name, size in (("pool", 32 * MIB), ("meta", 2 * MIB)):
        group.lvm("lvcreate", "--yes", "-L", f"{size}b", "-n", name, group.name)
    group.lvm(
        "lvconvert", "--yes", "--type", "thin-pool", "--poolmetadataspare", "n", "-c", "128k",
        "--poolmetadata", f"{group.name}/meta", f"{group.name}/pool",
    )  # fmt: skip
    pool, thin = PoolVolume(group, "pool"), group.create_thin("thin", 16 * MIB)
    assert pool.target.table_line().split()[5] == "256"
    thin.fill(0, MIB, seed=1)
    thin.verify(0, MIB, seed=1)
    assert pool.status().used == 8


def test_everything_is_removed(group, rig):
    """The pool with what is in it, then the group; its disk can be used for something else."""
    pool, thin = group.create_both()
    thin.fill(0, MIB, seed=1)
    group.snapshot(thin, "snap")
    with open(thin.path, "rb"):
        assert "in use" in group.refused("lvremove", "-y", thin.full_name)
    group.lvm("lvremove", "-y", pool.full_name)
    assert not group.devices()
    assert not group.lvm("lvs", "--noheadings", group.name).strip()
    group.lvm("vgremove", group.name)
    other = rig.pool(size=64 * MIB, data=group.disks[0])
    other.thin(0).fill_blocks(0, 4, seed=2)
    rig.stop(other)


# -- moving ------------------------------------------------------------------------------


@pytest.mark.heavy
def test_export_and_import(group):
    pool, thin = group.create_both()
    thin.fill(0, 2 * MIB, seed=1)
    group.snapshot(thin, "snap", activate=False)
    thin.fill(0, MIB, seed=2)
    group.deactivate()
    group.lvm("vgexport", group.name)
    assert "exported" in group.refused("vgchange", "-ay", group.name)
    group.lvm("vgimport", group.name)
    group.activate()
    thin.verify(0, MIB, seed=2)
    thin.verify(MIB, MIB, seed=1)
    group.lvm("lvchange", "-ay", "-K", f"{group.name}/snap")
    io.verify(f"/dev/mapper/{group.name}-snap", 0, 2 * MIB, 1)
    assert pool.status().used == 48


def test_from_the_kernels_module_and_back(modules, group):
    if not both_modules():
        pytest.skip("this guest has the kernel's own module alone")
    modules.use("in-tree")
    pool, thin = group.create_both(size=48 * MIB)
    thin.fill(0, 2 * MIB, seed=1)
    group.snapshot(thin, "snap1", activate=False)
    used = 32
    for turn, which in enumerate(["ours", "in-tree"], start=2):
        group.deactivate()
        modules.use(which)
        group.activate()
        assert pool.status().used == used
        thin.verify(0, MIB, seed=1 if turn == 2 else turn - 1)
        thin.verify(MIB, MIB, seed=1)
        # Once more shared and unshared by this module.
        thin.fill(0, MIB, seed=turn)
        used += 16
        snap = group.snapshot(thin, f"snap{turn}")
        snap.verify(0, MIB, seed=turn)
        thin.fill(8 * MIB, 64 * KIB, seed=turn)
        used += 1
        assert pool.status().used == used
        thin.discard(8 * MIB, 64 * KIB)
        used -= 1
    group.lvm("lvchange", "-ay", "-K", f"{group.name}/snap1")
    io.verify(f"/dev/mapper/{group.name}-snap1", 0, 2 * MIB, 1)
    group.lvm("lvremove", "-y", *(f"{group.name}/{name}" for name in ("snap1", "snap2", "snap3")))
    assert pool.status().used == 32
    # The modules cannot be exchanged back while the group is in use.
    group.deactivate()
    modules.restore()


# -- volumes of others in LVM's pool -----------------------------------------------------


@pytest.mark.heavy
def test_volume_made_beside_lvm(group, rig):
    """dmsetup in LVM's pool: LVM's transaction is not disturbed by it."""
    pool, thin = group.create_both()
    pool.target.message("create_thin 100")
    foreign = rig.device(f"0 8192 thin {pool.target.path} 100")
    io.fill(foreign.path, 0, MIB, 5)
    thin.fill(0, MIB, seed=1)
    io.verify(foreign.path, 0, MIB, 5)
    foreign.remove()
    other = group.create_thin("other", 4 * MIB)
    other.fill(0, MIB, seed=2)
    assert pool.status().transaction_id == 2
    pool.target.message("delete 100")
    assert pool.status().used == 32


@pytest.mark.heavy
def test_id_that_somebody_else_took(group):
    """LVM takes a volume that is there already for its own, and refuses a snapshot into one."""
    pool, thin = group.create_both()
    pool.target.message("create_thin 2")
    second = group.create_thin("second", 4 * MIB)
    second.fill(0, MIB, seed=2)
    pool.target.message("create_thin 3")
    assert "snap" not in group.lvm("lvs", group.name)
    said = group.refused("lvcreate", "--yes", "--snapshot", "-n", "snap", thin.full_name)
    assert "File exists" in said, said
    pool.target.message("delete 3")


@pytest.mark.heavy
def test_wrong_transaction_id(group):
    pool, thin = group.create_both()
    thin.fill(0, MIB, seed=1)
    pool.target.message("set_transaction_id 1 9")
    assert pool.status(noflush=True).transaction_id == 9
    assert "transaction id 9" in group.refused("lvcreate", "--yes", "-V", "4m", "-n", "other", "--thinpool", pool.full_name)
    group.deactivate()
    assert "transaction_id" in group.refused("vgchange", "-ay", group.name)
    group.drop()
