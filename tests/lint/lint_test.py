#!/usr/bin/env python3
"""The lints catch what they are for: each test plants one violation in a small clean tree."""

import json
import os
import subprocess
import sys
import tempfile
import unittest

import clang_format
import include_order
import layout
import tree


class PlantedViolations(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = folder.name
        for name in tree.FOLDERS:
            self.plant(f"{name}/README.md", "What lives here.\n")
        self.plant("README.md", "restkv\n")
        for name in tree.LIBRARY:
            self.plant(f"{name}/a.h", "#pragma once\n#include <vector>\n")
        self.plant("kvcache/a.cc", '#include "kvcache/a.h"\n\n#include <vector>\n\n#include "dist/a.h"\n')
        self.plant("tests/model/a_test.cc", '#include <gtest/gtest.h>\n\n#include "model/a.h"\n')
        self.plant("tests/model/CMakeLists.txt", "restkv_test(a_test LIBS restkv_model)\n")

    def plant(self, path, text):
        full = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="utf-8") as f:
            f.write(text)

    def expect(self, check, path, words):
        problems = check(self.root)
        self.assertEqual(len(problems), 1, problems)
        self.assertIn(path, problems[0])
        self.assertIn(words, problems[0])

    def test_clean_tree_is_clean(self):
        self.assertEqual(include_order.check(self.root), [])
        self.assertEqual(layout.check(self.root), [])

    def test_include_against_the_order(self):
        for lower, upper in zip(tree.LIBRARY, tree.LIBRARY[1:]):
            self.plant(f"{lower}/b.cc", f'#include "{upper}/a.h"\n')
            self.expect(include_order.check, f"{lower}/b.cc:1", "against the order")
            os.remove(os.path.join(self.root, f"{lower}/b.cc"))

    def test_include_against_the_order_in_a_test(self):
        self.plant("tests/dist/b.h", '#pragma once\n#include "model/a.h"\n')
        self.expect(include_order.check, "tests/dist/b.h:2", "against the order")

    def test_library_includes_a_test(self):
        self.plant("tests/b.h", "#pragma once\n")
        self.plant("dist/b.cc", '#include "tests/b.h"\n')
        self.expect(include_order.check, "dist/b.cc:1", "against the order")

    def test_relative_include(self):
        self.plant("dist/b.cc", '#include "a.h"\n')
        self.expect(include_order.check, "dist/b.cc:1", "path from the repository root")
        self.plant("dist/b.cc", '#  include "dist/../dist/a.h"\n')
        self.expect(include_order.check, "dist/b.cc:1", "path from the repository root")

    def test_own_header_in_angle_brackets(self):
        self.plant("model/b.cc", "#include <dist/a.h>\n")
        self.expect(include_order.check, "model/b.cc:1", "in quotes")

    def test_missing_header(self):
        self.plant("model/b.cc", '#include "dist/gone.h"\n')
        self.expect(include_order.check, "model/b.cc:1", "does not exist")

    def test_build_flag_in_header(self):
        self.plant("dist/b.h", "#pragma once\n#ifdef RESTKV_CUDA\n#endif\n")
        self.expect(include_order.check, "dist/b.h:2", "build flag")
        self.plant("dist/b.h", "#pragma once\n#if !defined(HAVE_NCCL)\n#endif\n")
        self.expect(include_order.check, "dist/b.h:2", "build flag")

    def test_header_without_guard(self):
        self.plant("dist/b.h", "int b();\n")
        self.expect(include_order.check, "dist/b.h", "#pragma once")

    def test_environment_outside_launch(self):
        self.plant("kvcache/b.cc", '#include <cstdlib>\nconst char* b() { return std::getenv("B"); }\n')
        self.expect(include_order.check, "kvcache/b.cc:2", "environment")
        os.rename(os.path.join(self.root, "kvcache/b.cc"), os.path.join(self.root, "launch/b.cc"))
        self.assertEqual(include_order.check(self.root), [])

    def test_yaml_outside_launch(self):
        self.plant("model/b.cc", "#include <yaml-cpp/yaml.h>\n")
        self.expect(include_order.check, "model/b.cc:1", "YAML")

    def test_unknown_top_level_entry(self):
        self.plant("utils/README.md", "odds and ends\n")
        self.expect(layout.check, "utils", "top level")

    def test_missing_readme(self):
        os.remove(os.path.join(self.root, "kvcache/README.md"))
        self.expect(layout.check, "kvcache/README.md", "missing")

    def test_long_file(self):
        self.plant("dist/b.cc", "\n" * 499)
        self.assertEqual(layout.check(self.root), [])
        self.plant("dist/b.cc", "\n" * 500)
        self.expect(layout.check, "dist/b.cc", "500 lines")

    def test_code_outside_the_library(self):
        self.plant("cmake/b.cc", "int b;\n")
        self.expect(layout.check, "cmake/b.cc", "outside")

    def test_unlisted_test(self):
        self.plant("tests/model/b_test.cc", "")
        self.expect(layout.check, "tests/model/b_test.cc", "not listed")
        self.plant("tests/model/CMakeLists.txt", "restkv_test(a_test)\n# restkv_test(b_test)\n")
        self.expect(layout.check, "tests/model/b_test.cc", "not listed")
        self.plant("tests/model/CMakeLists.txt", "foreach(test a b)\n  restkv_test(${test}_test)\nendforeach()\n")
        self.assertEqual(layout.check(self.root), [])

    def run_lint(self, script, *arguments):
        here = os.path.dirname(os.path.abspath(__file__))
        return subprocess.run([sys.executable, os.path.join(here, script), *arguments], capture_output=True, text=True,
                              check=False)

    def test_format(self):
        if clang_format.find_tool("clang-format", clang_format.MAJOR) is None:
            self.skipTest("clang-format is not installed")
        self.plant(".clang-format", "BasedOnStyle: LLVM\nSortIncludes: Never\n")
        self.assertEqual(self.run_lint("clang_format.py", self.root).returncode, 0)
        self.plant("dist/b.cc", "int  b( ) ;\n")
        done = self.run_lint("clang_format.py", self.root)
        self.assertNotIn(done.returncode, (0, 77))
        self.assertIn("dist/b.cc:1", done.stderr)

    def test_tidy(self):
        if clang_format.find_tool("clang-tidy", clang_format.MAJOR) is None:
            self.skipTest("clang-tidy is not installed")
        self.plant(".clang-tidy", "Checks: '-*,bugprone-*'\nWarningsAsErrors: '*'\n")
        entry = {"directory": self.root, "file": "dist/b.cc", "command": "/usr/bin/ccache /usr/bin/c++ -c dist/b.cc"}
        self.plant("build/compile_commands.json", json.dumps([entry]))
        self.plant("dist/b.cc", "int b(int x) { return x; }\n")
        arguments = (os.path.join(self.root, "build"), self.root)
        self.assertEqual(self.run_lint("clang_tidy.py", *arguments).returncode, 0)
        self.plant("dist/b.cc", "int b(int x) {\n  if (x > 0);\n  { x = 1; }\n  return x;\n}\n")
        done = self.run_lint("clang_tidy.py", *arguments)
        self.assertEqual(done.returncode, 1)
        self.assertIn("bugprone-suspicious-semicolon", done.stdout)


if __name__ == "__main__":
    unittest.main()
