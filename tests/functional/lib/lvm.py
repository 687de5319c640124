"""A volume group of a test: LVM's own commands on the test's disks, with a configuration of their own.

Without udev (User Mode Linux) LVM makes the nodes by itself and waits for nobody.
"""

import itertools
import os
import shutil

import pytest

from . import io, metadata, proc
from .dm import Device, DmError
from .rig import module_is_stock
from .thin import MIB, PoolStatus, Thin, ThinStatus

NO_UDEV = """
devices/obtain_device_list_from_udev = 0
activation/udev_sync = 0
activation/udev_rules = 0
"""

CONFIGURATION = """
devices/use_devicesfile = 0
devices/scan_lvs = 0
devices/types = [ "nullb", 1 ]
devices/global_filter = [ {filter} ]
activation/monitoring = {monitoring}
activation/reserved_memory = 512
activation/reserved_stack = 16
activation/thin_pool_autoextend_threshold = {threshold}
activation/thin_pool_autoextend_percent = {percent}
allocation/thin_pool_chunk_size = 64
backup/backup = 0
backup/archive = 0
"""

_serial = itertools.count(1)


class LvmError(Exception):
    """LVM refused; the text is what it said."""


class Volume(Device):
    """A logical volume's device; it may be inactive."""

    def __init__(self, group, name):
        super().__init__(f"{group.name}-{name}")
        self.group, self.lv = group, name

    # The helpers for I/O are the same as a plain thin's.
    write, read, fill, verify, verify_zero = Thin.write, Thin.read, Thin.fill, Thin.verify, Thin.verify_zero
    discard, flush = Thin.discard, Thin.flush

    def status(self):
        return ThinStatus(self.status_line())

    @property
    def full_name(self):
        return f"{self.group.name}/{self.lv}"

    def field(self, name):
        return self.group.lvm("lvs", "--noheadings", "-o", name, self.full_name).strip()

    def percent(self, name):
        return float(self.field(f"{name}_percent"))

    def number_field(self, name):
        return int(self.group.lvm("lvs", "--noheadings", "--nosuffix", "--units", "b", "-o", name, self.full_name))

    @property
    def active(self):
        return self.exists()

    @property
    def health(self):
        """Bit 9 of lv_attr: F failed, D out of data space, M metadata read-only, - healthy."""
        return self.field("lv_attr")[8]

    @property
    def state(self):
        """Bit 5 of lv_attr: a active, s suspended, c check needed, C the same and suspended."""
        return self.field("lv_attr")[4]


class PoolVolume(Volume):
    """A thin pool as LVM layers it: the pool's target is in NAME-tpool, its disks are NAME_tdata and NAME_tmeta."""

    def __init__(self, group, name):
        super().__init__(group, name)
        self.target = Device(f"{group.name}-{name}-tpool")
        self.tdata = Volume(group, f"{name}_tdata")
        self.tmeta = Volume(group, f"{name}_tmeta")

    def status(self, noflush=False):
        return PoolStatus(self.target.status_line(noflush))

    @property
    def words(self):
        """The feature words of its table."""
        return self.target.table_line().split()[8:]

    @property
    def active(self):
        return self.target.exists()


class Group:
    def __init__(self, rig):
        self.rig = rig
        self.name = f"thinvg{next(_serial)}"
        self.disks = []
        self.monitoring, self.threshold, self.percent = 0, 100, 20
        self.checked = True  # metadata of each active pool after it was deactivated
        self.directory = os.path.join(rig.directory, f"lvm-{self.name}")
        os.mkdir(self.directory)
        self.previous = os.environ.get("LVM_SYSTEM_DIR")
        os.environ["LVM_SYSTEM_DIR"] = self.directory
        self.configure()

    def configure(self, **changed):
        """Write lvm.conf anew, with some of (monitoring, threshold, percent) changed."""
        for key, value in changed.items():
            setattr(self, key, value)
        accepted = [f'"a|^{disk}$|"' for disk in self.disks] + ['"r|.*|"']
        text = CONFIGURATION.format(
            filter=", ".join(accepted), monitoring=self.monitoring, threshold=self.threshold, percent=self.percent
        )
        if not os.path.exists("/run/udev/control"):
            text += NO_UDEV
        with open(os.path.join(self.directory, "lvm.conf"), "w", encoding="ascii") as file:
            file.write(text)

    # -- commands

    def lvm(self, command, *args, check=True):
        """What an LVM command prints; LvmError if it fails, or if it found a pool's metadata damaged."""
        done = proc.run(command, *args, check=False, env={"LVM_SUPPRESS_FD_WARNINGS": "1"})
        if check and (done.status or "Integrity check of metadata" in done.err):
            words = " ".join(str(word) for word in args)
            raise LvmError(f"{command} {words} ended with status {done.status}: {done.out}{done.err}")
        return done.out

    def refused(self, command, *args):
        """The complaint of a command that must fail."""
        with pytest.raises(LvmError) as caught:
            self.lvm(command, *args)
        return str(caught.value)

    def create(self, *disks):
        """The group itself, on disks of the test. Small extents keep the volumes small."""
        self.use(*disks)
        # udev's rules would activate volumes whenever they first see the disk complete: in the middle of a test.
        self.lvm("vgcreate", "-s", "1m", "--setautoactivation", "n", self.name, *disks)
        return self

    def use(self, *disks):
        """See these disks from now on and no others."""
        self.disks = list(disks)
        self.configure()

    def extend(self, disk):
        self.use(*self.disks, disk)
        self.lvm("vgextend", self.name, disk)

    def create_pool(self, size=32 * MIB, name="pool", meta=2 * MIB, options=()):
        self.lvm(
            "lvcreate", "--yes", "--type", "thin-pool", "-L", f"{size}b", "--poolmetadatasize", f"{meta}b",
            "--poolmetadataspare", "n", "-n", name, *options, self.name,
        )  # fmt: skip
        return PoolVolume(self, name)

    def create_thin(self, name, size=16 * MIB, pool="pool", options=()):
        self.lvm("lvcreate", "--yes", "--thin", "-V", f"{size}b", "-n", name, *options, f"{self.name}/{pool}")
        return Volume(self, name)

    def create_both(self, size=32 * MIB, virtual=16 * MIB, meta=2 * MIB, options=()):
        """Pool 'pool' and volume 'thin' by one command."""
        self.lvm(
            "lvcreate", "--yes", "--thin", "-L", f"{size}b", "-V", f"{virtual}b", "--poolmetadatasize", f"{meta}b",
            "--poolmetadataspare", "n", "-n", "thin", *options, f"{self.name}/pool",
        )  # fmt: skip
        return PoolVolume(self, "pool"), Volume(self, "thin")

    def snapshot(self, origin, name, activate=True):
        """A thin snapshot; LVM leaves it inactive unless told."""
        options = ["-kn"] if activate else []
        self.lvm("lvcreate", "--yes", "--snapshot", *options, "-n", name, origin.full_name)
        return Volume(self, name)

    def activate(self):
        self.lvm("vgchange", "-ay", self.name)

    def deactivate(self):
        self.lvm("vgchange", "-an", self.name)

    def description(self):
        """LVM's metadata as text."""
        path = os.path.join(self.directory, "description")
        self.lvm("vgcfgbackup", "-f", path, self.name)
        with open(path, encoding="utf-8") as file:
            return file.read()

    def restore_description(self, text):
        path = os.path.join(self.directory, "description")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        self.lvm("vgcfgrestore", "--force", "-f", path, self.name)

    # -- taking down

    def devices(self):
        """Names of all mapped devices of the group."""
        names = proc.run("dmsetup", "info", "-c", "--noheadings", "-o", "name", check=False).out.split()
        return [name for name in names if name.startswith(f"{self.name}-")]

    def drop(self):
        """Everything off by force, in the order of users, whatever LVM thinks of it."""
        for _ in range(6):
            names = self.devices()
            if not names:
                return
            for name in names:
                if Device(name).open_count == 0:
                    proc.run("dmsetup", "remove", "--retry", name, check=False)
        raise AssertionError(f"these devices cannot be removed: {' '.join(self.devices())}")

    def _tables_of_metadata(self):
        return {name: Device(name).table_line() for name in self.devices() if name.endswith("_tmeta")}

    def _judge(self, name, table):
        """Both generations of thin_check on an inactive pool's metadata, beside LVM."""
        view = Device(f"thintest-view-{name}")
        view.create(table)
        try:
            metadata.check(view)
            assert not metadata.Superblock(view).needs_check, "needs_check is set"
        finally:
            view.remove()

    def close(self):
        """Everything down. Returns what went wrong, as sentences."""
        wrong = []
        try:
            tables = self._tables_of_metadata()
            if self.devices():
                self.deactivate()
            assert not self.devices(), f"LVM left devices behind: {' '.join(self.devices())}"
            for name, table in tables.items():
                if self.checked:
                    self._judge(name, table)
        except (AssertionError, LvmError, DmError, proc.Failed, proc.Hung, OSError) as error:
            wrong.append(f"{self.name}: {error}")
            io.Job.forget_all()
            try:
                self.drop()
            except (AssertionError, DmError, proc.Hung) as second:
                wrong.append(f"{self.name}: {second}")
        os.environ.pop("LVM_SYSTEM_DIR")
        if self.previous is not None:
            os.environ["LVM_SYSTEM_DIR"] = self.previous
        shutil.rmtree(self.directory)
        shutil.rmtree(f"/dev/{self.name}", ignore_errors=True)
        return wrong


class EventDaemon:
    """A dmeventd of the test's own, in the foreground; it reads the group's configuration."""

    FIFOS = ("/run/dmeventd-server", "/run/dmeventd-client")

    def __init__(self, group):
        self.group = group
        # One before it leaves them.
        for path in self.FIFOS:
            if os.path.exists(path):
                os.unlink(path)
        self.log = open(os.path.join(group.directory, "dmeventd.log"), "w+", encoding="utf-8")
        env = dict(os.environ, LC_ALL="C", LVM_SUPPRESS_FD_WARNINGS="1")
        if not os.path.exists("/run/udev/control"):
            env["DM_DISABLE_UDEV"] = "1"
        self.child = proc.subprocess.Popen(
            ["dmeventd", "-f", "-d"], stdin=proc.subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=env
        )
        try:
            proc.wait_for(self._listening, "dmeventd listens")
        except proc.Hung:
            self.stop()
            raise

    def _listening(self):
        assert self.child.poll() is None, f"dmeventd ended: {self.said()}"
        return all(os.path.exists(path) for path in self.FIFOS)

    def said(self):
        self.log.seek(0)
        return self.log.read()

    def stop(self):
        # From now on commands must not look for it, or they start one themselves.
        self.group.configure(monitoring=0)
        self.child.terminate()
        try:
            self.child.wait(proc.DEADLINE)
        except proc.subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self.log.close()


def both_modules():
    """Whether this guest can change from one module to the other (use-module is the guest's)."""
    if not proc.have("use-module"):
        return False
    tree = f"/lib/modules/{os.uname().release}"
    return os.path.exists(f"{tree}/updates/dm-thin-pool.ko")


class ModuleSwitch:
    """Changes the loaded module; restore() brings the one of the start back."""

    def __init__(self):
        self.start = self.now()

    @staticmethod
    def now():
        if not os.path.isdir("/sys/module/dm_thin_pool"):
            return "none"
        return "in-tree" if module_is_stock() else "ours"

    def use(self, which):
        if self.now() != which:
            proc.run("use-module", which)
        assert self.now() == which

    def restore(self):
        self.use(self.start)


@pytest.fixture
def lvm(rig):
    """A volume group without disks yet; taken down, and its pools' metadata judged, at the end."""
    if not (proc.have("lvcreate") and proc.have("vgcreate")):
        pytest.skip("no lvm2 in this guest")
    group = Group(rig)
    yield group
    wrong = group.close()
    if wrong:
        pytest.fail("taking the volume group down:\n" + "\n".join(wrong), pytrace=False)


@pytest.fixture
def modules():
    """The guest's way to change the loaded module."""
    if not proc.have("use-module"):
        pytest.skip("nothing here can change the loaded module")
    switch = ModuleSwitch()
    yield switch
    switch.restore()


@pytest.fixture
def group(lvm, rig):
    """A volume group on one disk of 96 MiB."""
    return lvm.create(rig.disk(96 * MIB))


class Offline:
    """The metadata and data devices of a pool that is inactive, as the thin tools want them.

    LVM would show them read-only; made while the pool is active, because only then its tables are seen.
    """

    def __init__(self, rig, pool):
        self.tables = {part: getattr(pool, part).table_line() for part in ("tmeta", "tdata")}
        self.views = {part: rig.device(kind=part) for part in self.tables}

    def __enter__(self):
        for part, view in self.views.items():
            view.create(self.tables[part])
        return self.views["tmeta"], self.views["tdata"]

    def __exit__(self, *_):
        for view in self.views.values():
            if view.exists():
                view.remove()
