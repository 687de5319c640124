"""What untrusted content and numbers can do: no integer gets through unchecked, nobody can flood the log."""

import pytest
from lib import io
from lib.dm import DmError
from lib.thin import KIB, MIB

NUMBERS = ["-1", "4294967295", "4294967296", "9223372036854775808", "18446744073709551615", "18446744073709551616",
           "9" * 40, "0x80", "1e3", "+1"]


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_of_a_pool(rig, number):
    """Refused, or taken with a pool that works and says what it took."""
    for table in (
        "0 131072 thin-pool {meta} {data} {number} 0",
        "0 131072 thin-pool {meta} {data} 128 {number}",
        "0 131072 thin-pool {meta} {data} 128 0 {number} skip_block_zeroing",
    ):
        device = rig.device()
        meta, data = rig.disk(4 * MIB), rig.disk(64 * MIB)
        try:
            device.create(table.format(meta=meta, data=data, number=number))
        except DmError:
            continue
        device.message("create_thin 0")
        assert " rw " in device.status_line()
        device.remove()


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_of_a_thin(rig, number):
    pool = rig.pool()
    pool.create_thin(0)
    for text in ("create_thin {0}", "create_snap {0} 0", "create_snap 1 {0}", "delete {0}", "set_transaction_id {0} {0}",
                 "set_transaction_id 0 {0}"):
        try:
            pool.message(text.format(number))
        except DmError:
            pass
    device = rig.device()
    try:
        device.create(f"0 8192 thin {pool} {number}")
        device.remove()
    except DmError:
        pass
    assert pool.status().mode == "rw"


@pytest.mark.parametrize("what", ["data", "metadata"])
def test_failing_io_does_not_flood_the_log(rig, log, what):
    """Whoever may read a volume whose pool is damaged cannot fill the log with it."""
    pool = rig.pool(meta=rig.switch(), data=rig.switch(64 * MIB))
    thin = pool.thin(0)
    thin.fill_blocks(0, 400, seed=1)
    rig.restart(pool)
    thin = pool.activate(0)
    pool.checked = False
    (pool.data if what == "data" else pool.meta).fail_all()
    before = len(log.read())
    # Quickly: the kernel allows ten lines of a kind in five seconds.
    failed = io.failures(thin.path, [n % 400 * pool.block + n // 400 * 4 * KIB for n in range(1000)], 4 * KIB)
    lines = [line for line in log.read()[before:] if "thin" in line]
    assert failed > 500
    assert len(lines) < failed / 10, f"{len(lines)} lines for {failed} failures"
