#!/usr/bin/env bash
# One needle prompt of thousands of tokens, read by SmolLM2-135M-Instruct on two ranks of this machine: once with the
# full cache, once with what ReST-KV keeps. Installs what is missing, builds, fetches the model, runs, compares.
# Usage: bash launch/quickstart.sh [NEEDLE_OPTION]...     (for example --seed 5 --depth 0.3; launch/needle.py make --help)
set -euo pipefail

ranks=2
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"

bash launch/install_deps.sh
echo "== Building (build/release)"
mkdir -p build
if ! { cmake -S . -B build/release -G Ninja -DCMAKE_BUILD_TYPE=Release -DRESTKV_TESTS=OFF &&
  cmake --build build/release; } >build/quickstart.log 2>&1; then
  tail -n 30 build/quickstart.log >&2
  echo "quickstart: the build failed; the whole log is build/quickstart.log" >&2
  exit 1
fi
bash launch/fetch_smollm2.sh >/dev/null # where the configurations expect it

out=results/quickstart
rm -rf "$out"
mkdir -p "$out"
python3 launch/needle.py make "$@" >"$out/prompts.jsonl"

source launch/mpi_env.sh
restkv_ranks $ranks
for cache in full restkv; do
  echo "== mpirun -np $ranks restkv run configs/quickstart_$cache.yaml"
  "${MPIRUN[@]}" -np $ranks build/release/launch/restkv run "configs/quickstart_$cache.yaml"
done

echo "== Side by side"
python3 launch/needle.py compare "$out/prompts.jsonl" "$out/full.jsonl" "$out/restkv.jsonl"
