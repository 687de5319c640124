"""Commands with a deadline, and waiting without fixed sleeps.

A command stuck in the kernel cannot be killed, so a deadline that passes abandons it:
the test fails, the run goes on.
"""

import os
import shutil
import subprocess
import time

# Deadlines only catch hangs, so they are generous: an emulated machine is slow.
DEADLINE = float(os.environ.get("DM_THIN_DEADLINE", "180"))


class Hung(Exception):
    """A command or an I/O did not end in time."""


class Failed(Exception):
    """A command ended with a status other than 0."""

    def __init__(self, cmd, status, out, err):
        self.cmd, self.status, self.out, self.err = cmd, status, out, err
        super().__init__(f"'{' '.join(cmd)}' ended with status {status}: {(err + out).strip()}")


class Result:
    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err


_udev_runs = os.path.exists("/run/udev/control")
_udev_works = _udev_runs


def udev(on):
    """Let udev work, or end it: its rules cost an emulated machine a second a device, and most tests ask
    nothing of it. What happens meanwhile it never hears of: a queue of it all would keep it busy for minutes."""
    global _udev_works
    if _udev_runs and on != _udev_works:
        if not on:
            run("udevadm", "settle", check=False)
            run("udevadm", "control", "--exit")
        else:
            # Not by run(): the daemon would keep the pipes open.
            subprocess.run(
                ["/usr/lib/systemd/systemd-udevd", "--daemon"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True,
            )
            run("udevadm", "settle", check=False)
        _udev_works = on


def _environment(extra):
    env = dict(os.environ, LC_ALL="C", **(extra or {}))
    # Without udev nobody else makes the nodes under /dev/mapper.
    if not _udev_works:
        env["DM_DISABLE_UDEV"] = "1"
    return env


def run(*cmd, check=True, timeout=DEADLINE, stdin=None, env=None):
    cmd = [str(word) for word in cmd]
    child = subprocess.Popen(
        cmd,
        stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(env),
    )
    try:
        out, err = child.communicate(stdin, timeout=timeout)
    except subprocess.TimeoutExpired:
        child.kill()
        raise Hung(f"'{' '.join(cmd)}' did not end within {timeout:.0f} s") from None
    if check and child.returncode:
        raise Failed(cmd, child.returncode, out, err)
    return Result(child.returncode, out, err)


def start(*cmd, stdin=None):
    """Start a command in the background; the caller owns it."""
    return subprocess.Popen(
        [str(word) for word in cmd],
        stdin=stdin or subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(None),
    )


def wait_for(condition, what, timeout=DEADLINE, pause=0.05):
    """Poll until condition() is true and return its value."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Hung(f"still not so after {timeout:.0f} s: {what}")
        time.sleep(pause)


def have(tool):
    return shutil.which(tool) is not None
