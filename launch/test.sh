#!/usr/bin/env bash
# Builds restkv with its tests in build/test and runs all that need no GPU.
# Usage: bash launch/test.sh [CTEST_OPTION]...      (for example: -L lint, or -R eviction)
# Tests on the real model run when models/ holds it (launch/fetch_smollm2.sh) or RESTKV_SMOLLM2 names it.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
bash launch/install_deps.sh --tests

if [ -z "${RESTKV_SMOLLM2:-}" ] && ls models/SmolLM2-135M-Instruct.*.gguf >/dev/null 2>&1; then
  RESTKV_SMOLLM2=$(bash launch/fetch_smollm2.sh) # checks what is there
  export RESTKV_SMOLLM2
fi

# Without a GPU nothing runs what nvcc makes, nor the tests of it: they need not be fast, and the build takes minutes less.
options=()
nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null || true)
if [ -n "$nvcc" ] && ! nvidia-smi -L >/dev/null 2>&1 && "$nvcc" --help | grep -q -- --Ofast-compile; then
  export CUDAFLAGS="${CUDAFLAGS:-} --Ofast-compile=max"
  options+=(-DRESTKV_GPU_TEST_FLAGS=-O0)
fi

cmake -S . -B build/test -G Ninja -DCMAKE_BUILD_TYPE=Release -DRESTKV_TESTS=ON ${options[@]+"${options[@]}"}
cmake --build build/test
ctest --test-dir build/test -LE gpu --output-on-failure --no-tests=error -j "$(nproc)" "$@"
