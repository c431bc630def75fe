#!/usr/bin/env python3
"""Runs clang-tidy over the library's sources, in parallel. Exit code 77: clang-tidy 14 is not installed.

Usage: clang_tidy.py BUILD_DIR [ROOT] [--jobs N] [--tests] [--since REV]

BUILD_DIR holds compile_commands.json (CMAKE_EXPORT_COMPILE_COMMANDS). --tests adds the test programs.
--since REV looks only at sources changed since REV, and at those that include a changed header directly.
"""

import argparse
import concurrent.futures
import json
import os
import re
import subprocess
import sys
import tempfile

import clang_format
import tree

# What g++ knows and clang does not; a compiler launcher is dropped by clang-tidy's own reading of argv[0].
FOREIGN_OPTIONS = re.compile(r"^-W(?:no-)?psabi$")


def selected_commands(build, root, folders, keep):
    """The compile commands of the sources in `folders` that `keep` accepts, without duplicates."""
    with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as f:
        entries = json.load(f)
    chosen = {}
    for entry in entries:
        path = os.path.relpath(os.path.join(entry["directory"], entry["file"]), root)
        if path.split(os.sep)[0] not in folders or not path.endswith(".cc") or not keep(path):
            continue
        words = entry["command"].split(" ")
        compiler = next(i for i, word in enumerate(words) if not word.endswith(("ccache", "sccache", "distcc")))
        words = [w for w in words[compiler:] if not FOREIGN_OPTIONS.match(w)]
        chosen[path] = {**entry, "command": " ".join(words)}
    return chosen


def changed_since(root, revision):
    """A predicate on paths: changed since the revision, or includes a changed header."""
    listed = subprocess.run(["git", "-C", root, "diff", "--name-only", revision], capture_output=True, text=True,
                            check=True)
    changed = set(listed.stdout.split())
    headers = {f'#include "{path}"' for path in changed if path.endswith(".h")}
    return lambda path: path in changed or any(line.strip() in headers for line in tree.lines(root, path))


def tidy_one(tool, database, root, path):
    done = subprocess.run([tool, "-p", database, "--quiet", os.path.join(root, path)], capture_output=True, text=True,
                          check=False)
    return path, done.returncode, done.stdout + ("" if done.returncode == 0 else done.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("build")
    parser.add_argument("root", nargs="?", default=".")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--tests", action="store_true")
    parser.add_argument("--since", metavar="REV")
    options = parser.parse_args()
    tool = clang_format.find_tool("clang-tidy", 14)
    if tool is None:
        print("skipped: clang-tidy 14 is not installed")
        return 77
    root = os.path.abspath(options.root)
    folders = tree.LIBRARY + (("tests",) if options.tests else ())
    keep = changed_since(root, options.since) if options.since else lambda path: True
    commands = selected_commands(options.build, root, folders, keep)
    with tempfile.TemporaryDirectory() as database:
        with open(os.path.join(database, "compile_commands.json"), "w", encoding="utf-8") as f:
            json.dump(list(commands.values()), f)
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            results = list(pool.map(lambda path: tidy_one(tool, database, root, path), sorted(commands)))
    failed = [(path, output) for path, code, output in results if code != 0]
    for path, output in failed:
        print(f"== {path}\n{output}")
    print(f"clang_tidy: {len(results)} files, {len(failed)} with findings")
    if not results and not options.since:
        print(f"no source of {', '.join(folders)} stands in {options.build}/compile_commands.json")
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
