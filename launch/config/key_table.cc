#include "launch/config/key_table.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "dist/base/error.h"
#include "launch/config/key_kinds.h"
#include "launch/config/nearest.h"
#include "model/ops/decode_linear.h"

namespace restkv {
namespace {

constexpr Affects kResults = Affects::results;
constexpr Affects kSpeed = Affects::speed;
constexpr Affects kNeither = Affects::neither;
constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
constexpr double kInf = std::numeric_limits<double>::infinity();

// FIELD(model.path): the member of any RunConfig, const or not.
#define FIELD(member) ([](auto& c) -> auto& { return c.member; })

std::vector<KeySpec> model_keys() {
  return {
      text_key("model.path", kResults, "Hugging Face directory or GGUF file. Required with `weights: file`.",
               FIELD(model.path)),
      choice_key("model.weights", kResults,
                 "`file`: those at `path`. `random`: a function of `seed`, for `restkv bench` on the shape of `preset` "
                 "without files; such a model has no tokenizer.",
                 {"file", "random"}, FIELD(model.weights)),
      text_key("model.preset", kResults,
               "Shape of a model with random weights: `llama-3.1-8b` or another name of the table in model/presets.cc.",
               FIELD(model.preset)),
      integer_key("model.layers", "layers", kResults, "Layers of a model with random weights. 0: the preset's.", 0,
                  4096, FIELD(model.layers)),
      unsigned_key("model.seed", kResults, "Seed of random weights; the same on every layout.", FIELD(model.seed)),
      real_key("model.gain", "", kResults,
               "Scale of random matrices: 1 keeps the size of activations, more makes attention less flat.", 0.0, 100.0,
               FIELD(model.gain)),
      choice_key("model.dtype", kResults,
                 "How weights are held in memory. `auto`: bf16 where the file stores bf16, else f32. `bf16` halves the "
                 "memory and the time of a decode step of an f32 model, and rounds its weights.",
                 {"auto", "f32", "bf16"}, FIELD(model.dtype)),
  };
}

std::vector<KeySpec> parallel_keys() {
  return {
      choice_key("parallel.device", kResults,
                 "Where ranks compute. `auto`: on a GPU when this build has CUDA and the process sees one, else on the "
                 "CPU. GPUs hold weights, activations and cache in bf16.",
                 {"auto", "cpu", "gpu"}, FIELD(parallel.device)),
      integer_key("parallel.sequence", "ranks", kSpeed,
                  "Ranks that the prompt's tokens are spread over. 0: all ranks that `tensor` leaves.", 0, 65536,
                  FIELD(parallel.sequence)),
      integer_key("parallel.tensor", "ranks", kSpeed,
                  "Ranks that heads, MLP and vocabulary are spread over. sequence x tensor is the number of ranks.", 1,
                  65536, FIELD(parallel.tensor)),
      integer_key("parallel.threads", "threads", kSpeed,
                  "CPU threads of a rank. 0: the cores it may run on, shared evenly with the ranks beside it.", 0, 4096,
                  FIELD(parallel.threads)),
      choice_key("parallel.context", kSpeed,
                 "How the sequence ranks exchange a layer's keys and values during prefill. `allgather`: every rank "
                 "holds the whole layer for a moment. `ring`: chunks go round, partial attention is merged; for groups "
                 "over several hosts. `auto`: `ring` when a sequence group spans hosts, or when only it fits into the "
                 "memory.",
                 {"auto", "allgather", "ring"}, FIELD(parallel.context)),
      choice_key("parallel.decode", kSpeed,
                 "Decode layout. `sequence`: every rank attends its own kept tokens. `tensor`: heads are re-sharded "
                 "over all ranks after prefill. `auto`: `tensor` when all ranks are on one host, else `sequence`.",
                 {"auto", "sequence", "tensor"}, FIELD(parallel.decode)),
      real_key("parallel.timeout_s", "seconds", kNeither,
               "Deadline of a collective call; a rank that waits longer ends the run. 0: none.", 0.0, 1e9,
               FIELD(parallel.timeout_s)),
      real_key("parallel.memory_gib", "GiB", kNeither,
               "Memory (of GPUs: theirs) that the ranks of a host may plan to use together; a run that needs more is "
               "refused. 0: what the host, or the GPU, has available.",
               0.0, 1e9, FIELD(parallel.memory_gib)),
  };
}

std::vector<KeySpec> prefill_keys() {
  return {
      integer_key("prefill.chunk", "tokens", kSpeed,
                  "Tokens of a rank that a layer works on at a time, a multiple of 128: bounds the queries and "
                  "activations of a long prompt, what stays of its length are the residual stream and one layer's K/V. "
                  "0: all at once. Not with `parallel.context: ring`.",
                  0, kMost, FIELD(prefill.chunk)),
      choice_key("prefill.residual", kSpeed,
                 "Where the residual stream is at home. `host`: in pinned memory of the host, hidden size x 4 bytes a "
                 "token; with `chunk`, two chunks of it are on the device, and they come and go beside the "
                 "computation.",
                 {"device", "host"}, FIELD(prefill.residual)),
  };
}

std::vector<KeySpec> cache_keys() {
  return {
      text_key("cache.policy", kResults,
               "What is kept: `restkv`, `full` (everything), or another name of the table in kvcache/README.md.",
               FIELD(cache.policy)),
      budget_key("cache.budget", "tokens",
                 "Tokens kept per KV head and layer, window included: a count (`1024`), or a share of the prompt "
                 "(`0.15` or `15%`), rounded up. A prompt that is not longer is not evicted.",
                 FIELD(cache.budget)),
      integer_key("cache.window", "tokens", kResults, "Last prompt tokens, whose queries score the past. Always kept.",
                  1, kMost, FIELD(cache.window)),
      choice_key("cache.granularity", kResults,
                 "`kv_head`: one kept set per KV head. `query_head`: one per query head, with its own copy of K and V, "
                 "as published; the cache grows by query heads / KV heads.",
                 {"kv_head", "query_head"}, FIELD(cache.granularity)),
      choice_key("cache.allocation", kResults,
                 "How the budget is dealt. `uniform`: the same to all layers and heads. `pyramid`: it falls linearly "
                 "from the first layer to the last, which has a twentieth. `ada`: within a layer by one cut through "
                 "the scores of all heads. `ada_pyramid`: both. The sum is always that of `uniform`.",
                 {"uniform", "pyramid", "ada", "ada_pyramid"}, FIELD(cache.allocation)),
      real_key("cache.ada_floor", "", kResults, "`ada`: part of the budget that every head has for sure.", 0.0, 1.0,
               FIELD(cache.ada_floor)),
      choice_key("cache.positions", kResults,
                 "What keys and queries are rotated with while decoding. `original`: their positions in the text. "
                 "`cache`: slots in the cache, a key's place among the kept tokens of its head and the new token's "
                 "behind them; keys are cached before their rotation and turned anew in every step. `auto`: as in the "
                 "policy's source, `cache` for `streaming_llm` and `lacache`.",
                 {"auto", "original", "cache"}, FIELD(cache.positions)),
  };
}

std::vector<KeySpec> score_keys() {
  return {
      choice_key("cache.mode", kResults,
                 "`restkv`: smooth the attention over the window, then score (`after`), or score each query, then "
                 "smooth the scores (`before`).",
                 {"after", "before"}, FIELD(cache.mode)),
      bool_key("cache.reconstruction", kResults,
               "`restkv`, mode `after`: score by the reconstruction error; `false`: by the attention itself, combined "
               "over the window rows and smoothed alike.",
               FIELD(cache.reconstruction)),
      bool_key("cache.use_wo", kResults, "`restkv`: reconstruction error after the output projection, else before it.",
               FIELD(cache.use_wo)),
      bool_key("cache.normalize", kResults, "`restkv`, mode `before`: divide by the norm of the query's output.",
               FIELD(cache.normalize)),
      choice_key("cache.temporal", kResults,
                 "`restkv`: how window rows are combined, moving average (`inverse_ema`: from the newest row to the "
                 "oldest, so that old rows weigh most), plain mean, or the last row alone. `inverse_ema` and "
                 "`last` with mode `after` only.",
                 {"ema", "mean", "inverse_ema", "last"}, FIELD(cache.temporal)),
      real_key("cache.alpha", "", kResults,
               "`restkv`: weight of the newer row in the moving average (`inverse_ema`: of the older).", 0.0, 1.0,
               FIELD(cache.alpha)),
      real_key("cache.tau", "", kResults, "`restkv`: exponent of the reconstruction error.", 0.0, 100.0,
               FIELD(cache.tau)),
      choice_key("cache.pooling", kResults,
                 "`restkv`: smoothing of the scores along the prompt; `adaptive` takes width and shift from the drift "
                 "of the attention.",
                 {"adaptive", "average", "max", "none"}, FIELD(cache.pooling)),
      integer_key("cache.kernel_size", "tokens", kResults,
                  "`restkv`: smallest (`adaptive`) or only (`average`, `max`) width of the smoothing; odd.", 1, kMost,
                  FIELD(cache.kernel_size)),
      real_key("cache.beta", "tokens", kResults, "`restkv`, pooling `adaptive`: drift per token of shift.", 0.0, kInf,
               FIELD(cache.beta)),
      unsigned_key("cache.seed", kResults, "`random`: seed of the choice.", FIELD(cache.seed)),
      integer_key("cache.sinks", "tokens", kResults,
                  "`streaming_llm`, `lacache`: first prompt tokens, always kept; the budget holds them and the window.",
                  0, kMost, FIELD(cache.sinks)),
      integer_key("cache.ladder_span", "layers", kResults,
                  "`lacache`: layers that keep one and the same token. 0: half of the model's.", 0, 4096,
                  FIELD(cache.ladder_span)),
      integer_key("cache.ladder_overlap", "layers", kResults,
                  "`lacache`: layers in which neighbouring steps of the ladder overlap; less than the span.", 0, 4096,
                  FIELD(cache.ladder_overlap)),
      choice_key(
          "cache.ladder_offsets", kResults,
          "`lacache`: where a layer's step lies. `rotated`: by the layer's number in turns, as the published code "
          "does. `contiguous`: early layers keep early tokens, as the paper draws it.",
          {"rotated", "contiguous"}, FIELD(cache.ladder_offsets)),
  };
}

std::vector<KeySpec> decode_keys() {
  return {
      integer_key("decode.every", "tokens", kResults,
                  "New tokens between two checks of the cache while decoding, with the rule of `cache.policy`. 0: "
                  "nothing is evicted while decoding.",
                  0, kMost, FIELD(cache.decode.every)),
      integer_key("decode.trigger", "tokens", kResults,
                  "A check evicts when a head holds more than this. 0: its budget.", 0, kMost,
                  FIELD(cache.decode.trigger)),
      integer_key("decode.target", "tokens", kResults, "What an eviction leaves of a head. 0: its budget.", 0, kMost,
                  FIELD(cache.decode.target)),
  };
}

std::vector<KeySpec> prompt_keys() {
  return {
      text_key("prompt.text", kResults, "The prompt itself. One of `text`, `file` and `jsonl` is required.",
               FIELD(prompt.text)),
      text_key("prompt.file", kResults, "A file whose whole text is the prompt.", FIELD(prompt.file)),
      text_key("prompt.jsonl", kResults,
               "A file of prompts, one JSON object a line: `prompt` (text) or `messages` (list of `role` and "
               "`content`), optional `id`; with `prompt` optional `questions` (list of texts), as below.",
               FIELD(prompt.jsonl)),
      texts_key(
          "prompt.questions", kResults,
          "Questions about the text or file: it is read and evicted once, without knowing them, and each question "
          "goes on from a copy of that cache. One result per question.",
          FIELD(prompt.questions)),
      integer_key("prompt.hold_back", "tokens", kResults,
                  "Last tokens of the prompt (with questions: of the text before them) that are not read with it but "
                  "fed after the eviction, a decode step each.",
                  0, kMost, FIELD(prompt.hold_back)),
      choice_key("prompt.chat", kResults,
                 "`auto`: through the model's chat template when it has one. `none`: the text as it stands.",
                 {"auto", "none"}, FIELD(prompt.chat)),
      text_key("prompt.system", kResults, "System message in front of every prompt. Empty: none.",
               FIELD(prompt.system)),
      integer_key("prompt.max_tokens", "tokens", kResults,
                  "A longer prompt loses tokens from its middle until it fits; the result says how many. 0: no limit.",
                  0, kMost, FIELD(prompt.max_tokens)),
  };
}

std::vector<KeySpec> generate_keys() {
  return {
      integer_key("generate.max_new_tokens", "tokens", kResults, "Most tokens to generate.", 1, kMost,
                  FIELD(generate.max_new_tokens)),
      integer_key(
          "generate.batch", "requests", kSpeed,
          "Requests that are decoded together, after one prefill each. Their results are those of one at a time "
          "(on GPUs above 16 up to rounding: cuBLASLt multiplies then); above 1 the text is printed when a request is "
          "done instead of token by token.",
          1, kMaxDecodeBatch, FIELD(generate.batch)),
      real_key("generate.temperature", "", kResults, "0: greedy. Above: sampling at this temperature.", 0.0, 100.0,
               FIELD(generate.temperature)),
      integer_key("generate.top_k", "tokens", kResults, "Sample among the k likeliest tokens. 0: all.", 0, kMost,
                  FIELD(generate.top_k)),
      real_key("generate.top_p", "", kResults, "Sample among the likeliest tokens that hold this probability together.",
               0.0, 1.0, FIELD(generate.top_p)),
      unsigned_key("generate.seed", kResults, "Seed of sampling; the same on every layout.", FIELD(generate.seed)),
      texts_key("generate.stop", kResults, "Texts that end the generation; they are not part of the result's text.",
                FIELD(generate.stop)),
      bool_key("generate.ignore_eos", kResults, "Go on after the model's own stop tokens.", FIELD(generate.ignore_eos)),
  };
}

std::vector<KeySpec> output_keys() {
  return {
      text_key("output.file", kNeither,
               "Results, one JSON line per request, appended. `{config}` is the YAML file's name. Empty: no file.",
               FIELD(output.file)),
      bool_key("output.resume", kNeither, "Skip requests that the file already holds under the same configuration.",
               FIELD(output.resume)),
      bool_key("output.stream", kNeither, "Print the text to standard output as it is generated.",
               FIELD(output.stream)),
      bool_key("output.progress", kNeither, "Show a progress bar (rank 0, on a terminal only).",
               FIELD(output.progress)),
  };
}

// The hash of a point holds the policy, budget and layout that it ran with; the lists themselves change no result.
std::vector<KeySpec> bench_keys() {
  return {
      texts_key("bench.presets", kNeither,
                "Values of `model.preset`, with random weights: the whole sweep for each, one after the other. Empty: "
                "`model.preset` alone. `restkv plan` shows the first.",
                FIELD(bench.presets)),
      integers_key("bench.context", "tokens", kNeither, "Prompt lengths.", 1, kMost, FIELD(bench.context)),
      texts_key("bench.policies", kNeither,
                "Values of `cache.policy`. A policy that cannot pool as `cache.pooling` says takes the first way that "
                "it has.",
                FIELD(bench.policies)),
      budgets_key("bench.budgets", "tokens", kNeither, "Values of `cache.budget`; `full` runs once, without any.",
                  FIELD(bench.budgets)),
      integers_key("bench.batch", "prompts", kNeither, "Prompts that are decoded together; GPUs take 64 at most.", 1,
                   65536, FIELD(bench.batch)),
      texts_key("bench.layouts", kNeither,
                "Layouts, sequence x tensor: `2x1`. One of fewer ranks than the run runs on the first of them, the "
                "others wait. "
                "Empty: the one of `parallel`.",
                FIELD(bench.layouts)),
      choice_key("bench.prompt", kNeither, "What the prompts are: `random` tokens.", {"random"}, FIELD(bench.prompt)),
      unsigned_key("bench.seed", kNeither, "Seed of the prompts.", FIELD(bench.seed)),
      bool_key("bench.distinct", kNeither,
               "Every sequence of a batch is prefilled from a prompt of its own. `false`: the others are copies of the "
               "first one's cache, which saves their prefills and is as much work to decode.",
               FIELD(bench.distinct)),
      integer_key("bench.new_tokens", "tokens", kNeither, "Decode steps that are measured.", 1, kMost,
                  FIELD(bench.new_tokens)),
      integer_key("bench.warmup", "", kNeither, "Prefills, and decode steps, before those that are measured.", 0, 1000,
                  FIELD(bench.warmup)),
      integer_key("bench.repeats", "", kNeither, "Prefills that are measured; the median counts.", 1, 1000,
                  FIELD(bench.repeats)),
      text_key("bench.file", kNeither,
               "Measurements, one JSON line per point, appended. `{config}` is the YAML file's name. Empty: no file.",
               FIELD(bench.file)),
  };
}
std::vector<KeySpec> plan_keys() {
  return {
      text_key("plan.ceilings", kNeither,
               "File that `restkv bench` wrote on machines like those of the plan: its ceilings, links and points on "
               "one rank are what times are predicted from. Empty: of GPUs, what an H200 was measured to do.",
               FIELD(plan.ceilings)),
      integer_key("plan.ranks_per_node", "ranks", kNeither,
                  "Ranks on one node; groups that span nodes take the links between them.", 1, 65536,
                  FIELD(plan.ranks_per_node)),
      text_key("plan.file", kNeither,
               "Predictions of `restkv plan`, one JSON line per point, appended. Empty: no file.", FIELD(plan.file)),
  };
}
#undef FIELD

std::string last_part(const std::string& name) { return name.substr(name.rfind('.') + 1); }

}  // namespace

const std::vector<KeySpec>& run_keys() {
  static const std::vector<KeySpec> keys = [] {
    std::vector<KeySpec> all;
    for (auto section : {model_keys(), parallel_keys(), prefill_keys(), cache_keys(), score_keys(), decode_keys(),
                         prompt_keys(), generate_keys(), output_keys(), bench_keys(), plan_keys()})
      for (KeySpec& key : section) all.push_back(std::move(key));
    return all;
  }();
  return keys;
}

const KeySpec* find_key(const std::string& name) {
  for (const KeySpec& key : run_keys())
    if (key.name == name) return &key;
  return nullptr;
}

std::string nearest_key(const std::string& name) {
  const KeySpec* best = nullptr;
  int64_t best_distance = kMost;
  for (const KeySpec& key : run_keys()) {
    // A key in the wrong section is nearer than any misspelling of two letters.
    int64_t distance = std::min(edit_distance(name, key.name), edit_distance(last_part(name), last_part(key.name)) + 1);
    if (distance < best_distance) {
      best = &key;
      best_distance = distance;
    }
  }
  return best->name;
}

std::string markdown_row(const KeySpec& key) {
  static const char* const names[] = {"results", "speed", "neither"};
  std::string unit = key.unit.empty() ? "-" : key.unit;
  return fmt::format("| `{}` | {} | {} | `{}` | {} | {} |", key.name, key.type, unit, key.get(RunConfig{}),
                     names[static_cast<int>(key.affects)], key.doc);
}

}  // namespace restkv
