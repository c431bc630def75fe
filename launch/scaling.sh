#!/usr/bin/env bash
# Scaling on the GPUs of this host, some six minutes on eight: Llama 3.1 8B's shape at 128K on every layout (strong),
# with 128K tokens for every GPU (weak; on eight GPUs its last point is 1M tokens), prompts of 1M tokens, the 70B shape
# where four GPUs hold it; full cache and 1,024 kept tokens, decoding 1, 8 and 64 sequences. Appends JSON lines to
# OUT/scaling.jsonl (OUT/allreduce.jsonl) and draws OUT/*.png when matplotlib is there.
# Usage: bash launch/scaling.sh PROGRAM GPUS OUT [PART]... [-- OPTION...]
#   parts: 8b weak 1m 70b allreduce (default: all that fit); options: of every `restkv bench` (--set key=value), last
#   RESTKV_SCALING_TOKENS: in place of 128K (131072), for a try of the script itself.
# Ends with 1 when a point failed or a part could not run. A point that does not fit is refused, which is no failure.
set -euo pipefail
if [ $# -lt 3 ]; then sed -n 2,10p "$0" >&2; exit 2; fi
program=$1 gpus=$2 out=$3
shift 3
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/launch/mpi_env.sh"
restkv_ranks "$gpus"
tokens=${RESTKV_SCALING_TOKENS:-131072}
failed=0
parts=() options=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do parts+=("$1"); shift; done
if [ $# -gt 0 ]; then shift; options=("$@"); fi
mkdir -p "$out"

# What collectives, cuDNN and cuBLAS hold beside the plan: an allocation that fails ends a run of several ranks, and
# with it the points behind it.
room_gib=6
limit=()
if free_mib=$(nvidia-smi --query-gpu=memory.free --format=csv,noheader,nounits 2>/dev/null | sort -n | head -n 1) &&
  [ -n "$free_mib" ]; then
  limit=(--set "parallel.memory_gib=$((free_mib / 1024 - room_gib))")
elif [ "$gpus" -gt 1 ]; then
  echo "scaling.sh: no nvidia-smi; without -- --set parallel.memory_gib=N plans may use all of a GPU's memory" >&2
fi

layouts() { # every sequence x tensor of 1, 2, 4, ... up to $1 ranks, at least $2
  local list=() n s
  for ((n = $2; n <= $1; n *= 2)); do
    for ((s = n; s >= 1; s /= 2)); do list+=("${s}x$((n / s))"); done
  done
  local IFS=,
  echo "[${list[*]}]"
}
measure() { # RANKS, then --set options
  local ranks=$1 code=0
  shift
  "${MPIRUN[@]}" -np "$ranks" "$program" bench "$root/configs/bench_scaling.yaml" \
    --set bench.file="$out/scaling.jsonl" ${limit[@]+"${limit[@]}"} "$@" ${options[@]+"${options[@]}"} || code=$?
  case $code in
    0) ;;
    2) echo "scaling.sh: no point of this part could run" >&2 ;;
    *) failed=1 ;;
  esac
}
part() {
  local n
  case "$1" in
    8b) measure "$gpus" --set bench.layouts="$(layouts "$gpus" 1)" --set bench.context="[$tokens]" ;;
    weak) # attention grows with the square: what stays equal per GPU is tokens, what is compared is FLOP/s
      for ((n = 1; n <= gpus; n *= 2)); do
        measure "$n" --set bench.layouts="[${n}x1]" --set bench.context="[$((n * tokens))]" \
          --set 'bench.policies=[restkv]' --set 'bench.batch=[1]' --set bench.warmup=0
      done ;;
    1m) # a layer's keys and values alone are 4 GiB: two GPUs or more
      measure "$gpus" --set bench.layouts="[${gpus}x1]" --set bench.context="[$((8 * tokens))]" \
        --set 'bench.policies=[restkv]' --set 'bench.batch=[1]' --set bench.warmup=0 ;;
    70b) # layouts whose weights do not fit are refused
      measure "$gpus" --set model.preset=llama-3.1-70b --set bench.layouts="$(layouts "$gpus" 4)" \
        --set bench.context="[$tokens]" --set 'bench.policies=[restkv]' --set bench.warmup=0 ;;
    allreduce) # sums of decode steps, over peer memory and by NCCL; the links of a layout are in scaling.jsonl
      local bench
      bench=$(dirname "$program")/../tests/bench/allreduce_bench
      if [ ! -x "$bench" ]; then echo "scaling.sh: no $bench (RESTKV_BENCHMARKS)" >&2; return; fi
      for ((n = 2; n <= gpus; n *= 2)); do
        "${MPIRUN[@]}" -np "$n" "$bench" | tee -a "$out/allreduce.jsonl" || failed=1
      done ;;
    *) echo "scaling.sh: unknown part $1; allowed: 8b, weak, 1m, 70b, allreduce" >&2; exit 2 ;;
  esac
}

if [ ${#parts[@]} -eq 0 ]; then
  parts=(8b)
  if [ "$gpus" -ge 2 ]; then parts+=(weak); fi
  if [ "$gpus" -ge 2 ] && [ "$gpus" -ne 8 ]; then parts+=(1m); fi
  if [ "$gpus" -ge 4 ]; then parts+=(70b); fi
  if [ "$gpus" -ge 2 ]; then parts+=(allreduce); fi
fi
for p in "${parts[@]}"; do part "$p"; done
python3 "$root/launch/plot.py" "$out/scaling.jsonl" --out "$out" || echo "no plots: see above" >&2
exit "$failed"
