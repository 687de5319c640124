#!/usr/bin/env python3
"""The part of scripts/bench that runs in the guest: measures, and writes what it measured to a JSON file."""

import argparse
import json
import math
import os
import platform
import sys
import tempfile
import time
import traceback
from dataclasses import replace

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "tests", "functional")]

import actions  # noqa: E402
from cases import BYTES, CASES, FLUSHES, LINEAR, STOCK  # noqa: E402
from lab import MODULES, Lab  # noqa: E402
from lib import dm, proc  # noqa: E402

# What goes over its devices once does so again until it has taken as long, or so often.
PASSES_SECONDS, MOST_PASSES = 5, 20


class Bench:
    """How to measure, for all rows."""

    def __init__(self, options):
        self.rounds, self.seconds, self.engine = options.rounds, options.seconds, options.engine
        self.small = options.small


def order(bench, case, number):
    """The sides of a round; what comes second in one round comes first in the next."""
    first, second = sorted(MODULES, reverse=number % 2 == 0)
    if case.unit in (STOCK, BYTES):
        return [first, second]
    twice = case.unit == LINEAR and (number == 0 or not bench.small)
    return ["linear", first, "control", second] + (["linear2"] if twice else [])


def by_passes(bench, lab, case, kind):
    """I/Os a second over several passes, each over devices as at the beginning."""
    assert case.action == "rate", case
    ios, seconds, times = 0, 0.0, 1
    for _ in range(1 if bench.small else MOST_PASSES):
        with lab.open(kind) as side:
            more, taken = actions.passes(bench, side, case, times)
        ios += more
        seconds += taken
        if seconds >= PASSES_SECONDS:
            break
        # dm-linear is the same after a pass, and soon done: it makes all others in one go.
        if not side.pool:
            times = math.ceil((PASSES_SECONDS - seconds) * times / taken)
    return ios / seconds


def one_round(bench, lab, case, number):
    """{side: what its action gave}, and under 'flush' the time of a flush."""
    found = {}
    for side_name in order(bench, case, number):
        kind = "linear" if side_name == "control" else side_name
        if case.once and case.unit == LINEAR:
            found[side_name] = by_passes(bench, lab, case, kind)
            continue
        with lab.open(kind) as side:
            if case.unit == FLUSHES and side_name == "linear":
                found["flush"] = actions.flush_time(side)
            found[side_name] = getattr(actions, case.action)(bench, side, case)
    return found


def all_rounds(bench, lab, case):
    rounds = []
    for number in range(bench.rounds):
        rounds.append(one_round(bench, lab, case, number))
        print(".", end="", file=sys.stderr, flush=True)
    print(" ", end="", file=sys.stderr)
    lab.check()
    return rounds


def measure(bench, cases, directory, save):
    """All cases; those with the same setup share its devices."""
    results = {}
    lab = None
    for case in sorted(cases, key=lambda c: [other.setup for other in cases].index(c.setup)):
        print(f"{case.name}: {case.title} ", end="", file=sys.stderr, flush=True)
        begin = time.monotonic()
        result = results[case.name] = {"rounds": [], "error": None}
        try:
            if lab is None or lab.setup != case.setup:
                if lab:
                    lab.close()
                lab = None
                lab = Lab(directory, case.setup)
            result["rounds"] = all_rounds(bench, lab, case)
        except Exception as error:  # the other rows are worth having
            traceback.print_exc()
            result["error"] = f"{type(error).__name__}: {error}"
            if lab:
                lab.close()
            lab = None
        result["seconds"] = round(time.monotonic() - begin, 1)
        print(f"{result['seconds']:.0f} s", file=sys.stderr)
        save(results)
    if lab:
        wrong = lab.close()
        assert not wrong, wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--result", required=True)
    options = parser.parse_args()
    cases = [CASES[name] for name in options.cases.split(",")]
    if options.small:
        cases = [replace(case, setup=case.setup.scaled_down()) for case in cases]
    about = {
        "kernel": platform.release(),
        "hz": os.sysconf("SC_CLK_TCK"),
        "fio": proc.run("fio", "--version").out.strip(),
        "thin": {name: list(version) for name, version in dm.targets().items() if name.startswith("thin")},
    }

    def save(results):
        with open(options.result + ".new", "w", encoding="utf-8") as file:
            json.dump({"about": about, "cases": results}, file)
        os.replace(options.result + ".new", options.result)

    directory = tempfile.mkdtemp(prefix="bench.", dir="/mnt")
    proc.run("mount", "-t", "tmpfs", "-o", "size=95%", "none", directory)
    measure(Bench(options), cases, directory, save)


if __name__ == "__main__":
    main()
