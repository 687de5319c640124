"""Fixtures and rules for every functional test; see docs/testing.md."""

import os
import platform
import signal
import sys
import tempfile

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from improvements import IMPROVEMENTS, SPARED  # noqa: E402
from lib import dm, kmsg, metadata, proc  # noqa: E402
from lib.rig import Rig, module_is_stock  # noqa: E402

# A hang is found by the deadlines of single operations; this one catches what they miss.
TEST_DEADLINE = int(os.environ.get("DM_THIN_TEST_DEADLINE", "900"))


def pytest_addoption(parser):
    parser.addoption("--heavy", action="store_true", help="also the tests that need a fast machine or much memory")


def pytest_configure(config):
    config.addinivalue_line("markers", "improvement(id): fails with the kernel's own module, for the reason in improvements.py")
    config.addinivalue_line("markers", "spared(id): not run on the kernel's own module, for the reason in improvements.py")
    config.addinivalue_line("markers", "heavy: too much for an emulated machine, runs with --heavy only")
    config.addinivalue_line("markers", "udev: with udev at work; so are all that use the fixture group")
    config.addinivalue_line("markers", "deadline(seconds): a longer one than usual")


def pytest_report_header():
    versions = dm.targets()
    module = "the kernel's own module" if module_is_stock() else "this project's module"
    return (
        f"dm-thin: {module}, thin-pool {versions.get('thin-pool')}, thin {versions.get('thin')}, "
        f"Linux {platform.release()}, {metadata.tool('thin_check', '1')} and {metadata.tool('thin_check', '0.9')}"
    )


def expected_to_fail(item):
    return module_is_stock() and item.get_closest_marker("improvement") is not None


def pytest_collection_modifyitems(config, items):
    chosen, left_out = [], []
    for item in items:
        heavy = item.get_closest_marker("heavy") and not config.getoption("--heavy")
        (left_out if heavy else chosen).append(item)
        mark = item.get_closest_marker("improvement")
        if mark:
            reason = IMPROVEMENTS[mark.args[0]]
            if expected_to_fail(item):
                item.add_marker(pytest.mark.xfail(reason=f"{mark.args[0]}: {reason}", strict=True))
        mark = item.get_closest_marker("spared")
        if mark and module_is_stock():
            item.add_marker(pytest.mark.skip(reason=f"{mark.args[0]}: {SPARED[mark.args[0]]}"))
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = chosen


@pytest.fixture(scope="session")
def directory():
    """Where the files below loop devices live: memory, so nothing depends on the guest's disk."""
    parent = next(path for path in ("/run", "/mnt", "/tmp") if os.access(path, os.W_OK))
    path = tempfile.mkdtemp(prefix="thintest.", dir=parent)
    proc.run("mount", "-t", "tmpfs", "-o", "size=90%", "none", path)
    yield path
    proc.run("umount", "--lazy", path)
    os.rmdir(path)


def _expired(_signal, _frame):
    raise proc.Hung("the test ran into its deadline")


@pytest.fixture(autouse=True)
def log(request):
    """Every test: a deadline, and a kernel log without a sign of a bug."""
    mark = request.node.get_closest_marker("deadline")
    proc.udev("group" in request.fixturenames or request.node.get_closest_marker("udev") is not None)
    signal.signal(signal.SIGALRM, _expired)
    signal.alarm(mark.args[0] if mark else TEST_DEADLINE)
    kernel = kmsg.Log()
    yield kernel
    signal.alarm(0)
    alarms = kernel.alarms()
    kernel.close()
    if alarms:
        pytest.fail("the kernel's log shows a bug:\n" + "\n".join(alarms), pytrace=False)


@pytest.fixture
def rig(request, log, directory):
    made = Rig(directory)
    # What a test leaves that had to fail proves nothing more.
    made.judges = not expected_to_fail(request.node)
    yield made
    wrong = made.close()
    if wrong:
        pytest.fail("taking the test's devices down:\n" + "\n".join(wrong), pytrace=False)


@pytest.fixture
def stock():
    return module_is_stock()
