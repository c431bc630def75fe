#include "launch/config/run_config.h"

#include <gtest/gtest.h>

#include <set>

#include "dist/base/error.h"
#include "launch/config/config_hash.h"
#include "launch/config/key_table.h"
#include "launch/config/nearest.h"
#include "tests/launch/temp_dir.h"

namespace restkv {
namespace {

using testing::TempDir;

constexpr const char* kSmall = "model:\n  path: m.gguf\nprompt:\n  text: Hello\n";

RunConfig load(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  TempDir dir;
  return load_run_config(dir.write("run.yaml", yaml), overrides);
}

/// The message for a YAML text, its folder taken out.
std::string error_of(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  TempDir dir;
  std::string path = dir.write("run.yaml", yaml);
  std::string text = testing::message_of<InputError>([&] { load_run_config(path, overrides); });
  return testing::replace_all(text, dir.path() + "/", "");
}

std::string error_of_set(const std::string& override_) { return error_of(kSmall, {override_}); }

TEST(Config, FourLinesAreARunAndTheRestIsDefault) {
  RunConfig c = load(kSmall);
  EXPECT_EQ(c.model.path, "m.gguf");
  EXPECT_EQ(c.prompt.text, "Hello");
  EXPECT_EQ(c.cache.policy, "restkv");
  EXPECT_EQ(c.cache.budget.tokens, 1024);
  EXPECT_EQ(c.cache.window, 32);
  EXPECT_EQ(c.generate.temperature, 0.0);
  EXPECT_EQ(c.output.file, "results/run.jsonl");
  EXPECT_EQ(c.world_size(), 0);
}

TEST(Config, ChunksOfThePrefill) {
  RunConfig c = load(kSmall, {"prefill.chunk=256", "prefill.residual=host", "parallel.context=allgather"});
  EXPECT_EQ(c.prefill.chunk, 256);
  EXPECT_EQ(c.prefill.residual, ResidualPlace::host);
  EXPECT_EQ(error_of(kSmall, {"prefill.chunk=100"}),
            "run.yaml: prefill.chunk: found 100, expected 0 (the whole prompt at once) or a multiple of 128 tokens");
  EXPECT_EQ(error_of(kSmall, {"prefill.residual=host"}),
            "run.yaml: prefill.residual: found host, expected device, or a prefill.chunk by which it can come and go");
  EXPECT_EQ(error_of(kSmall, {"prefill.chunk=128", "parallel.context=ring"}),
            "run.yaml: parallel.context: found ring, expected auto or allgather with prefill.chunk");
}

TEST(Config, EveryKeyIsRead) {
  RunConfig c = load(R"(
model: {path: dir, dtype: bf16}
parallel: {sequence: 2, tensor: 3, threads: 4, decode: sequence, timeout_s: 1.5}
cache: {policy: random, budget: 15%, window: 8, granularity: query_head, mode: before, use_wo: false, normalize: true,
        temporal: mean, alpha: 0.5, tau: 2, pooling: max, kernel_size: 7, beta: 100, seed: 18446744073709551615}
prompt: {jsonl: p.jsonl, chat: auto, system: "Be brief.", max_tokens: 100}
generate: {max_new_tokens: 5, temperature: 0.7, top_k: 40, top_p: 0.9, seed: 3, stop: ["\n", END], ignore_eos: true}
output: {file: "out-{config}.jsonl", resume: false, stream: false, progress: false}
)");
  EXPECT_EQ(c.model.dtype, WeightDtype::bf16);
  EXPECT_EQ(c.world_size(), 6);
  EXPECT_EQ(c.parallel.threads, 4);
  EXPECT_EQ(c.parallel.decode, DecodeChoice::sequence);
  EXPECT_EQ(c.parallel.timeout_s, 1.5);
  EXPECT_EQ(c.cache.policy, "random");
  EXPECT_DOUBLE_EQ(c.cache.budget.fraction, 0.15);
  EXPECT_EQ(c.cache.budget.resolve(1000), 150);
  EXPECT_EQ(c.cache.window, 8);
  EXPECT_EQ(c.cache.granularity, Granularity::query_head);
  EXPECT_EQ(c.cache.mode, ScoreMode::before);
  EXPECT_FALSE(c.cache.use_wo);
  EXPECT_TRUE(c.cache.normalize);
  EXPECT_EQ(c.cache.temporal, TemporalSmoothing::mean);
  EXPECT_EQ(c.cache.alpha, 0.5);
  EXPECT_EQ(c.cache.tau, 2.0);
  EXPECT_EQ(c.cache.pooling, Pooling::max);
  EXPECT_EQ(c.cache.kernel_size, 7);
  EXPECT_EQ(c.cache.beta, 100.0);
  EXPECT_EQ(c.cache.seed, 18446744073709551615ull);
  EXPECT_EQ(c.prompt.jsonl, "p.jsonl");
  EXPECT_EQ(c.prompt.system, "Be brief.");
  EXPECT_EQ(c.prompt.max_tokens, 100);
  EXPECT_EQ(c.generate.max_new_tokens, 5);
  EXPECT_EQ(c.generate.temperature, 0.7);
  EXPECT_EQ(c.generate.top_k, 40);
  EXPECT_EQ(c.generate.top_p, 0.9);
  EXPECT_EQ(c.generate.seed, 3u);
  EXPECT_EQ(c.generate.stop, (std::vector<std::string>{"\n", "END"}));
  EXPECT_TRUE(c.generate.ignore_eos);
  EXPECT_EQ(c.output.file, "out-run.jsonl");
  EXPECT_FALSE(c.output.resume || c.output.stream || c.output.progress);
}

TEST(Config, RandomWeightsAndTheSweep) {
  RunConfig c = load(R"(
model: {weights: random, preset: llama-3.1-8b, layers: 4, seed: 9, gain: 2.5}
parallel: {device: gpu}
bench: {context: [4096, 8192], policies: full, budgets: [512, 10%, 0.2], batch: 8, layouts: [1x1, 2x1], seed: 4, distinct: false,
        new_tokens: 16, warmup: 0, repeats: 5, prompt: random, file: "b-{config}.jsonl"}
)");
  EXPECT_EQ(c.model.weights, WeightChoice::random);
  EXPECT_EQ(c.model.name(), "random:llama-3.1-8b");
  EXPECT_EQ(c.model.layers, 4);
  EXPECT_EQ(c.model.seed, 9u);
  EXPECT_EQ(c.model.gain, 2.5);
  EXPECT_EQ(c.parallel.device, DeviceChoice::gpu);
  EXPECT_EQ(c.bench.context, (std::vector<int64_t>{4096, 8192}));
  EXPECT_EQ(c.bench.policies, std::vector<std::string>{"full"});
  ASSERT_EQ(c.bench.budgets.size(), 3u);
  EXPECT_EQ(c.bench.budgets[0].tokens, 512);
  EXPECT_DOUBLE_EQ(c.bench.budgets[1].fraction, 0.1);
  EXPECT_DOUBLE_EQ(c.bench.budgets[2].fraction, 0.2);
  EXPECT_EQ(c.bench.batch, std::vector<int64_t>{8});
  EXPECT_EQ(c.bench.layouts, (std::vector<std::string>{"1x1", "2x1"}));
  EXPECT_EQ(c.bench.seed, 4u);
  EXPECT_FALSE(c.bench.distinct);
  EXPECT_EQ(c.bench.new_tokens, 16);
  EXPECT_EQ(c.bench.warmup, 0);
  EXPECT_EQ(c.bench.repeats, 5);
  EXPECT_EQ(c.bench.file, "b-run.jsonl");
  // A bench of a model from files needs no prompt either.
  TempDir dir;
  std::string path = dir.write("run.yaml", "model: {path: m}\n");
  EXPECT_NO_THROW(load_run_config(path, {}, ConfigUse::bench));
  EXPECT_THROW(load_run_config(path, {}), InputError);
}

TEST(Config, WeightsThatContradictTheModel) {
  EXPECT_EQ(error_of(kSmall, {"model.weights=random"}),
            "run.yaml: model.path is given, but model.weights is random; expected one of them");
  EXPECT_EQ(error_of("model: {weights: random}\n"),
            "run.yaml: model.preset is missing: random weights need the shape of a model, for example llama-3.1-8b");
  EXPECT_EQ(error_of(kSmall, {"model.preset=llama-3.1-8b"}),
            "run.yaml: model.preset needs random weights, but model.weights is file; expected model.weights: random");
  EXPECT_EQ(error_of(kSmall, {"model.layers=2"}),
            "run.yaml: model.layers needs random weights, but model.weights is file; expected model.weights: random");
  EXPECT_EQ(error_of("model: {weights: random, preset: tiny, gain: 0}\n"),
            "run.yaml: model.gain: found 0, expected a number above 0 and at most 100");
  EXPECT_EQ(error_of("bench: {context: []}\n"),
            "run.yaml:1: bench.context: found a list, expected an integer, or a list of integers");
  EXPECT_EQ(error_of("bench: {context: [5, x]}\n"),
            "run.yaml:1: bench.context: found \"x\" (text), expected an integer of at least 1");
  EXPECT_EQ(error_of("bench: {budgets: {a: 1}}\n").substr(0, 40), "run.yaml:1: unknown key \"bench.budgets.a");
}

TEST(Config, UnknownKeyNamesFileLineAndNearestKey) {
  EXPECT_EQ(error_of("model:\n  path: m\ncache:\n  windw: 8\n"),
            "run.yaml:4: unknown key \"cache.windw\"; the nearest known key is \"cache.window\" (configs/README.md "
            "lists all)");
  EXPECT_NE(error_of("budget: 8\n")
                .find("run.yaml:1: unknown key \"budget\"; the nearest known key is "
                      "\"cache.budget\""),
            std::string::npos);
  EXPECT_NE(error_of("cahce:\n  budget: 8\n")
                .find("run.yaml:2: unknown key \"cahce.budget\"; the nearest known key is "
                      "\"cache.budget\""),
            std::string::npos);
  EXPECT_NE(error_of("generate:\n\n  top: {k: 3}\n").find("run.yaml:3: unknown key \"generate.top.k\""),
            std::string::npos);
}

TEST(Config, MistypedValueNamesFileLineKeyFoundAndExpected) {
  EXPECT_EQ(error_of("cache:\n  window: many\n"),
            "run.yaml:2: cache.window: found \"many\" (text), expected an integer of at least 1");
  EXPECT_EQ(error_of("cache:\n  window: 2.5\n"),
            "run.yaml:2: cache.window: found 2.5, expected an integer of at least 1");
  EXPECT_EQ(error_of("cache:\n  window: \"8\"\n"),
            "run.yaml:2: cache.window: found \"8\" (text), expected an integer of at least 1");
  EXPECT_EQ(error_of("cache:\n  window: 99999999999999999999\n"),
            "run.yaml:2: cache.window: found 99999999999999999999, expected an integer of at least 1");
  EXPECT_EQ(error_of("cache:\n  window: [8]\n"),
            "run.yaml:2: cache.window: found a list, expected an integer of at least 1");
  EXPECT_EQ(error_of("cache:\n  window:\n"),
            "run.yaml:2: cache.window: found nothing, expected an integer of at least 1");
  EXPECT_EQ(error_of("cache:\n  use_wo: yes\n"),
            "run.yaml:2: cache.use_wo: found \"yes\" (text), expected true or false");
  EXPECT_EQ(error_of("cache:\n  mode: during\n"),
            "run.yaml:2: cache.mode: found \"during\" (text), expected one of after, before");
  EXPECT_EQ(error_of("cache:\n  alpha: 1.5\n"), "run.yaml:2: cache.alpha: found 1.5, expected a number from 0 to 1");
  EXPECT_EQ(error_of("cache:\n  alpha: nan\n"), "run.yaml:2: cache.alpha: found nan, expected a number from 0 to 1");
  EXPECT_EQ(error_of("cache:\n  seed: -1\n"),
            "run.yaml:2: cache.seed: found -1, expected an integer from 0 to 18446744073709551615");
  EXPECT_EQ(error_of("generate:\n  stop: {a: b}\n").substr(0, 42), "run.yaml:2: unknown key \"generate.stop.a\";");
  EXPECT_EQ(error_of("generate:\n  stop: [[a]]\n"),
            "run.yaml:2: generate.stop: found a list whose items are not all text, expected texts");
  EXPECT_EQ(error_of("parallel:\n  tensor: 0\n"),
            "run.yaml:2: parallel.tensor: found 0, expected an integer from 1 to 65536");
  EXPECT_EQ(error_of("cache: 5\n"), "run.yaml:1: cache: found 5, expected a section with keys below it");
}

TEST(Config, BudgetIsACountAShareOrAPercentage) {
  EXPECT_EQ(load(kSmall, {"cache.budget=77"}).cache.budget.tokens, 77);
  EXPECT_DOUBLE_EQ(load(kSmall, {"cache.budget=0.15"}).cache.budget.fraction, 0.15);
  EXPECT_DOUBLE_EQ(load(kSmall, {"cache.budget=12.5%"}).cache.budget.fraction, 0.125);
  EXPECT_DOUBLE_EQ(load(std::string(kSmall) + "cache: {budget: \"15%\"}\n").cache.budget.fraction, 0.15);
  EXPECT_DOUBLE_EQ(load(kSmall, {"cache.budget=1.0"}).cache.budget.fraction, 1.0);
  const std::string expected =
      ", expected a count of at least 1 (1024), a share above 0 and at most 1 (0.15), or a percentage (15%)";
  EXPECT_EQ(error_of_set("cache.budget=0"), "--set cache.budget=0: cache.budget: found 0" + expected);
  EXPECT_EQ(error_of_set("cache.budget=1.5"), "--set cache.budget=1.5: cache.budget: found 1.5" + expected);
  EXPECT_EQ(error_of_set("cache.budget=150%"),
            "--set cache.budget=150%: cache.budget: found \"150%\" (text)" + expected);
  EXPECT_EQ(error_of_set("cache.budget=-3"), "--set cache.budget=-3: cache.budget: found -3" + expected);
  EXPECT_EQ(error_of_set("cache.budget=%"), "--set cache.budget=%: cache.budget: found \"%\" (text)" + expected);
}

TEST(Config, SetGoesTheSameWay) {
  RunConfig c = load(kSmall, {"cache.window=16", "generate.stop=[a, b]", "prompt.text=key: [value", "cache.window=24"});
  EXPECT_EQ(c.cache.window, 24);  // the last one wins
  EXPECT_EQ(c.generate.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(c.prompt.text, "key: [value");  // text is not YAML
  EXPECT_EQ(load(kSmall, {"generate.stop=one"}).generate.stop, (std::vector<std::string>{"one"}));
  EXPECT_EQ(load(kSmall, {"prompt.text=", "prompt.file=f"}).prompt.file, "f");
  EXPECT_EQ(error_of_set("cache.widnow=3"),
            "--set cache.widnow=3: unknown key \"cache.widnow\"; the nearest known key is \"cache.window\" "
            "(configs/README.md lists all)");
  EXPECT_EQ(error_of_set("cache.window=x"),
            "--set cache.window=x: cache.window: found \"x\" (text), expected an integer of at least 1");
  EXPECT_EQ(error_of_set("cache.window="),
            "--set cache.window=: cache.window: found nothing, expected an integer of at least 1");
  EXPECT_EQ(error_of_set("cache.window"),
            "--set cache.window: found no \"key=value\", expected for example --set cache.budget=1024");
}

TEST(Config, FilesThatAreNoConfiguration) {
  EXPECT_EQ(testing::message_of<InputError>([] { load_run_config("/nonexistent/run.yaml", {}); }),
            "/nonexistent/run.yaml: cannot read the configuration: No such file or directory");
  EXPECT_EQ(testing::message_of<InputError>([] { load_run_config("/tmp", {}); }).substr(0, 37),
            "/tmp: cannot read the configuration: ");
  EXPECT_EQ(error_of("cache:\n  window: 8\n  window: 9\n"), "run.yaml:3: key \"cache.window\" is given twice");
  EXPECT_EQ(error_of("cache:\n  window: 8\nprompt: {}\ncache:\n  alpha: 1\n"),
            "run.yaml:4: key \"cache\" is given twice");
  EXPECT_EQ(error_of("a: [1\nb: 2\n").substr(0, 10), "run.yaml:2");
  EXPECT_NE(error_of("a: [1\nb: 2\n").find("YAML error at column"), std::string::npos);
  EXPECT_EQ(error_of("- a\n"), "run.yaml:1: found a list, expected sections (model:, cache:, prompt:, ...)");
  EXPECT_EQ(error_of("model: {path: a}\n---\nmodel: {path: b}\n"), "run.yaml: found 2 YAML documents, expected one");
  EXPECT_EQ(error_of("prompt:\n  text: \"a\xff\"\n"),
            "run.yaml: invalid UTF-8 at byte 18 (0xFF); the text must be valid UTF-8");
  EXPECT_EQ(error_of(""), "run.yaml: model.path is missing: expected a Hugging Face directory or a GGUF file");
}

TEST(Config, KeysThatContradictEachOther) {
  EXPECT_EQ(error_of("model: {path: m}\n"),
            "run.yaml: 0 of prompt.text, prompt.file and prompt.jsonl are given (and not empty), expected exactly one");
  EXPECT_EQ(error_of(kSmall, {"prompt.file=x"}),
            "run.yaml: 2 of prompt.text, prompt.file and prompt.jsonl are given (and not empty), expected exactly one");
  EXPECT_EQ(error_of(kSmall, {"prompt.chat=none", "prompt.system=s"}),
            "run.yaml: prompt.system needs a chat template, but prompt.chat is none; expected prompt.chat: auto");
  EXPECT_EQ(
      error_of(kSmall, {"output.file=", "output.stream=false"}),
      "run.yaml: output.file is empty and output.stream is false: the answer would be lost; expected one of them");
  EXPECT_EQ(error_of(kSmall, {"generate.top_p=0"}),
            "run.yaml: generate.top_p: found 0, expected a number above 0 and at most 1");
  std::string below = error_of(kSmall, {"cache.budget=16", "cache.window=32"});
  EXPECT_EQ(below.substr(0, 10), "run.yaml: ");
  for (const char* part : {"cache.budget", "16", "32"}) EXPECT_NE(below.find(part), std::string::npos) << below;
  std::string even = error_of(kSmall, {"cache.kernel_size=4"});
  for (const char* part : {"run.yaml: ", "kernel_size", "4", "odd"})
    EXPECT_NE(even.find(part), std::string::npos) << even;
  std::string policy = error_of(kSmall, {"cache.policy=snap"});
  for (const char* part : {"policy", "snap", "restkv", "full", "random"})
    EXPECT_NE(policy.find(part), std::string::npos) << policy;
}

TEST(Config, LayoutAgainstTheWorld) {
  auto resolved = [](int64_t world, const std::vector<std::string>& sets) {
    RunConfig c = load(kSmall, sets);
    c.file = "run.yaml";
    resolve_layout(c, world);
    return c;
  };
  EXPECT_EQ(resolved(6, {}).parallel.sequence, 6);
  EXPECT_EQ(resolved(6, {"parallel.tensor=2"}).parallel.sequence, 3);
  auto message = [&](int64_t world, const std::vector<std::string>& sets) {
    return testing::message_of<InputError>([&] { resolved(world, sets); });
  };
  EXPECT_EQ(
      message(3, {"parallel.tensor=2"}),
      "run.yaml: parallel.tensor is 2, but the run has 3 ranks, which 2 does not divide; expected mpirun -np with "
      "a multiple of 2, or a parallel.tensor that divides 3");
  EXPECT_EQ(message(2, {"parallel.sequence=2", "parallel.tensor=2"}),
            "run.yaml: parallel.sequence x parallel.tensor is 2 x 2 = 4 ranks, but the run has 2; expected mpirun -np "
            "4, or sizes whose product is 2");
}

TEST(ConfigHash, DependsOnValuesNotOnSpelling) {
  TempDir dir;
  auto hash = [&](const std::string& yaml, const std::vector<std::string>& sets = {}) {
    return config_hash(load_run_config(dir.write("run.yaml", yaml), sets), HashScope::outcome);
  };
  uint64_t base = hash(kSmall);
  EXPECT_EQ(base, hash("prompt: {text: \"Hello\"}\n\n# a comment\nmodel: {path: m.gguf}\n"));
  EXPECT_EQ(base, hash(kSmall, {"cache.window=32", "cache.alpha=0.30"}));
  EXPECT_EQ(base,
            hash(kSmall, {"output.stream=false", "parallel.timeout_s=5", "prompt.text=other", "bench.context=5"}));
  std::set<uint64_t> all = {base};
  std::vector<std::string> changes = {"model.path=n",        "model.dtype=f32",    "parallel.sequence=2",
                                      "cache.budget=0.5",    "cache.budget=512",   "cache.policy=full",
                                      "cache.alpha=0.31",    "generate.seed=1",    "generate.stop=a",
                                      "generate.stop=[a,b]", "parallel.threads=1", "parallel.device=cpu"};
  for (const std::string& change : changes) all.insert(hash(kSmall, {change}));
  EXPECT_EQ(all.size(), changes.size() + 1);
}

TEST(ConfigHash, KnownValues) {
  EXPECT_EQ(hex64(fnv1a("")), "cbf29ce484222325");  // the FNV-1a reference vectors
  EXPECT_EQ(hex64(fnv1a("a")), "af63dc4c8601ec8c");
  EXPECT_EQ(hex64(fnv1a("foobar")), "85944171f73967e8");
}

TEST(ConfigHash, EverythingIsWhatRanksCompare) {
  RunConfig a = load(kSmall), b = load(kSmall, {"prompt.text=other"});
  a.file = b.file = "";
  EXPECT_NE(config_hash(a, HashScope::everything), config_hash(b, HashScope::everything));
  EXPECT_EQ(canonical_json(a, HashScope::outcome).find("prompt."), std::string::npos);
}

TEST(Nearest, CountsEdits) {
  EXPECT_EQ(edit_distance("", "abc"), 3);
  EXPECT_EQ(edit_distance("window", "window"), 0);
  EXPECT_EQ(edit_distance("windw", "window"), 1);
  EXPECT_EQ(edit_distance("widnow", "window"), 1);  // a swap is one edit
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
}

}  // namespace
}  // namespace restkv
