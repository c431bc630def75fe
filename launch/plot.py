#!/usr/bin/env python3
"""Draws what `restkv bench` measured: latency, throughput and memory over context length and over ranks.

  plot.py RESULTS.jsonl [RESULTS.jsonl ...] [--out FOLDER]

Every file holds the JSON lines of one or several runs; of points measured twice the last one counts, refused and failed
ones are left out. Written: FOLDER/context.png; FOLDER/ranks.png when there are points of several numbers of ranks; and
FOLDER/scaling.png (time and efficiency over ranks, and the eviction's part of the prefill) when there are, or when a file holds projections of `restkv plan`
(plan.file) or predictions beside measurements: those are dashed, with open markers. FOLDER/weak.png when the prompt grows
with the ranks.
Needs matplotlib.
"""

import argparse
import json
import os
import sys

GIB = 1024.0 ** 3

# name in the title, unit on the axis, value of a point
PANELS = (
    ("prefill", "s", lambda p: p["prefill"]["s"]),
    ("decode step", "ms", lambda p: p["decode"]["ms"]),
    ("prefill throughput", "tokens/s", lambda p: p["prefill"]["tokens_per_s"]),
    ("decode throughput", "tokens/s", lambda p: p["decode"]["tokens_per_s"]),
    ("peak memory of a rank", "GiB", lambda p: max(p["peak_bytes"]) / GIB),
    ("K/V cache after prefill, a prompt", "GiB", lambda p: p["cache_bytes"] / GIB),
)


def fail(text):
    print(f"plot.py: error: {text}", file=sys.stderr)
    sys.exit(2)


def budget_name(point):
    budget = point.get("budget")
    if budget is None:
        return ""
    return f" {budget:.0%}" if isinstance(budget, float) and budget <= 1 else f" {budget}"


def layout_name(point):
    return f"{point['layout']['sequence']}x{point['layout']['tensor']}"


def read_points(path):
    """The measured points of one file: {(what was measured): point}."""
    points = {}
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    entry = json.loads(line)
                except ValueError:
                    fail(f"{path}:{number}: found no JSON object, expected the lines that restkv bench writes")
                if not isinstance(entry, dict) or "kind" not in entry:
                    fail(f"{path}:{number}: found no line of restkv bench (they have a member \"kind\")")
                if entry["kind"] not in ("point", "projection") or entry["status"] != "ok":
                    continue
                entry["file"] = os.path.splitext(os.path.basename(path))[0]
                key = (entry["model"], entry["layers"], entry["policy"], budget_name(entry), entry["batch"],
                       layout_name(entry), entry["context"], entry["layout"]["device"], entry["kind"])
                points[key] = entry
    except OSError as error:
        fail(f"{path}: {error.strerror}")
    return points


def label_parts(point):
    return {
        "file": point["file"],
        "model": point["model"],
        "policy": point["policy"] + budget_name(point),
        "batch": f"batch {point['batch']}",
        "layout": layout_name(point),
        "context": f"{point['context']} tokens",
    }


def series(points, axis, leave_out):
    """Lines of the plot: {label: [(x, point), ...]}. A label names only what differs between the points. Of several
    points at one x (layouts of as many ranks) the one with the shortest prefill counts."""
    parts = [label_parts(p) for p in points]
    names = [n for n in ("file", "model", "policy", "batch", "layout", "context")
             if n not in leave_out and len({p[n] for p in parts}) > 1]
    lines = {}
    for point, part in zip(points, parts):
        line = lines.setdefault(", ".join(part[n] for n in names) or part["policy"], {})
        best = line.get(point[axis])
        if best is None or point["prefill"]["s"] < best["prefill"]["s"]:
            line[point[axis]] = point
    return {label: sorted(line.items(), key=lambda xy: xy[0]) for label, line in lines.items()}


def over_ranks(points):
    """A run has one number of ranks, so a line over ranks goes through several files, unless these compare such lines."""
    ranks_of = {}
    for point in points:
        ranks_of.setdefault(point["file"], set()).add(point["ranks"])
    joined = all(len(ranks) == 1 for ranks in ranks_of.values())
    return series(points, "ranks", {"layout", "file"} if joined else {"layout"})


def times_of(points):
    """[(what is drawn, ranks, prefill s, decode ms)] of measurements, predictions beside them, and projections."""
    rows = []
    for p in points:
        if p["kind"] == "projection":
            rows.append(("projection", p, p["prefill"]["s"], p["decode"]["ms"]))
            continue
        rows.append(("measured", p, p["prefill"]["s"], p["decode"]["ms"]))
        if "prediction" in p:
            rows.append(("predicted", p, p["prediction"]["prefill_s"], p["prediction"]["decode_ms"]))
    return rows


def scaling_lines(points):
    """{(kind, label): [(ranks, prefill s, decode ms)]}: of layouts of as many ranks the fastest prefill counts. A label names
    only what differs."""
    rows = times_of(points)
    parts = [label_parts(p) for _, p, _, _ in rows]
    names = [n for n in ("model", "policy", "batch", "context") if len({part[n] for part in parts}) > 1]
    lines = {}
    for (kind, point, prefill, decode), part in zip(rows, parts):
        line = lines.setdefault((kind, ", ".join(part[n] for n in names) or part["policy"]), {})
        ranks = point["ranks"]
        if ranks not in line or prefill < line[ranks][0]:
            line[ranks] = (prefill, decode)
    return {key: sorted((ranks, *times) for ranks, times in line.items()) for key, line in lines.items()}


def share_lines(points):
    """{label: [(ranks, eviction, its exchanges)]}: percent of the prefill, on the rank that waits least; of layouts of as many
    ranks the fastest prefill counts."""
    evicting = [p for p in points if p["kind"] == "point" and p["prefill"].get("evict_share", 0) > 0]
    return {label: [(ranks, 100 * p["prefill"]["evict_share"], 100 * p["prefill"]["evict_exchange_share"])
                    for ranks, p in line]
            for label, line in series(evicting, "ranks", {"layout", "batch"}).items()} if evicting else {}


def draw_shares(axes, lines, ticks):
    for panel, title, column in zip(axes, ("eviction", "exchanges of the eviction"), (1, 2)):
        for i, (label, line) in enumerate(sorted(lines.items())):
            panel.plot([row[0] for row in line], [row[column] for row in line], marker="o", markersize=5, color=f"C{i % 10}",
                       label=label)
        panel.set_title(f"{title}, part of the prefill")
        panel.set_xlabel("ranks")
        panel.set_ylabel("%")
        panel.set_xscale("log", base=2)
        panel.set_xticks(ticks, [str(t) for t in ticks])
        panel.minorticks_off()
        panel.set_ylim(bottom=0)
        panel.grid(True, alpha=0.3)
        panel.legend(fontsize=8)


def draw_scaling(plt, points, path):
    lines = scaling_lines(points)
    labels = sorted({label for _, label in lines})
    styles = {"measured": ("-", "full"), "predicted": ("--", "none"), "projection": (":", "none")}
    shares = share_lines(points)
    figure, axes = plt.subplots(3 if shares else 2, 2, figsize=(13, 15 if shares else 10))
    panels = (("prefill", "s", 1, False), ("decode step", "ms", 2, False),
              ("prefill, efficiency over the smallest layout", "", 1, True),
              ("decode, efficiency over the smallest layout", "", 2, True))
    ticks = sorted({row[0] for line in lines.values() for row in line})
    for panel, (title, unit, column, efficiency) in zip(axes.flat, panels):
        for (kind, label), line in sorted(lines.items()):
            base = line[0]
            values = [base[column] * base[0] / (row[column] * row[0]) if efficiency else row[column] for row in line]
            style, fill = styles[kind]
            panel.plot([row[0] for row in line], values, linestyle=style, marker="o", markersize=5, fillstyle=fill,
                       color=f"C{labels.index(label) % 10}", label=f"{label}, {kind}")
        panel.set_title(title)
        panel.set_xlabel("ranks")
        panel.set_ylabel(unit)
        panel.set_xscale("log", base=2)
        panel.set_xticks(ticks, [str(t) for t in ticks])
        panel.minorticks_off()
        if efficiency:
            panel.set_ylim(0, 1.15)
        else:
            panel.set_yscale("log")
        panel.grid(True, which="both", alpha=0.3)
    if shares:
        draw_shares(axes[2], shares, sorted({row[0] for line in shares.values() for row in line}))
    handles, names = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=min(3, len(names)), fontsize=8)
    figure.tight_layout(rect=(0, 0.03 + 0.02 * ((len(names) + 2) // 3), 1, 1))
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(path)


def weak_lines(points):
    """{label: [(ranks, prefill s, predicted s or None, efficiency)]} of the points whose prompts have as many tokens for
    every rank: FLOP/s of a rank over those of the fewest ranks. Prompts of one length per rank, on sequence ranks alone."""
    lines = {}
    for p in points:
        if p["kind"] != "point" or p["layout"]["tensor"] > 1 or "flops" not in p["prefill"]:
            continue
        tokens = p["context"] // p["ranks"]
        label = f"{p['model']}, {p['policy']}{budget_name(p)}, {tokens} tokens a rank"
        lines.setdefault(label, {})[p["ranks"]] = p
    result = {}
    for label, line in lines.items():
        if len(line) < 2:
            continue
        rows = sorted(line.items())
        rate = lambda p: sum(p["prefill"]["flops"].values()) / p["prefill"]["s"] / p["ranks"]
        result[label] = [(ranks, p["prefill"]["s"], p.get("prediction", {}).get("prefill_s"), rate(p) / rate(rows[0][1]))
                         for ranks, p in rows]
    return result


def draw_weak(plt, lines, path):
    figure, axes = plt.subplots(1, 2, figsize=(13, 5.5))
    for i, (label, line) in enumerate(sorted(lines.items())):
        ranks = [row[0] for row in line]
        axes[0].plot(ranks, [row[1] for row in line], marker="o", color=f"C{i}", label=f"{label}, measured")
        predicted = [(row[0], row[2]) for row in line if row[2] is not None]
        if predicted:
            axes[0].plot(*zip(*predicted), "--", marker="o", fillstyle="none", color=f"C{i}", label=f"{label}, predicted")
        axes[1].plot(ranks, [row[3] for row in line], marker="o", color=f"C{i}")
    axes[0].set_title("prefill of prompts that grow with the ranks")
    axes[0].set_ylabel("s")
    axes[0].set_ylim(bottom=0)
    axes[1].set_title("FLOP/s of a rank over those of the fewest ranks")
    axes[1].set_ylim(0, 1.15)
    ticks = sorted({row[0] for line in lines.values() for row in line})
    for panel in axes:
        panel.set_xlabel("ranks")
        panel.set_xscale("log", base=2)
        panel.set_xticks(ticks, [str(t) for t in ticks])
        panel.minorticks_off()
        panel.grid(True, alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(path)


def draw(plt, lines, axis_name, path):
    figure, axes = plt.subplots(3, 2, figsize=(13, 14))
    for panel, (title, unit, value) in zip(axes.flat, PANELS):
        for i, (label, line) in enumerate(sorted(lines.items())):
            panel.plot([x for x, _ in line], [value(p) for _, p in line], marker="o", markersize=4,
                       linestyle=("-", "--", ":", "-.")[i // 10 % 4], label=label)
        panel.set_title(title)
        panel.set_xlabel(axis_name)
        panel.set_ylabel(unit)
        ticks = sorted({x for line in lines.values() for x, _ in line})
        panel.set_xscale("log", base=2)
        panel.set_xticks(ticks, [f"{t // 1024}K" if t >= 1024 and t % 1024 == 0 else str(t) for t in ticks])
        panel.minorticks_off()
        panel.set_yscale("log")
        panel.grid(True, which="both", alpha=0.3)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=min(4, len(labels)), fontsize=8)
    figure.tight_layout(rect=(0, 0.03 + 0.015 * ((len(labels) + 3) // 4), 1, 1))
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(path)


def main():
    parser = argparse.ArgumentParser(description="Draw the measurements of restkv bench.")
    parser.add_argument("results", nargs="+", help="files of JSON lines")
    parser.add_argument("--out", default=".", help="folder of the PNG files (default: this one)")
    arguments = parser.parse_args()
    everything = [p for path in arguments.results for p in read_points(path).values()]
    points = [p for p in everything if p["kind"] == "point"]
    if not everything:
        fail("the files hold no measured point and no projection (status \"ok\")")
    try:
        import matplotlib
    except ImportError:
        fail("matplotlib is not installed (Debian: python3-matplotlib)")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    os.makedirs(arguments.out, exist_ok=True)
    if points:
        draw(plt, series(points, "context", {"context"}), "context, tokens", os.path.join(arguments.out, "context.png"))
    if len({p["ranks"] for p in points}) > 1:
        draw(plt, over_ranks(points), "ranks", os.path.join(arguments.out, "ranks.png"))
    if len({p["ranks"] for p in everything}) > 1:
        draw_scaling(plt, everything, os.path.join(arguments.out, "scaling.png"))
    weak = weak_lines(everything)
    if weak:
        draw_weak(plt, weak, os.path.join(arguments.out, "weak.png"))


if __name__ == "__main__":
    main()
