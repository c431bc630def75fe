#!/usr/bin/env python3
"""launch/plot.py on made-up measurements: PNG files come out, mistakes are told. Without matplotlib the drawing is
skipped (exit code 77).

Usage: plot_test.py PLOT.PY
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import unittest

PLOT = sys.argv.pop(1)
HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None


def point(context, policy, sequence=1, batch=1, status="ok"):
    entry = {"kind": "point", "status": status, "model": "random:tiny", "layers": 2, "context": context,
             "policy": policy, "budget": None if policy == "full" else 64, "batch": batch, "ranks": sequence,
             "layout": {"sequence": sequence, "tensor": 1, "device": "cpu"}}
    if status == "ok":
        entry.update(prefill={"s": context / 1e4, "tokens_per_s": 1e4}, decode={"ms": 1.5, "tokens_per_s": 600 * batch},
                     peak_bytes=[1 << 24] * sequence, cache_bytes=context * 512)
    return entry


def load_plot():
    spec = importlib.util.spec_from_file_location("plot", PLOT)
    plot = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plot)
    return plot


class Plot(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def write(self, name, entries):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as out:
            out.writelines(e if isinstance(e, str) else json.dumps(e) + "\n" for e in entries)
        return path

    def plot(self, *paths):
        return subprocess.run([sys.executable, PLOT, *paths, "--out", os.path.join(self.folder, "out")],
                              capture_output=True, text=True, check=False)

    def expect_pngs(self, result, names):
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(sorted(os.listdir(os.path.join(self.folder, "out"))), names)
        for name in names:
            with open(os.path.join(self.folder, "out", name), "rb") as image:
                self.assertEqual(image.read(8), b"\x89PNG\r\n\x1a\n")

    @unittest.skipUnless(HAS_MATPLOTLIB, "matplotlib is not installed")
    def test_one_file(self):
        points = [point(c, p, batch=b) for c in (512, 4096, 3000) for p in ("full", "restkv") for b in (1, 8)]
        path = self.write("a.jsonl", [{"kind": "environment"}, *points, point(9000, "full", status="refused")])
        self.expect_pngs(self.plot(path), ["context.png"])

    @unittest.skipUnless(HAS_MATPLOTLIB, "matplotlib is not installed")
    def test_runs_of_several_ranks(self):
        one = self.write("one.jsonl", [point(512, "full"), point(512, "restkv")])
        two = self.write("two.jsonl", [point(512, "full", 2), point(512, "restkv", 2)])
        self.expect_pngs(self.plot(one, two), ["context.png", "ranks.png", "scaling.png"])

    @unittest.skipUnless(HAS_MATPLOTLIB, "matplotlib is not installed")
    def test_predictions_and_projections(self):
        predicted = [dict(point(512, "full", n), prediction={"prefill_s": 0.06 / n, "decode_ms": 1.4}) for n in (1, 2)]
        projected = [dict(point(512, "full", n), kind="projection") for n in (1, 64, 512)]
        self.expect_pngs(self.plot(self.write("a.jsonl", [*predicted, {"kind": "links"}, *projected])),
                         ["context.png", "ranks.png", "scaling.png"])
        os.remove(os.path.join(self.folder, "out", "context.png"))
        os.remove(os.path.join(self.folder, "out", "ranks.png"))
        self.expect_pngs(self.plot(self.write("b.jsonl", projected)), ["scaling.png"])

    @unittest.skipUnless(HAS_MATPLOTLIB, "matplotlib is not installed")
    def test_prompts_that_grow_with_the_ranks(self):
        points = [point(512 * n, "full", n) for n in (1, 2, 4)]
        for p in points:
            p["prefill"].update(flops={"linear": 1e9 * p["ranks"], "attention": 1e9 * p["ranks"] ** 2})
        self.expect_pngs(self.plot(self.write("a.jsonl", points)), ["context.png", "ranks.png", "scaling.png", "weak.png"])
        for p in points:
            p["file"] = "a"
        (line,) = load_plot().weak_lines(points).values()
        self.assertEqual([(row[0], row[2]) for row in line], [(1, None), (2, None), (4, None)])
        self.assertAlmostEqual(line[2][3], (1 + 4) * 4 / 2 / 4 / 4)  # FLOP, over the time, over the ranks

    def test_lines_over_ranks(self):
        plot = load_plot()
        points = [dict(point(512, "full", n), prediction={"prefill_s": 0.5 / n, "decode_ms": 2.0}) for n in (2, 1)]
        points.append(dict(point(512, "full", 8), kind="projection"))
        for p in points:
            p["file"] = "a"
        self.assertEqual(plot.scaling_lines(points), {
            ("measured", "full"): [(1, 0.0512, 1.5), (2, 0.0512, 1.5)],
            ("predicted", "full"): [(1, 0.5, 2.0), (2, 0.25, 2.0)],
            ("projection", "full"): [(8, 0.0512, 1.5)]})

    def test_shares_of_the_eviction(self):
        plot = load_plot()
        points = [point(512, policy, n, batch) for policy in ("full", "restkv") for n in (2, 1) for batch in (1, 8)]
        for p in points:
            p["file"] = "a"
            p["prefill"].update(evict_share=0.0 if p["policy"] == "full" else 0.02, evict_exchange_share=0.001 * (p["ranks"] - 1))
        (line,) = plot.share_lines(points).values()
        self.assertEqual(line, [(1, 2.0, 0.0), (2, 2.0, 0.1)])
        self.assertEqual(plot.share_lines(points[:4]), {})
        if HAS_MATPLOTLIB:
            self.expect_pngs(self.plot(self.write("a.jsonl", points)), ["context.png", "ranks.png", "scaling.png"])

    def test_mistakes(self):
        for entries, why in ((["nonsense\n"], "a.jsonl:1: found no JSON object"),
                             ([{"text": "an answer"}], "a.jsonl:1: found no line of restkv bench"),
                             ([{"kind": "environment"}], "no measured point")):
            result = self.plot(self.write("a.jsonl", entries))
            self.assertEqual(result.returncode, 2)
            self.assertIn(why, result.stderr)
        self.assertIn("No such file", self.plot("/nonexistent.jsonl").stderr)


if __name__ == "__main__":
    program = unittest.main(exit=False)
    if not program.result.wasSuccessful():
        sys.exit(1)
    if not HAS_MATPLOTLIB:
        print("skipped: matplotlib is not installed; only the messages were tested")
        sys.exit(77)
