#!/usr/bin/env python3
"""Every source file is formatted as .clang-format says. Exit code 77: clang-format 14 is not installed.

Usage: clang_format.py [ROOT] [--fix]
"""

import os
import re
import shutil
import subprocess
import sys

import tree

MAJOR = 14  # other versions format some constructs differently


def find_tool(name, major):
    """The tool of that major version (its path), or None."""
    for candidate in (f"{name}-{major}", name):
        path = shutil.which(candidate)
        if path is None:
            continue
        version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
        if re.search(rf"version {major}\.", version):
            return path
    return None


def main(arguments):
    fix = "--fix" in arguments
    places = [a for a in arguments if a != "--fix"]
    root = places[0] if places else "."
    tool = find_tool("clang-format", MAJOR)
    if tool is None:
        print(f"skipped: clang-format {MAJOR} is not installed")
        return 77
    paths = [os.path.join(root, p) for p in tree.code_files(root)]
    mode = ["-i"] if fix else ["--dry-run", "-Werror"]
    return subprocess.run([tool, "--style=file", *mode, *paths], check=False).returncode if paths else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
