#!/usr/bin/env python3
"""Includes go one way: dist <- kvcache <- model <- launch.

Usage: include_order.py [ROOT]

- A file of a library folder includes its own folder and those before it, never those after it.
- tests/FOLDER follows the same order as FOLDER; the library never includes tests/.
- Own headers are included by their path from the repository root, in quotes; other headers in <>.
- Headers have #pragma once and contain no build flag: what a header declares must not depend on how a file that
  includes it was configured.
- Only launch/ (and tests) read YAML or the environment; two files of dist/ may talk with their own libraries
  through it (what mpirun left there; OpenBLAS's choice of kernels).
"""

import os
import re
import sys

import tree

INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')
CONDITION = re.compile(r"^\s*#\s*(?:if|ifdef|ifndef|elif)\b(.*)")
BUILD_FLAG = re.compile(r"\b(?:RESTKV_\w+|NDEBUG|(?:HAVE|WITH|USE|ENABLE)_\w+)\b")
ENVIRONMENT = re.compile(r"\b(?:secure_)?getenv\s*\(|\benviron\b")

ENVIRONMENT_READERS = ("launch/", "dist/comm/mpi_runtime.cc", "dist/base/blas_kernels.cc")


def allowed_folders(path):
    """The folders that the file may include."""
    parts = path.split("/")
    if parts[0] == "tests":
        if len(parts) > 2 and parts[1] in tree.LIBRARY:
            return tree.LIBRARY[:tree.LIBRARY.index(parts[1]) + 1] + ("tests",)
        return tree.LIBRARY + ("tests",)
    return tree.LIBRARY[:tree.LIBRARY.index(parts[0]) + 1]


def check_include(root, path, quote, target):
    """What is wrong with one #include of the file, or None."""
    first = target.split("/")[0]
    own = first in tree.LIBRARY + ("tests",) and "/" in target
    if quote == "<":
        return f"own header <{target}> must be included in quotes" if own else None
    if not own or ".." in target.split("/"):
        return f'"{target}" is not a path from the repository root (library headers take <>)'
    if first not in allowed_folders(path):
        return f'"{target}" goes against the order {" <- ".join(tree.LIBRARY)}'
    if not os.path.isfile(os.path.join(root, target)):
        return f'"{target}" does not exist'
    return None


def check_file(root, path):
    problems = []
    library = path.split("/")[0] in tree.LIBRARY
    header = path.endswith((".h", ".cuh"))
    text = tree.lines(root, path)
    if header and not any(line.strip() == "#pragma once" for line in text):
        problems.append(f"{path}:1: header without #pragma once")
    for number, line in enumerate(text, 1):
        include = INCLUDE.match(line)
        if include:
            problem = check_include(root, path, *include.groups())
            if problem:
                problems.append(f"{path}:{number}: {problem}")
            if library and not path.startswith("launch/") and include.group(2).startswith("yaml-cpp/"):
                problems.append(f"{path}:{number}: only launch/ reads YAML")
        condition = CONDITION.match(line)
        if header and condition and BUILD_FLAG.search(condition.group(1)):
            problems.append(f"{path}:{number}: build flag in a header: {line.strip()}")
        if library and not path.startswith(ENVIRONMENT_READERS) and ENVIRONMENT.search(line.split("//")[0]):
            problems.append(f"{path}:{number}: only launch/ reads the environment: {line.strip()}")
    return problems


def check(root):
    return [problem for path in tree.code_files(root)
            if path.split("/")[0] in tree.LIBRARY + ("tests",)
            for problem in check_file(root, path)]


if __name__ == "__main__":
    sys.exit(tree.report("include_order", check(sys.argv[1] if len(sys.argv) > 1 else ".")))
