"""The picture: a bar for each module and row, dm-linear as the limit."""

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

from cases import BYTES, FLUSHES, LINEAR, STOCK, TIMES  # noqa: E402

STOCK_COLOUR, OUR_COLOUR, LIMIT_COLOUR, SPOT_COLOUR = "#b5b5b5", "#2f6fb0", "#c0392b", "#555555"
HEADINGS = {
    LINEAR: "Speed as a part of dm-linear's (more is better)",
    TIMES: "Latency as a multiple of dm-linear's (less is better)",
    FLUSHES: "Latency in flush times of the device (less is better)",
    STOCK: "Duration as a part of the stock module's (less is better)",
    BYTES: "Bytes of metadata written for a write (less is better)",
}
LIMITS = {LINEAR: "dm-linear", TIMES: "dm-linear", STOCK: "stock module", FLUSHES: "one flush"}
BAR = 0.36


def draw(rows, caption, path):
    """Writes PATH.svg and PATH.png."""
    panels = [(unit, [row for row in rows if row.unit == unit and row.ours]) for unit in HEADINGS]
    panels = [(unit, chosen) for unit, chosen in panels if chosen]
    if not panels:
        return
    heights = [len(chosen) + 1.8 for _, chosen in panels]
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(11, 0.42 * sum(heights) + 0.8), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for axis, (unit, chosen) in zip(axes[:, 0], panels):
        _panel(axis, unit, chosen)
    axes[0, 0].legend(loc="lower left", bbox_to_anchor=(-0.6, 1.06), ncols=5, frameon=False, fontsize=8)
    figure.text(0.99, 0.004, caption, ha="right", va="bottom", fontsize=7, color=SPOT_COLOUR)
    figure.tight_layout(rect=(0, 0.01, 1, 1))
    for suffix in ("svg", "png"):
        figure.savefig(f"{path}.{suffix}", dpi=120)
    pyplot.close(figure)


def _panel(axis, unit, rows):
    _bars(axis, rows, "stock", -BAR / 2, STOCK_COLOUR, "stock module")
    _bars(axis, rows, "ours", BAR / 2, OUR_COLOUR, "this module")
    spots = [(row.sides["linear2"].median, y) for y, row in enumerate(rows) if "linear2" in row.sides]
    if spots:
        axis.scatter(*zip(*spots), marker="|", s=160, color=SPOT_COLOUR, zorder=4, label="dm-linear on dm-linear")
    if unit in LIMITS:
        axis.axvline(1, color=LIMIT_COLOUR, linewidth=1.2, zorder=3, label="limit: dm-linear" if unit == LINEAR else None)
        axis.annotate(LIMITS[unit], (1, 1), xycoords=("data", "axes fraction"), color=LIMIT_COLOUR, fontsize=7,
                      ha="left", va="bottom")
    axis.set_yticks(range(len(rows)), [row.case.title for row in rows], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.set_title(HEADINGS[unit], fontsize=9, loc="right", pad=14)
    axis.tick_params(axis="x", labelsize=8)
    axis.grid(axis="x", color="#e5e5e5", zorder=0)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _bars(axis, rows, side, shift, colour, name):
    shown = [(y + shift, row.sides[side]) for y, row in enumerate(rows) if side in row.sides]
    if not shown:
        return
    places = [y for y, _ in shown]
    medians = [spread.median for _, spread in shown]
    errors = [[spread.median - spread.low for _, spread in shown], [spread.high - spread.median for _, spread in shown]]
    axis.barh(places, medians, BAR, xerr=errors, color=colour, label=name, zorder=2,
              error_kw={"linewidth": 0.8, "ecolor": SPOT_COLOUR})
    for y, spread in shown:
        axis.annotate(f" {spread.median:.2f}" if spread.median < 100 else f" {spread.median:.0f}", (spread.high, y),
                      va="center", fontsize=7, color=SPOT_COLOUR)
