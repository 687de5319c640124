"""Tracepoints tell of each road."""

import os
import re

import pytest
from lib import proc

TRACING = "/sys/kernel/tracing"

pytestmark = pytest.mark.improvement("tracepoints")


class Trace:
    def __init__(self):
        if not os.path.exists(f"{TRACING}/trace"):
            proc.run("mount", "-t", "tracefs", "none", TRACING)

    @staticmethod
    def write(file, text):
        with open(f"{TRACING}/{file}", "w", encoding="ascii") as out:
            out.write(text)

    def start(self):
        self.write("trace", "")
        self.write("events/dm_thin/enable", "1")

    def stop(self):
        """{event: [text, ...]} since start()."""
        self.write("events/dm_thin/enable", "0")
        found = {}
        with open(f"{TRACING}/trace", encoding="ascii") as lines:
            for line in lines:
                match = re.search(r" (thin_\w+): (.*)", line)
                if match:
                    found.setdefault(match.group(1), []).append(match.group(2))
        self.write("trace", "")
        return found


def test_every_tracepoint_fires(rig):
    trace = Trace()
    pool = rig.pool()
    thin = pool.thin(0)
    trace.start()
    try:
        thin.fill_blocks(0, 2, seed=1)
        thin.flush()
        thin.verify_blocks(0, 2, seed=1)
        pool.snapshot(thin, 1)
        thin.write(0, bytes(4096))
        pool.delete(1)
        pool.status()
        thin.discard_blocks(0, 1)
        pool.change(features=["read_only"])
    finally:
        events = trace.stop()
    wanted = {"thin_hit", "thin_miss", "thin_first_write", "thin_copy", "thin_commit", "thin_unmap", "thin_mode"}
    assert wanted <= set(events), events
    number = pool.number
    assert any(text.startswith(f"{number} thin 0 block 0+2 data ") for text in events["thin_hit"]), events["thin_hit"]
    assert [text for text in events["thin_mode"] if text == f"{number} mode 0 to 3"]
    assert len(events["thin_copy"]) == 1 and len(events["thin_first_write"]) == 2
    assert f"{number} thin 0 from 0 to 1 of 1 in " in events["thin_unmap"][0]
    assert re.fullmatch(
        rf"{number} transaction \d+: frozen in \d+, metadata \d+, then data \d+, superblock \d+", events["thin_commit"][0]
    )
