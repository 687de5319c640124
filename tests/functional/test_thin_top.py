"""scripts/thin-top: what it makes of recorded answers, and of pools at work."""

import importlib.machinery
import importlib.util
import json
import os
import re
import signal
import urllib.error
import urllib.request

import pytest
from lib import io, proc

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../scripts/thin-top")


def load():
    loader = importlib.machinery.SourceFileLoader("thin_top", PROGRAM)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("thin_top", loader))
    loader.exec_module(module)
    return module


top = load()

# One answer of a pool; `later` is a word that this program does not know.
STATS = """\
pool mode=rw thins=2 commits=20 commit_us=50000 commit_us_max=9000 \
metadata_free=900 data_free=600 data_pending=7 passed_down=3
total read_hits=1000 write_hits=500 read_holes=20 deferred=90 first_writes=60 copies=30 \
overwrites=5 take_overs=1 flushes_passed=4 flushes_committed=8 unmapped=12 waited_for_space=0
thin id=0 read_hits=1000 write_hits=0 read_holes=20 deferred=30 first_writes=0 copies=30 \
overwrites=5 take_overs=1 flushes_passed=4 flushes_committed=0 unmapped=0 waited_for_space=0 later=5
thin id=7 read_hits=0 write_hits=500 read_holes=0 deferred=60 first_writes=60 copies=0 \
overwrites=0 take_overs=0 flushes_passed=0 flushes_committed=8 unmapped=12 waited_for_space=0
"""
STATUS = "0 131072 thin-pool 3 124/1024 400/1000 - rw discard_passdown queue_if_no_space - 256 \n"
TABLES = """\
vg-root: 0 2048 thin 253:4 0
vg-root2: 0 1024 thin 253:4 0
vg-snap: 0 2048 thin 253:4 7 253:9
other: 0 2048 thin 253:5 7
"""


def recorded(stats=STATS):
    found = top.parse_stats(stats)
    found["space"] = top.parse_status(STATUS)
    found["thins"] = {str(thin): dict(counters, id=thin) for thin, counters in found["thins"].items()}
    return {"pool": found}


def test_of_a_recorded_answer():
    found = top.parse_stats(STATS)
    assert found["pool"]["mode"] == "rw" and found["pool"]["data_pending"] == 7
    assert found["total"]["first_writes"] == 60
    assert found["thins"][7]["flushes_committed"] == 8 and found["thins"][0]["later"] == 5
    assert top.parse_status(STATUS) == {"metadata_used": 124, "metadata_total": 1024, "data_used": 400, "data_total": 1000}
    assert top.parse_status("0 131072 thin-pool Fail\n") == {}


def test_names_of_thins():
    names = top.parse_tables(TABLES)
    assert names["253:4", 0] == ["vg-root", "vg-root2"]
    assert names["253:4", 7] == ["vg-snap"] and names["253:5", 7] == ["other"]
    assert top.listed("a\t(253:1)\nb-c\t(253, 12)\n") == [("a", "253:1"), ("b-c", "253:12")]
    assert top.listed("No devices found\n") == []


def row(text, name):
    (line,) = [line for line in text.splitlines() if line.split()[:1] == [name]]
    return line.split()[1:]


def test_table_of_rates():
    later = STATS.replace("commits=20 commit_us=50000", "commits=30 commit_us=70000")
    later = later.replace("write_hits=500", "write_hits=5500").replace("first_writes=60", "first_writes=61")
    text = top.table(recorded(later), recorded(), 2.0)
    assert "pool: rw, 2 thins, data 40.0%, metadata 12.1%, discard backlog 7 blocks, a commit 2.0 ms (longest ever 9.0)" in text
    assert row(text, "(all)") == ["2.5k", "0", "0", "0.5", "0", "5.0", "0", "0", "0"]
    assert row(text, "7")[:4] == ["2.5k", "0", "0", "0.5"] and row(text, "7")[5] == "-"
    assert row(text, "0") == ["0"] * 5 + ["-"] + ["0"] * 3
    assert "a commit" not in top.table(recorded(), recorded(), 2.0)


def test_numbers_keep_their_column():
    shown = [top.number(value) for value in (0, 0.05, 9.94, 9.96, 999.4, 999.6, 123456, 999.6e12, 5e15)]
    assert shown == ["0", "0.1", "9.9", "10", "999", "1.0k", "123k", "1000T", "5000T"]


def test_prometheus_text():
    pools = {'po"ol': recorded()["pool"], "stock": {"error": "no"}}
    lines = top.prometheus(pools).splitlines()
    assert r'dm_thin_pool_up{pool="po\"ol"} 1' in lines and 'dm_thin_pool_up{pool="stock"} 0' in lines
    assert r'dm_thin_pool_mode{pool="po\"ol",mode="rw"} 1' in lines
    assert r'dm_thin_volume_first_writes_total{pool="po\"ol",thin="7",id="7"} 60' in lines
    declared = {}
    for line in lines:
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name not in declared, "a metric's lines must be together"
            declared[name] = kind
        else:
            name = re.fullmatch(r'(\w+)\{(?:\w+="(?:[^"\\]|\\.)*",?)+\} \d+', line).group(1)
            assert name == list(declared)[-1]
            assert name.endswith("_total") == (declared[name] == "counter")


# -- pools at work -------------------------------------------------------------------------


def run(*args, **named):
    return proc.run(PROGRAM, *args, **named)


@pytest.mark.improvement("stats")
def test_of_a_pool_at_work(rig):
    pool = rig.pool()
    thin = pool.thin(0)
    thin.fill_blocks(0, 4, seed=1)
    thin.flush()
    found = json.loads(run("--json").out)[pool.name]
    assert found["pool"]["mode"] == "rw" and found["space"]["data_used"] == 4
    assert found["thins"][thin.name]["first_writes"] == 4 and found["thins"][thin.name]["id"] == 0
    text = run("--prometheus", pool.name).out
    assert f'dm_thin_volume_first_writes_total{{pool="{pool.name}",thin="{thin.name}",id="0"}} 4\n' in text

    job = io.Job(proc.run, PROGRAM, "-n", "2", "-i", "0.5", pool.name)
    block = 4
    while not job.done(0):
        thin.fill_blocks(block % 1000, 1, seed=1)
        block += 1
    tables = job.result().out.split(f"{pool.name}: rw")
    assert len(tables) == 3
    assert any(row(text, thin.name)[0] != "0" or row(text, thin.name)[3] != "0" for text in tables[1:])


def test_only_this_module_counts(rig, stock):
    pool = rig.pool()
    found = json.loads(run("--json").out)[pool.name]
    assert ("error" in found) == stock
    assert ("no counters" in run("-n", "1", "-i", "0.1").out) == stock


def test_without_pools():
    assert json.loads(run("--json").out) == {}
    assert "no thin pool is active" in run("-n", "1", "-i", "0.1").out
    refused = run("--json", "nobody", check=False)
    assert refused.status == 1 and "nobody" in refused.err


@pytest.mark.improvement("stats")
def test_listening(rig):
    pool = rig.pool()
    child = proc.start(PROGRAM, "--listen", "127.0.0.1:9911", pool.name)
    try:
        def answer():
            try:
                with urllib.request.urlopen("http://127.0.0.1:9911/metrics", timeout=60) as reply:
                    return reply.headers["Content-Type"], reply.read().decode()
            except urllib.error.HTTPError as refused:
                return refused.code, refused.reason
            except urllib.error.URLError:
                return None

        kind, text = proc.wait_for(answer, "the port answers")
        assert kind.startswith("text/plain; version=0.0.4") and f'dm_thin_pool_up{{pool="{pool.name}"}} 1' in text
        pool.remove()
        assert answer()[0] == 503
    finally:
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=60)
    assert child.returncode == 0
