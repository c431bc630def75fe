#!/usr/bin/env python3
"""launch/policy_table.py with a made-up restkv: what it is asked, the table, going on where it stopped.

Usage: policy_table_test.py POLICY_TABLE.PY CONFIGS/POLICIES
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest

SCRIPT, CONFIGS = sys.argv.pop(1), sys.argv.pop(1)

# Answers every prompt rightly at a budget of 128, none below; cannot run key_norm.
RESTKV = """#!{python}
import json, re, sys
text = open(sys.argv[2]).read()
value = lambda key: re.search(rf"^ *{{key}}: (.*)$", text, re.M)
open("{calls}", "a").write(sys.argv[2] + "\\n")
if value("policy").group(1) == "key_norm":
    sys.exit("error: no key_norm today")
budget = value("budget")
right = budget is None or int(budget.group(1)) >= 128
with open(value("file").group(1), "w") as out:
    for line in open(value("jsonl").group(1)):
        prompt = json.loads(line)
        out.write(json.dumps({{"id": prompt["id"], "text": prompt["answer"] if right else "?", "prompt_tokens": 400,
                               "cache_bytes": 2**20, "full_cache_bytes": 2**22, "prefill_s": 1.0, "evict_s": 0.25,
                               "decode_ms_per_token": 2.5}}) + "\\n")
"""


class PolicyTable(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.calls, self.restkv = os.path.join(self.folder, "calls"), os.path.join(self.folder, "restkv")
        with open(self.restkv, "w", encoding="utf-8") as f:
            f.write(RESTKV.format(python=sys.executable, calls=self.calls))
        os.chmod(self.restkv, 0o755)

    def table(self, *arguments):
        out = os.path.join(self.folder, "out")
        done = subprocess.run([sys.executable, "-B", SCRIPT, "--out", out, "--restkv", self.restkv, "--lengths", "400",
                               "--count", "3", "--configs", CONFIGS, *arguments], capture_output=True, text=True, check=False)
        rows = []
        if os.path.exists(os.path.join(out, "table.jsonl")):
            with open(os.path.join(out, "table.jsonl"), encoding="utf-8") as f:
                rows = [json.loads(line) for line in f]
        return done, rows

    def test_rows(self):
        done, rows = self.table("--policies", "full,h2o,snapkv,key_norm", "--budgets", "64,128")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("no key_norm today", done.stderr)
        self.assertEqual([(r["policy"], r["budget"], r["right"]) for r in rows],
                         [("full", None, 3), ("h2o", 64, 0), ("h2o", 128, 3), ("snapkv", 64, 0), ("snapkv", 128, 3)])
        with open(os.path.join(self.folder, "out", "table.md"), encoding="utf-8") as f:
            self.assertIn("| snapkv | 400 | 128 | 3 of 3 | 1.00 | 25.0 % | 1.000 | 0.2500 | 2.50 |", f.read())
        with open(os.path.join(self.folder, "out", "h2o-400-64.yaml"), encoding="utf-8") as f:
            self.assertIn("  window: 32\n", f.read())

    def test_goes_on(self):
        self.table("--policies", "random", "--budgets", "64")
        self.table("--policies", "random", "--budgets", "64,128")
        with open(self.calls, encoding="utf-8") as f:
            self.assertEqual(len(f.readlines()), 2)

    def test_every_configuration_is_known(self):
        done, rows = self.table("--budgets", "64")
        self.assertEqual(done.returncode, 0, done.stderr)
        for name in ("restkv", "lacache", "tova", "ada", "pyramid", "restkv_weights_only"):
            self.assertIn(name, [r["policy"] for r in rows])

    def test_unknown_policy(self):
        done, _ = self.table("--policies", "nothing")
        self.assertEqual(done.returncode, 2)
        self.assertIn("found nothing", done.stderr)


if __name__ == "__main__":
    unittest.main()
