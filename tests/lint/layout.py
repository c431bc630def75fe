#!/usr/bin/env python3
"""The shape of the repository.

Usage: layout.py [ROOT]

- The top level holds the seven folders and the few files that work nowhere else.
- Each of the seven folders has a README.md.
- Source files are shorter than 500 lines, and C++ stands in the library's folders and tests/ only.
- Every *_test.cc is listed in the CMakeLists.txt beside it: a test that no build knows cannot fail.
"""

import os
import re
import sys

import tree

TOP_LEVEL_FILES = {"CMakeLists.txt", "README.md", "LICENSE", "CMakePresets.json",
                   ".clang-format", ".clang-tidy", ".gitignore", ".gitattributes"}
TOP_LEVEL_FOLDERS = set(tree.FOLDERS) | {".ci"}
MAX_LINES = 500
LENGTH_CHECKED = tree.CODE + (".py", ".sh", ".cmake", "CMakeLists.txt")


def check_top_level(paths):
    problems = []
    for entry in sorted({p.split("/")[0] for p in paths}):
        is_folder = any(p.startswith(entry + "/") for p in paths)
        if entry not in (TOP_LEVEL_FOLDERS if is_folder else TOP_LEVEL_FILES):
            problems.append(f"{entry}: not part of the top level; folders are {', '.join(tree.FOLDERS)}")
    problems += [f"{folder}/README.md: missing" for folder in tree.FOLDERS if f"{folder}/README.md" not in paths]
    return problems


def check_files(root, paths):
    problems = []
    for path in paths:
        if path.startswith("tests/data/"):
            continue
        if path.endswith(LENGTH_CHECKED) or path == ".ci/run":
            count = len(tree.lines(root, path))
            if count >= MAX_LINES:
                problems.append(f"{path}: {count} lines; split it by concept (fewer than {MAX_LINES})")
        if path.endswith(tree.CODE) and path.split("/")[0] not in tree.LIBRARY + ("tests",):
            problems.append(f"{path}: source code outside {', '.join(tree.LIBRARY)} and tests")
    return problems


def check_tests_listed(root, paths):
    problems = []
    for path in paths:
        if not (path.startswith("tests/") and path.endswith("_test.cc")):
            continue
        folder, name = os.path.split(path)
        listing = f"{folder}/CMakeLists.txt"
        stem = name[:-len(".cc")]
        text = "\n".join(line.split("#")[0] for line in tree.lines(root, listing)) if listing in paths else ""
        # "gemm" counts for gemm_test: listings loop over names as foreach(test gemm ...) restkv_test(${test}_test).
        if not re.search(rf"\b{re.escape(stem[:-len('_test')])}(_test)?\b", text):
            problems.append(f"{path}: not listed in {listing}")
    return problems


def check(root):
    paths = tree.files(root)
    return check_top_level(paths) + check_files(root, paths) + check_tests_listed(root, paths)


if __name__ == "__main__":
    sys.exit(tree.report("layout", check(sys.argv[1] if len(sys.argv) > 1 else ".")))
