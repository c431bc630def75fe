"""The files of the repository, as the lints see them."""

import os
import subprocess

# The order in which the library's folders may include each other: each one itself and those before it.
LIBRARY = ("dist", "kvcache", "model", "launch")
FOLDERS = LIBRARY + ("configs", "tests", "cmake")
CODE = (".h", ".cc", ".cu", ".cuh")
UNTRACKED_FOLDERS = ("models", "results", "__pycache__")


def files(root):
    """Paths below root, relative, with '/': tracked files and new ones that git does not ignore.

    Without git (a source archive) every file outside build folders counts.
    """
    listed = subprocess.run(
        ["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        paths = {p for p in listed.stdout.decode().split("\0") if p}
        return sorted(p for p in paths if os.path.isfile(os.path.join(root, p)))
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [s for s in subfolders
                         if s not in UNTRACKED_FOLDERS and s != ".git" and not s.startswith("build")]
        found += [os.path.relpath(os.path.join(folder, n), root).replace(os.sep, "/") for n in names]
    return sorted(found)


def code_files(root):
    """C++ and CUDA sources and headers."""
    return [p for p in files(root) if p.endswith(CODE) and not p.startswith("tests/data/")]


def lines(root, path):
    with open(os.path.join(root, path), encoding="utf-8", errors="replace") as f:
        return f.read().splitlines()


def report(name, problems):
    """Prints the problems and returns the exit code."""
    for problem in problems:
        print(problem)
    print(f"{name}: {len(problems)} problem(s)" if problems else f"{name}: clean")
    return 1 if problems else 0
