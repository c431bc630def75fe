#!/usr/bin/env bash
# launch/scaling.sh on CPU ranks, the tiny model in place of the large ones: parts write their points with all that
# is reported, points that cannot run are refused, mistakes are told.
# Usage: scaling_test.sh LAUNCH_FOLDER PROGRAM
set -euo pipefail
launch=$1 program=$2
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
fail() { echo "scaling_test: $1" >&2; exit 1; }

small=(--set parallel.device=cpu --set parallel.threads=1 --set model.preset=tiny --set bench.budgets=64
  --set 'bench.batch=[1, 600]' --set bench.new_tokens=2 --set bench.warmup=0 --set cache.window=16)
RESTKV_SCALING_TOKENS=256 bash "$launch/scaling.sh" "$program" 4 "$out" 8b weak 70b -- "${small[@]}" \
  --set parallel.memory_gib=0.06 > "$out/text" 2>&1 || { cat "$out/text"; fail "exit code $?"; }
python3 - "$out" << 'EOF' || { cat "$out/text"; fail "see above"; }
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1] + "/scaling.jsonl", encoding="utf-8")]
text = open(sys.argv[1] + "/text", encoding="utf-8").read()
points = [p for p in lines if p["kind"] == "point"]
ok = [p for p in points if p["status"] == "ok"]
layout = lambda p: "{sequence}x{tensor}".format(**p["layout"])
strong = {(layout(p), p["policy"], p["batch"]) for p in points if p["context"] == 256}
for name in ("1x1", "2x1", "1x2", "4x1", "2x2", "1x4"):
    assert {(name, policy, batch) for policy in ("full", "restkv") for batch in (1, 600)} <= strong, (name, strong)
assert {(layout(p), p["context"]) for p in points} >= {("2x1", 512), ("4x1", 1024)}, "weak"
refused = [p for p in points if p["status"] == "refused"]
assert refused and all(p["batch"] == 600 and "A batch of 600 prompts" in p["reason"] for p in refused), refused
assert not [p for p in points if p["status"] == "failed"], "failed points"
for p in ok:
    assert p["prefill"]["s"] > 0 and p["decode"]["ms"] > 0 and len(p["peak_bytes"]) == p["ranks"], p
    share, exchanges = p["prefill"]["evict_share"], p["prefill"]["evict_exchange_share"]
    if p["policy"] == "full":
        assert share == 0 and exchanges == 0, p
    else:
        assert 0 < share < 1 and 0 <= exchanges < share, (share, exchanges)
        assert exchanges > 0 if p["layout"]["sequence"] > 1 else p["ranks"] > 1 or exchanges == 0, (layout(p), exchanges)
    if p["ranks"] > 1 and p["context"] == 256 and "strong_scaling" in p:
        assert p["strong_scaling"]["prefill_efficiency"] > 0, p
assert any("strong_scaling" in p for p in ok), "efficiency"
links = [p for p in lines if p["kind"] == "links"]
assert {p["ranks"] for p in links} == {2, 4} and all(len(p["all_reduce"]) >= 3 for p in links), links
assert "exch." in text and "efficiency" in text, "the closing tables"
EOF
if bash "$launch/scaling.sh" "$program" 4 "$out" nonsense 2> "$out/text"; then fail "accepts an unknown part"; fi
grep -q "unknown part nonsense; allowed: 8b" "$out/text" || fail "message: $(cat "$out/text")"
