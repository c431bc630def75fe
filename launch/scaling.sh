#!/usr/bin/env bash
# Scaling on the GPUs of this host, a few minutes: Llama 3.1 8B's shape at 128K on every layout (strong), with 128K
# tokens for every GPU (weak), prompts of 1M tokens, the 70B shape where four GPUs hold it. Appends JSON lines to
# OUT/scaling.jsonl and draws OUT/*.png when matplotlib is there.
# Usage: bash launch/scaling.sh PROGRAM GPUS OUT [PART]...     parts: 8b weak 1m 70b (default: all that fit)
set -euo pipefail
if [ $# -lt 3 ]; then sed -n 2,6p "$0" >&2; exit 2; fi
program=$1 gpus=$2 out=$3
shift 3
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/launch/mpi_env.sh"
mkdir -p "$out"

layouts() { # every sequence x tensor of 1, 2, 4, ... up to $1 ranks, at least $2
  local list=() n s
  for ((n = $2; n <= $1; n *= 2)); do
    for ((s = n; s >= 1; s /= 2)); do list+=("${s}x$((n / s))"); done
  done
  local IFS=,
  echo "[${list[*]}]"
}
measure() { # RANKS, then --set options
  local ranks=$1
  shift
  "${MPIRUN[@]}" -np "$ranks" "$program" bench "$root/configs/bench_scaling.yaml" \
    --set bench.file="$out/scaling.jsonl" "$@"
}
part() {
  case "$1" in
    8b) measure "$gpus" --set bench.layouts="$(layouts "$gpus" 1)" ;;
    weak) # attention grows with the square: what stays equal per GPU is tokens, what is compared is FLOP/s
      local n
      for ((n = 1; n <= gpus; n *= 2)); do
        measure "$n" --set bench.layouts="[${n}x1]" --set bench.context="[$((n * 131072))]" \
          --set 'bench.policies=[restkv]' --set 'bench.batch=[1]' --set bench.warmup=0
      done ;;
    1m) # a layer's keys and values alone are 4 GiB: two GPUs or more
      measure "$gpus" --set bench.layouts="[${gpus}x1]" --set 'bench.context=[1048576]' --set 'bench.policies=[restkv]' \
        --set 'bench.batch=[1]' --set bench.warmup=0 ;;
    70b)
      measure "$gpus" --set model.preset=llama-3.1-70b --set bench.layouts="[$((gpus / 4))x4]" \
        --set 'bench.policies=[restkv]' --set bench.warmup=0 ;;
    *) echo "scaling.sh: unknown part $1; allowed: 8b, weak, 1m, 70b" >&2; exit 2 ;;
  esac
}

parts=("$@")
if [ ${#parts[@]} -eq 0 ]; then
  parts=(8b)
  if [ "$gpus" -ge 2 ]; then parts+=(weak 1m); fi
  if [ "$gpus" -ge 4 ]; then parts+=(70b); fi
fi
for p in "${parts[@]}"; do part "$p"; done
python3 "$root/launch/plot.py" "$out/scaling.jsonl" --out "$out" || echo "no plots: see above" >&2
