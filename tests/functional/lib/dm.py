"""dmsetup as a library: one object a mapped device; a refused ioctl is a DmError with its errno."""

import errno
import os
import re

from . import proc

_ERRNO = {os.strerror(number): number for number in errno.errorcode}
_REFUSED = re.compile(r"device-mapper: ([\w ]+?)(?: ioctl)? (?:on|for) \S+(?: \S+)? *failed: (.*)")


# What the core says of a device that is not there; the second is that of 6.1.
NO_SUCH_DEVICE = (errno.ENOENT, errno.ENODEV)


class DmError(Exception):
    def __init__(self, failed):
        self.text = failed.err.strip()
        self.op, self.errno = None, None
        for found in _REFUSED.finditer(failed.err):
            self.op = found.group(1)
            self.errno = _ERRNO.get(found.group(2).strip())
            break
        name = errno.errorcode.get(self.errno, "no known errno")
        super().__init__(f"{name}: {' '.join(failed.cmd)}: {self.text}")


def dmsetup(*args, stdin=None, timeout=proc.DEADLINE):
    try:
        return proc.run("dmsetup", *args, stdin=stdin, timeout=timeout).out
    except proc.Failed as failed:
        raise DmError(failed) from None


def error_of(function, *args, **named):
    """errno that a device-mapper operation is refused with, None if it succeeds."""
    try:
        function(*args, **named)
    except DmError as refused:
        assert refused.errno is not None, f"no errno in: {refused.text}"
        return refused.errno
    return None


def number(path):
    """maj:min of a block device."""
    rdev = os.stat(str(path)).st_rdev
    return f"{os.major(rdev)}:{os.minor(rdev)}"


def targets():
    """{target: (major, minor, patch)} as the kernel lists them."""
    found = {}
    for line in dmsetup("targets").splitlines():
        name, _, version = line.partition(" ")
        found[name] = tuple(int(n) for n in version.strip().lstrip("v").split("."))
    return found


def have_target(name):
    """Does the kernel have it, as a module perhaps?"""
    if name not in targets():
        proc.run("modprobe", f"dm-{name}", check=False)
    return name in targets()


class Device:
    """A mapped device by name. The methods are dmsetup's verbs."""

    def __init__(self, name):
        self.name = name
        self.path = f"/dev/mapper/{name}"

    def __str__(self):
        return self.path

    # -- tables

    def create(self, table, readonly=False):
        flag = ["--readonly"] if readonly else []
        dmsetup("create", self.name, *flag, stdin=table + "\n")

    def create_empty(self):
        dmsetup("create", self.name, "--notable")

    def load(self, table, readonly=False):
        flag = ["--readonly"] if readonly else []
        dmsetup("load", self.name, *flag, stdin=table + "\n")

    def clear(self):
        dmsetup("clear", self.name)

    def suspend(self, noflush=False, timeout=proc.DEADLINE):
        flags = ["--noflush", "--nolockfs"] if noflush else []
        dmsetup("suspend", *flags, self.name, timeout=timeout)

    def resume(self):
        dmsetup("resume", self.name)

    def reload(self, table, noflush=False):
        """What tools do to change a live table."""
        self.load(table)
        self.suspend(noflush)
        self.resume()

    def cycle(self, noflush=False):
        self.suspend(noflush)
        self.resume()

    def remove(self, force=False, retry=True):
        flags = (["--force"] if force else []) + (["--retry"] if retry else [])
        dmsetup("remove", *flags, self.name)

    def exists(self):
        return proc.run("dmsetup", "info", self.name, check=False).status == 0

    # -- questions

    def status_line(self, noflush=False):
        """The whole line, with the trailing blank that some targets print."""
        flag = ["--noflush"] if noflush else []
        return dmsetup("status", *flag, self.name).removesuffix("\n")

    def table_line(self, inactive=False):
        flag = ["--inactive"] if inactive else []
        return dmsetup("table", *flag, self.name).removesuffix("\n")

    def message(self, text, sector=0):
        dmsetup("message", "--", self.name, sector, *text.split())

    def info(self, field):
        return dmsetup("info", "-c", "--noheadings", "-o", field, self.name).strip()

    @property
    def events(self):
        return int(self.info("events"))

    @property
    def suspended(self):
        return self.info("suspended") == "Suspended"

    @property
    def open_count(self):
        return int(self.info("open"))

    @property
    def number(self):
        return number(self.path)

    @property
    def queue(self):
        """Its directory of queue attributes in sysfs."""
        return f"/sys/dev/block/{self.number}/queue"

    def attribute(self, name):
        with open(f"{self.queue}/{name}", encoding="ascii") as file:
            return int(file.read())


def _ended(path, field):
    with open(f"/sys/dev/block/{number(path)}/stat", encoding="ascii") as file:
        return int(file.read().split()[field])


def reads_done(path):
    """Reads that a block device has ended since it was made."""
    return _ended(path, 0)


def writes_done(path):
    return _ended(path, 4)


def sectors_written(path):
    return _ended(path, 6)


def after_table_kind(line, kind):
    """The part of a status or table line behind '0 LEN kind ', blanks at its end kept."""
    found = re.match(rf"\d+ \d+ {re.escape(kind)}(?: (.*))?$", line, re.S)
    assert found, f"not a line of target {kind}: {line!r}"
    return found.group(1) or ""
