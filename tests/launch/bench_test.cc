// restkv bench as a user starts it: its lines, its table, and what it does with points that cannot run.
#include <gtest/gtest.h>

#include "tests/launch/subprocess.h"
#include "tests/launch/tiny_model.h"

namespace restkv {
namespace {

using testing::count_of;
using testing::Outcome;
using testing::TempDir;

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << text

constexpr const char* kTiny =
    "model: {weights: random, preset: tiny}\ncache: {window: 8}\nparallel: {threads: 1}\n"
    "bench: {context: 300, policies: restkv, budgets: 32, new_tokens: 3, warmup: 0, repeats: 1}\n";

class BenchRun : public ::testing::Test {
 protected:
  Outcome bench(int ranks, const std::string& sets, const std::string& yaml = kTiny) {
    std::string path = dir_.write("b.yaml", yaml);
    return testing::restkv(ranks, "bench " + path + " --set bench.file=" + file() + sets);
  }
  /// The lines of all kinds but "links".
  std::vector<nlohmann::json> points_and_environment() const {
    auto lines = testing::read_results(file());
    std::erase_if(lines, [](const nlohmann::json& line) { return line["kind"] == "links"; });
    return lines;
  }
  std::string file() const { return dir_.path("b.jsonl"); }
  TempDir dir_;
};

TEST_F(BenchRun, WritesTheEnvironmentAndEveryPoint) {
  Outcome outcome = bench(1,
                          " --set 'bench.context=[300, 600]' --set 'bench.policies=[full, snapkv, restkv]' --set "
                          "'bench.budgets=[32, 10%]' --set 'bench.batch=[2, 1]' --set bench.repeats=3");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  auto lines = testing::read_results(file());
  ASSERT_EQ(lines.size(), 1u + (1 + 2 + 2) * 2 * 2);
  const auto& e = lines[0];
  EXPECT_EQ(e["kind"], "environment");
  EXPECT_EQ(e["version"], RESTKV_VERSION);
  EXPECT_EQ(e["device"], "cpu");
  EXPECT_FALSE(e["device_name"].get<std::string>().empty());
  EXPECT_GT(e["ceilings"]["gemm_tflops"].get<double>(), 1e-4);
  EXPECT_GT(e["ceilings"]["copy_tbs"].get<double>(), 1e-4);
  EXPECT_EQ(e["config"]["bench.batch"], (std::vector<int>{2, 1}));
  EXPECT_EQ(e["libraries"]["cuda"], nullptr);

  const auto& p = lines[1 + 4 + 2];  // after full: snapkv 32 at 300 tokens, then at 600
  EXPECT_EQ(p["kind"], "point");
  EXPECT_EQ(p["status"], "ok");
  EXPECT_EQ(p["policy"], "snapkv");
  EXPECT_EQ(p["budget"], 32);
  EXPECT_EQ(p["context"], 600);
  EXPECT_EQ(p["batch"], 1);
  EXPECT_EQ(p["ranks"], 1);
  EXPECT_EQ(p["model"], "random:tiny");
  EXPECT_EQ(p["prefill"]["all_s"].size(), 3u);
  std::vector<double> seconds = p["prefill"]["all_s"];
  std::sort(seconds.begin(), seconds.end());
  EXPECT_EQ(p["prefill"]["s"], seconds[1]);
  EXPECT_EQ(p["prefill"]["flops"]["head"], 2.0 * 256 * 1024);
  double phases = 0.0;
  for (const auto& phase : p["prefill"]["phases"]) phases += phase["s"].get<double>();
  EXPECT_GT(phases, 0.3 * p["prefill"]["s"].get<double>());
  EXPECT_LE(phases, 1.01 * p["prefill"]["s"].get<double>());
  EXPECT_EQ(p["decode"]["steps"], 3);
  EXPECT_GE(p["decode"]["p95_ms"].get<double>(), p["decode"]["ms"].get<double>());
  EXPECT_GT(p["decode"]["mean_ms"].get<double>(), p["decode"]["ms"].get<double>() / 3.0);  // of three steps
  EXPECT_FALSE(p["decode"]["phases"].empty());
  // K and V, layers, heads, head size, float; kept rows, and 1.5 new ones on average.
  EXPECT_EQ(p["decode"]["kv_bytes"], 2 * 2 * 2 * 32 * 4 * 33.5);
  // All but the embedding table, in bf16; the norms in f32.
  EXPECT_EQ(p["decode"]["weight_bytes"], 2.0 * (2 * (256 * 640 + 3 * 256 * 512) + 1024 * 256) + 4 * 256 * 5);
  EXPECT_EQ(p["kept_counts"], nlohmann::json::parse("[[32,32],[32,32]]"));
  EXPECT_EQ(p["cache_bytes"], 2 * 2 * 2 * 32 * 4 * 32);
  EXPECT_EQ(p["layout"]["decode"], "tensor");
  auto peak = p["peak_bytes"][0].get<double>();
  EXPECT_NEAR(p["planned_bytes"].get<double>(), peak, 0.15 * peak);

  const auto& batch = lines[1 + 4 + 3];
  EXPECT_EQ(batch["batch"], 2);
  EXPECT_EQ(batch["prefill"]["s"], p["prefill"]["s"]);
  // The first sequence goes on from where the batch of one left it.
  EXPECT_EQ(batch["decode"]["kv_bytes"], 2 * 2 * 2 * 32 * 4 * (39.5 + 33.5));
  EXPECT_EQ(batch["config_hash"], p["config_hash"]);
  EXPECT_NE(batch["request_hash"], p["request_hash"]);
  EXPECT_EQ(lines.back()["budget"], 0.1);
  EXPECT_NE(lines.back()["config_hash"], p["config_hash"]);

  EXPECT_EQ(count_of(outcome.out, "\n"), 2 + 20);
  for (const char* part : {"random:tiny on ", "prefill s", "snapkv", "0.1"}) EXPECT_HAS(outcome.out, part);
  EXPECT_EQ(count_of(outcome.err, " of weights on 1 rank"), 1) << outcome.err;  // loaded once
  EXPECT_EQ(count_of(outcome.err, "policy snapkv cannot pool"), 1) << outcome.err;
}

TEST_F(BenchRun, LayoutsOnTwoRanksKeepTheSameTokens) {
  Outcome outcome = bench(2, " --set 'bench.layouts=[2x1, 1x2]' --set 'bench.batch=[1, 2]'");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(testing::read_results(file()).size(), 7u);  // with the links of each layout
  auto lines = points_and_environment();
  ASSERT_EQ(lines.size(), 5u);
  EXPECT_EQ(lines[0]["ranks"], 2);
  for (size_t i = 1; i < 5; ++i) {
    EXPECT_EQ(lines[i]["status"], "ok");
    EXPECT_EQ(lines[i]["ranks"], 2);
    EXPECT_EQ(lines[i]["peak_bytes"].size(), 2u);
    EXPECT_GT(lines[i]["decode"]["sent_bytes_per_step"].get<int64_t>(), 0);
    // Weights once, whichever way they are cut.
    EXPECT_EQ(lines[i]["decode"]["weight_bytes"].get<double>(),
              lines[1]["decode"]["weight_bytes"].get<double>() + (i > 2 ? 4 * 256 * 5 : 0));  // norms on both
    EXPECT_EQ(lines[i]["kept_counts"], lines[1]["kept_counts"]);
  }
  EXPECT_EQ(lines[1]["layout"]["sequence"], 2);
  EXPECT_EQ(lines[3]["layout"]["tensor"], 2);
  EXPECT_EQ(count_of(outcome.err, " of weights on 2 ranks"), 2) << outcome.err;  // once per layout
}

TEST_F(BenchRun, LayoutsOfFewerRanksRunBesideTheOthers) {
  Outcome outcome = bench(3, " --set 'bench.layouts=[3x1, 1x1, 1x2]' --set 'bench.context=[300, 600, 900]'");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  auto lines = points_and_environment();
  ASSERT_EQ(lines.size(), 10u);
  EXPECT_EQ(lines[0]["ranks"], 3);
  for (size_t i = 1; i < 10; ++i) {
    const auto& p = lines[i];
    EXPECT_EQ(p["status"], "ok");
    EXPECT_EQ(p["ranks"], (i + 2) / 3);  // small layouts first
    EXPECT_EQ(p["peak_bytes"].size(), (i + 2) / 3);
    EXPECT_FALSE(p.contains("prediction"));  // of CPUs nothing is known beforehand
    EXPECT_EQ(p.contains("strong_scaling"), i > 3);
    if (i <= 3) continue;
    const auto& one = lines[(i - 1) % 3 + 1];
    const auto& strong = p["strong_scaling"];
    EXPECT_EQ(strong["base"], "1x1");
    auto speedup = one["prefill"]["s"].get<double>() / p["prefill"]["s"].get<double>();
    EXPECT_NEAR(strong["prefill_speedup"].get<double>(), speedup, 0.01 * speedup);
    EXPECT_NEAR(strong["prefill_efficiency"].get<double>(), speedup / p["ranks"].get<double>(), 0.01 * speedup);
    EXPECT_EQ(p["kept_counts"], one["kept_counts"]);
    // 300 tokens on one rank, 600 on two, 900 on three.
    EXPECT_EQ(p.contains("weak_scaling"), p["context"] == 300 * p["ranks"].get<int>());
    if (p["layout"]["tensor"] == 1) {
      EXPECT_EQ(p["kept_hash"], one["kept_hash"]);
    }
  }
  EXPECT_EQ(lines[9]["weak_scaling"]["base_context"], 300);
  EXPECT_HAS(outcome.out, "speed-up");

  // The file of a bench is what the next one's points are predicted from.
  std::string ceilings = dir_.path("ceilings.jsonl");
  std::filesystem::rename(file(), ceilings);
  outcome = bench(2, " --set 'bench.layouts=[1x1, 2x1]' --set bench.context=600 --set plan.ceilings=" + ceilings);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  lines = points_and_environment();
  ASSERT_EQ(lines.size(), 3u);
  for (size_t i = 1; i < 3; ++i) {
    const auto& prediction = lines[i]["prediction"];
    double sum = 0.0;
    for (const auto& part : prediction["prefill"]) sum += part.get<double>();
    EXPECT_NEAR(prediction["prefill_s"].get<double>(), sum, 0.01 * sum);
    EXPECT_GT(sum, 0.0);
    EXPECT_GT(prediction["decode_ms"].get<double>(), 0.0);
    EXPECT_EQ(prediction["prefill"]["evict_exchange"].get<double>() > 0.0, i == 2);
  }
  EXPECT_HAS(outcome.out, "predictions from " + ceilings);
}

// Waiting is no fault: the rank that is left out waits longer than the deadline of a call.
TEST_F(BenchRun, AnIdleRankHasNoDeadline) {
  Outcome outcome = bench(2,
                          " --set bench.layouts=1x1 --set bench.context=2400 --set bench.policies=full --set "
                          "bench.repeats=15 --set parallel.timeout_s=1");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  auto lines = testing::read_results(file());
  ASSERT_EQ(lines.size(), 2u);
  double seconds = 0.0;
  for (double s : lines[1]["prefill"]["all_s"]) seconds += s;
  EXPECT_GT(seconds, 1.5) << "too short to show anything";
}

TEST_F(BenchRun, APointThatDoesNotFitIsRecordedAndTheSweepGoesOn) {
  Outcome outcome = bench(2, " --set 'bench.context=[300, 6000]' --set parallel.memory_gib=0.02");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  auto lines = points_and_environment();
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[1]["status"], "ok");
  EXPECT_EQ(lines[2]["status"], "refused");
  EXPECT_HAS(lines[2]["reason"].get<std::string>(), "A prompt of 6000 tokens needs ");
  EXPECT_HAS(lines[2]["reason"].get<std::string>(), "a prompt of at most ");
  EXPECT_FALSE(lines[2].contains("prefill"));
  EXPECT_HAS(outcome.out, "refused: A prompt of 6000 tokens needs ");
  outcome = bench(1, " --set bench.context=6000 --set parallel.memory_gib=0.002");
  EXPECT_EQ(outcome.exit_code, 2) << outcome.err;  // nothing could be measured
}

// 2^46 tokens need more than a process can address, and memory_gib makes the plan believe in them.
TEST_F(BenchRun, APointThatFailsKeepsTheOthers) {
  Outcome outcome = bench(1,
                          " --set 'bench.context=[300, 70368744177664, 200]' --set bench.policies=full --set "
                          "'bench.batch=[1, 2]' --set parallel.memory_gib=1000000000");
  EXPECT_EQ(outcome.exit_code, 1) << outcome.err;
  auto lines = testing::read_results(file());
  ASSERT_EQ(lines.size(), 7u);
  const char* status[] = {"ok", "ok", "failed", "failed", "ok", "ok"};
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(lines[i + 1]["status"], status[i]) << i;
  EXPECT_HAS(lines[3]["reason"].get<std::string>(), "out of memory");
}

TEST_F(BenchRun, CopiesAreAsMuchWorkAsPromptsOfTheirOwn) {
  const std::string sets = " --set 'bench.batch=[1, 3]' --set bench.context=400";
  EXPECT_EQ(bench(1, sets).exit_code, 0);
  EXPECT_EQ(bench(1, sets + " --set bench.distinct=false").exit_code, 0);
  auto lines = testing::read_results(file());
  ASSERT_EQ(lines.size(), 6u);
  // 3 x 33.5 rows and the 3 that the first sequence had gone on; copied with them when the others are copies of it.
  EXPECT_EQ(lines[2]["decode"]["kv_bytes"], 2 * 2 * 2 * 32 * 4 * (3 * 33.5 + 6));
  EXPECT_EQ(lines[5]["decode"]["kv_bytes"], 2 * 2 * 2 * 32 * 4 * (3 * 33.5 + 18));
  EXPECT_EQ(lines[2]["kept_hash"], lines[5]["kept_hash"]);
}

TEST_F(BenchRun, RunsAreAppended) {
  EXPECT_EQ(bench(1, "").exit_code, 0);
  EXPECT_EQ(bench(1, " --set bench.seed=1").exit_code, 0);
  auto lines = testing::read_results(file());
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0]["config_hash"].get<std::string>().size(), 16u);
  EXPECT_EQ(lines[1]["config_hash"], lines[3]["config_hash"]);
  EXPECT_NE(lines[1]["request_hash"], lines[3]["request_hash"]);
  EXPECT_NE(lines[1]["kept_hash"], lines[3]["kept_hash"]);
}

TEST_F(BenchRun, AModelFromFilesNeedsNoPrompt) {
  testing::TinyModel model;
  std::string yaml = std::string(kTiny).replace(0, std::string("model: {weights: random, preset: tiny}").size(),
                                                "model: {path: " + model.path() + "}");
  Outcome outcome = bench(1, " --set 'bench.context=[300, 4094]'", yaml);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  auto lines = testing::read_results(file());
  EXPECT_EQ(lines[1]["status"], "ok");
  EXPECT_EQ(lines[2]["reason"], "4094 tokens and 6 decode steps exceed the model's 4096 positions");
}

TEST_F(BenchRun, Mistakes) {
  auto refused = [&](int ranks, const std::string& sets, const std::string& why) {
    Outcome outcome = bench(ranks, sets);
    EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
    EXPECT_EQ(count_of(outcome.err, "restkv: error: "), 1) << outcome.err;
    EXPECT_HAS(outcome.err, why);
  };
  refused(2, " --set bench.layouts=2x2",
          "b.yaml: bench.layouts: 2x2 is 4 ranks, but the run has 2; expected mpirun -np 4");
  refused(1, " --set plan.ceilings=/nonexistent.jsonl", "plan.ceilings: /nonexistent.jsonl: cannot be read");
  refused(1, " --set model.preset=gemma-8b", "model.preset: found \"gemma-8b\", expected one of tiny, ");
  refused(1, " --set model.preset=", "b.yaml: model.preset is missing");
  refused(1, " --set model.path=m.gguf", "b.yaml: model.path is given, but model.weights is random");
  refused(1, " --set bench.file=/dev/full", "bench.file /dev/full: cannot write a result");
}

// One chunk holds the whole prompt: the second rank has no rows of it.
TEST_F(BenchRun, PromptsShorterThanAChunk) {
  Outcome outcome = bench(2, " --set bench.context=64 --set bench.budgets=16 --set 'bench.policies=[full, restkv]'");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  auto lines = testing::read_results(file());
  for (const auto& line : lines) {
    if (line["kind"] == "point") {
      EXPECT_EQ(line["status"], "ok");
    }
  }
}

TEST_F(BenchRun, PresetsOneAfterTheOther) {
  const std::string sets = " --set model.layers=1 --set bench.context=300 --set bench.budgets=16 --set bench.presets=";
  // One layer of the smallest shapes; a plan of memory that real ones do not fit.
  Outcome outcome = bench(1, sets + "'[tiny, llama-3.1-70b, tiny]' --set parallel.memory_gib=0.5");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  auto lines = testing::read_results(file());
  ASSERT_EQ(lines.size(), 6u);  // an environment and a point of each
  const char* models[] = {"random:tiny", "random:llama-3.1-70b", "random:tiny"};
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(lines[2 * i]["kind"], "environment");
    EXPECT_EQ(lines[2 * i + 1]["model"], models[i]);
    EXPECT_EQ(lines[2 * i + 1]["status"], i == 1 ? "refused" : "ok");
  }
  EXPECT_EQ(count_of(outcome.out, "random:tiny on "), 4);  // as each ended, and together
  EXPECT_EQ(count_of(outcome.out, "random:llama-3.1-70b on "), 2);
  EXPECT_EQ(bench(1, sets + "llama-3.1-70b --set parallel.memory_gib=0.5").exit_code, 2);
  outcome = bench(2, sets + "'[tiny, tinier]'");
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_HAS(outcome.err, "model.preset: found \"tinier\", expected one of tiny, ");
}

TEST_F(BenchRun, RandomWeightsAnswerNothing) {
  std::string path = dir_.write("b.yaml", kTiny);
  Outcome outcome = testing::restkv(2, "run " + path);
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_EQ(count_of(outcome.err, "restkv: error: "), 1) << outcome.err;
  EXPECT_HAS(outcome.err,
             "model.weights is random: such a model has no tokenizer and cannot answer prompts; expected "
             "restkv bench CONFIG");
  // Its plan is that of the sweep.
  outcome = testing::restkv(0, "plan " + path + " --set 'bench.batch=[1, 64]' --set parallel.memory_gib=0.008");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  for (const char* part : {"plan of the sweep", "random:tiny", "1x1 restkv", "refused: A batch of 64 prompts",
                           "of CPUs nothing is known beforehand"})
    EXPECT_HAS(outcome.out, part);
}

TEST_F(BenchRun, ShippedSweep) {
  Outcome outcome =
      testing::restkv(1, std::string("bench " RESTKV_CONFIGS "/bench_cpu.yaml --set bench.file=") + file());
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(testing::read_results(file()).size(), 21u);
}

}  // namespace
}  // namespace restkv
