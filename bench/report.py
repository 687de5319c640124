#!/usr/bin/env python3
"""What scripts/bench measured: ratios, the table, the JSON file, the history.

    report.py list                      the rows there are
    report.py choose [--quick] [NAME]   print the rows to run, one a line; status 2 if a name is none
    report.py show ...                  all the rest (see main())
"""

import argparse
import json
import os
import statistics
import sys
import time

from cases import BYTES, CASES, FLUSHES, LINEAR, MAPPED, STOCK, TIMES, UNITS

BY_STOCK = "by_stock"  # ours by the stock module, both of the same round
BETTER = {LINEAR: "more", TIMES: "less", FLUSHES: "less", STOCK: "less", BYTES: "less"}


# -- from measurements to ratios ---------------------------------------------------------


def ratios(unit, measured):
    """One round's {side: ratio}. dm-linear of the same round is what it is measured by, so both its turns count."""
    by_stock = measured["ours"] / measured["stock"]
    if unit == STOCK:
        return {"ours": by_stock}
    if unit == BYTES:
        return {**measured, BY_STOCK: by_stock}
    if unit == FLUSHES:
        found = {side: value / measured["flush"] for side, value in measured.items() if side != "flush"}
        return {**found, BY_STOCK: by_stock}
    base = (measured["linear"] + measured["control"]) / 2
    found = {side: measured[side] / base for side in ("stock", "ours", "linear2") if side in measured}
    return {**found, "control": measured["control"] / measured["linear"], BY_STOCK: by_stock}


class Spread:
    def __init__(self, values):
        self.values = sorted(values)
        self.median = statistics.median(values)
        self.low, _, self.high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3

    def as_dict(self):
        return {
            "median": self.median,
            "quartiles": [self.low, self.high],
            "min": self.values[0],
            "max": self.values[-1],
        }


def by_side(rounds):
    """[{side: value}] as {side: [value]}. Not every side is there in every round."""
    return {side: [each[side] for each in rounds if side in each] for side in (rounds[0] if rounds else {})}


class Row:
    """A case's result."""

    def __init__(self, case, result):
        self.case, self.unit = case, case.unit
        self.error, self.rounds = result["error"], result["rounds"]
        each = [ratios(case.unit, measured) for measured in self.rounds]
        self.sides = {side: Spread(values) for side, values in by_side(each).items()}
        self.raw = {side: statistics.median(values) for side, values in by_side(self.rounds).items()}
        self.before = None

    @property
    def target(self):
        return self.case.by_stock or self.case.target

    @property
    def ours(self):
        return self.sides.get("ours")

    def met(self):
        """None without a target, or whether ours reaches it. dm-linear again is the measure of dm-linear."""
        if self.target is None or not self.ours:
            return None
        if self.case.by_stock:
            return (self.sides[BY_STOCK].median >= self.target) == (BETTER[self.unit] == "more")
        if BETTER[self.unit] == "more":
            return self.ours.median >= self.case.target * self.sides["control"].median
        return self.ours.median <= self.case.target


# -- the table ---------------------------------------------------------------------------

COLUMNS = ("control", "linear2", "linear", "stock", "ours", BY_STOCK)
HEADS = {"control": "dm-linear again", "linear2": "linear on linear", "linear": "dm-linear", BY_STOCK: "ours by stock"}


def number(value):
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def cell(spread):
    return f"{number(spread.median)} ({number(spread.low)}-{number(spread.high)})" if spread else ""


def aligned(cells):
    """Lines; a row's last cell may be long."""
    widths = [0] * len(cells[0])
    for line in cells:
        for n, text in enumerate(line[:-1]):
            widths[n] = max(widths[n], len(text))
    return ["  " + "  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in cells]


def table(rows, with_before):
    lines = []
    for unit in UNITS:
        chosen = [row for row in rows if row.unit == unit]
        if not chosen:
            continue
        sides = [side for side in COLUMNS if any(side in row.sides for row in chosen)]
        head = ["", *(HEADS.get(side, side) for side in sides), "target"]
        if unit == STOCK:
            head += ["seconds, stock and ours"]
        if with_before:
            head += ["before", "change"]
        cells = [head]
        for row in chosen:
            if row.error and not row.rounds:
                cells.append([row.case.name, "FAILED: " + row.error.splitlines()[0][:100]])
                continue
            line = [row.case.name, *(cell(row.sides.get(side)) for side in sides), target(row)]
            if unit == STOCK:
                line += [f"{row.raw['stock']:.3g} {row.raw['ours']:.3g}"]
            if with_before:
                line += change(row)
            cells.append(line)
        lines += ["", f"{unit} ({BETTER[unit]} is better); median (quartiles)"]
        lines += aligned(cells)
    return "\n".join(lines[1:])


def target(row):
    if row.met() is None:
        return ""
    of = " by stock" if row.case.by_stock else ""
    return f"{number(row.target)}{of} {'met' if row.met() else 'MISSED'}"


def change(row):
    """The median of the other commit, and whether ours lies outside what its rounds spread over."""
    if row.before is None or not row.ours:
        return ["-", ""]
    percent = (row.ours.median / row.before - 1) * 100
    better = (percent > 0) == (BETTER[row.unit] == "more")
    outside = not row.ours.low <= row.before <= row.ours.high
    word = ("better" if better else "WORSE") if outside else "same"
    return [number(row.before), f"{percent:+.0f} % {word}"]


# -- the history -------------------------------------------------------------------------


def read_history(path):
    """Runs of what was committed; those of a changed checkout belong to no commit."""
    try:
        with open(path, encoding="utf-8") as file:
            entries = [json.loads(line) for line in file if line.strip()]
    except FileNotFoundError:
        return []
    return [entry for entry in entries if not entry["dirty"]]


def earlier(entries, commit, alike):
    """{row: median of ours} that the commit had last, in runs that agree in all of alike."""
    found = {}
    for entry in entries:
        if entry["commit"] == commit and all(entry.get(key) == value for key, value in alike.items()):
            found.update({name: row["ours"] for name, row in entry["rows"].items()})
    return found


def history_entry(about, rows):
    medians = {}
    for row in rows:
        if row.ours:
            medians[row.case.name] = {"unit": row.unit}
            medians[row.case.name].update({side: round(spread.median, 4) for side, spread in row.sides.items()})
    return {**about, "rows": medians}


# -- commands ----------------------------------------------------------------------------


def list_rows():
    for case in CASES.values():
        if case is MAPPED[0]:
            print("Mapped I/O:")
        elif case.name == "first-write":
            print("Slower roads:")
        print(f"  {case.name:22} {'quick' if case.quick else '':6} {case.title} [{case.unit}]")


def choose(names, quick):
    unknown = [name for name in names if name not in CASES]
    if unknown:
        print(f"error: no row '{unknown[0]}' (see --list)", file=sys.stderr)
        return 2
    for case in CASES.values():
        if case.name in names or (not names and (case.quick or not quick)):
            print(case.name)
    return 0


def show(options):
    with open(options.result, encoding="utf-8") as file:
        measured = json.load(file)
    rows = [Row(CASES[name], result) for name, result in measured["cases"].items()]
    about = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": options.commit,
        "describe": options.describe,
        "quick": options.quick,
        "engine": options.engine,
        "dirty": options.describe.endswith("-dirty"),
        "rounds": options.rounds,
        "seconds": options.seconds,
    }
    if options.compare:
        alike = {key: about[key] for key in ("quick", "engine")}
        before = earlier(read_history(options.history), options.compare, alike)
        for row in rows:
            row.before = before.get(row.case.name)
    text = table(rows, bool(options.compare))
    with open(os.path.join(options.out, "bench.txt"), "w", encoding="utf-8") as file:
        file.write(text + "\n")
    with open(os.path.join(options.out, "bench.json"), "w", encoding="utf-8") as file:
        json.dump({**about, **measured["about"], "rows": {row.case.name: row_dict(row) for row in rows}}, file, indent=1)
    with open(options.history, "a", encoding="utf-8") as file:
        file.write(json.dumps(history_entry(about, rows)) + "\n")
    import picture  # matplotlib is slow to load and not needed for the rest

    picture.draw(rows, f"{options.describe}, Linux {measured['about']['kernel']}", os.path.join(options.out, "bench"))
    print(text)
    return 1 if any(row.error for row in rows) else 0


def row_dict(row):
    return {
        "title": row.case.title,
        "unit": row.unit,
        "better": BETTER[row.unit],
        "target": row.target,
        "met": row.met(),
        "before": row.before,
        "error": row.error,
        "ratios": {side: spread.as_dict() for side, spread in row.sides.items()},
        "measured": row.rounds,
    }


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list")
    chooser = commands.add_parser("choose")
    chooser.add_argument("--quick", action="store_true")
    chooser.add_argument("names", nargs="*")
    shower = commands.add_parser("show")
    for word in ("result", "out", "history", "commit", "describe", "engine"):
        shower.add_argument(f"--{word}", required=True)
    shower.add_argument("--compare")
    shower.add_argument("--quick", action="store_true")
    shower.add_argument("--rounds", type=int)
    shower.add_argument("--seconds", type=float)
    known = commands.add_parser("known", help="status 0 if the history knows the commit")
    known.add_argument("--history", required=True)
    known.add_argument("commit")
    options = parser.parse_args()
    if options.command == "list":
        list_rows()
        return 0
    if options.command == "choose":
        return choose(options.names, options.quick)
    if options.command == "known":
        return 0 if any(entry["commit"] == options.commit for entry in read_history(options.history)) else 1
    return show(options)


if __name__ == "__main__":
    sys.exit(main())
