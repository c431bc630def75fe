// Several questions over one context, and tokens that are held back: answers against steps taken by hand and against
// prompts that are read as a whole, on every layout, in batches, and when a run goes on.
#include <gtest/gtest.h>

#include "launch/plan/memory_plan.h"
#include "launch/prompts/prompts.h"
#include "model/sampler.h"
#include "model/transformer.h"
#include "tests/launch/subprocess.h"
#include "tests/launch/tiny_model.h"

namespace restkv {
namespace {

using testing::Outcome;
using testing::TinyModel;
using Json = nlohmann::json;

constexpr const char* kGenerate = "generate: {max_new_tokens: 6, ignore_eos: true}\n";

Outcome run(int ranks, const std::string& config, const std::string& sets = "") {
  Outcome outcome = testing::restkv(ranks, "run " + config + sets);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  return outcome;
}

/// Two contexts, the first with four questions of several lengths.
std::string question_config(const TinyModel& model, const std::string& more, int length = 300) {
  std::string path = model.config(0, 0, kGenerate + more);
  Json first = {{"id", "a"}, {"prompt", TinyModel::text(1, length)}};
  first["questions"] = {"Why?", "What is the name of it?", "And", "When was it?"};
  const Json second = {{"id", "b"}, {"prompt", TinyModel::text(2, length / 2)}, {"questions", {"Where?"}}};
  model.dir().write("prompts.jsonl", first.dump() + "\n" + second.dump() + "\n");
  return path;
}

std::vector<Request> requests_of(const TinyModel& model, const RunConfig& config) {
  return prepare_requests(read_prompts(config), open_checkpoint(model.path()), config);
}

// On one rank, by the engine's own calls.
std::vector<int32_t> by_hand(const TinyModel& model, const RunConfig& config, const Request& request) {
  const Checkpoint checkpoint = open_checkpoint(model.path());
  Context ctx({Device::cpu, 1});
  ProcessGrid grid(make_self_communicator(), 1, 1);
  Transformer transformer(ctx, grid, checkpoint.config, *checkpoint.weights, config.cache, {});
  Sequence sequence = transformer.prefill(std::span(request.tokens).first(request.context), {});
  for (int32_t token : std::span(request.tokens).subspan(request.context)) transformer.decode_step(sequence, token);
  std::vector<int32_t> answer;
  for (int64_t i = 0; i < config.generate.max_new_tokens; ++i) {
    answer.push_back(sample(sequence.logits, {}, 0, static_cast<uint64_t>(i)));
    transformer.decode_step(sequence, answer.back());
  }
  return answer;
}

TEST(Questions, AnswersAreThoseOfStepsByHandOnEveryLayout) {
  TinyModel model;
  const std::string path = question_config(model, "cache: {budget: 25%, window: 16}\n");
  const RunConfig config = load_run_config(path, {});
  const std::vector<Request> requests = requests_of(model, config);
  ASSERT_EQ(requests.size(), 5u);
  std::vector<std::vector<int32_t>> want;
  for (const Request& request : requests) want.push_back(by_hand(model, config, request));
  EXPECT_NE(want[0], want[1]);
  struct Case {
    int ranks;
    const char* sets;
  };
  size_t done = 0;
  for (Case c : {Case{1, ""}, Case{1, " --set generate.batch=3"}, Case{2, " --set parallel.decode=sequence"},
                 Case{2, " --set generate.batch=2"}, Case{3, " --set parallel.decode=sequence --set generate.batch=5"},
                 Case{4, " --set parallel.tensor=2"}}) {
    SCOPED_TRACE(fmt::format("{} ranks{}", c.ranks, c.sets));
    run(c.ranks, path, std::string(c.sets) + " --set output.resume=false");
    const std::vector<Json> results = testing::read_results(model.results());
    ASSERT_EQ(results.size(), done + 5);
    for (size_t i = 0; i < 5; ++i) {
      const Json& r = results[done + i];
      EXPECT_EQ(r["new_token_ids"], Json(want[i])) << "question " << i;
      EXPECT_EQ(r["id"], requests[i].id);
      EXPECT_EQ(r["question"], requests[i].question);
      EXPECT_EQ(r["prompt_tokens"], requests[i].tokens.size());
      EXPECT_EQ(r["context_tokens"], requests[i].context);
      EXPECT_EQ(r["question_tokens"], requests[i].tokens.size() - requests[i].context);
      EXPECT_EQ(r["context_held"], i > 0 && i < 4);  // one prefill, whatever the batches
      EXPECT_EQ(r["kept_hash"], results[done + (i < 4 ? 0 : 4)]["kept_hash"]);
      EXPECT_TRUE(r["evicted"].get<bool>());
      EXPECT_GT(r["feed_s"].get<double>(), 0.0);
    }
    done += 5;
  }
}

// Where nothing is evicted it does not matter what is read at once.
TEST(Questions, WithTheFullCacheAnswersAreThoseOfWholePrompts) {
  TinyModel model;
  const std::string path = question_config(model, "cache: {policy: full}\n");
  const std::vector<Request> requests = requests_of(model, load_run_config(path, {}));
  run(2, path);
  std::string lines;
  for (const Request& r : requests)
    lines +=
        Json{{"prompt", TinyModel::text(r.group == 0 ? 1 : 2, r.group == 0 ? 300 : 150) + "\n\n" + r.question}}.dump() +
        "\n";
  model.dir().write("prompts.jsonl", lines);
  run(2, path);
  run(2, path, " --set prompt.hold_back=20");
  const std::vector<Json> results = testing::read_results(model.results());
  ASSERT_EQ(results.size(), 15u);
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(results[i]["new_token_ids"], results[i + 5]["new_token_ids"]) << "question " << i;
    EXPECT_EQ(results[i]["new_token_ids"], results[i + 10]["new_token_ids"]) << "question " << i;
    EXPECT_EQ(results[i + 10]["question_tokens"], 20);
    EXPECT_EQ(results[i + 5]["question_tokens"], 0);
    EXPECT_EQ(results[i]["prompt_tokens"], results[i + 5]["prompt_tokens"]);
  }
}

// The answer of one token is given after the eviction, and differs from the one before it.
TEST(Questions, OneTokenAfterTheEviction) {
  TinyModel model;
  const std::string path = model.config(8, 400, "generate: {max_new_tokens: 1}\ncache: {budget: 40, window: 16}\n");
  run(2, path, " --set prompt.hold_back=3");
  const RunConfig config = load_run_config(path, {"prompt.hold_back=3"});
  const std::vector<Request> requests = requests_of(model, config);
  for (const Json& r : testing::read_results(model.results())) {
    const Request& request = requests[r["index"].get<size_t>()];
    EXPECT_EQ(request.context, 397);
    EXPECT_EQ(r["new_token_ids"], Json(by_hand(model, config, request))) << r["id"];
    EXPECT_EQ(r["context_tokens"], 397);
    EXPECT_EQ(r["question_tokens"], 3);
    EXPECT_EQ(r["kept_counts"], Json::parse("[[40,40],[40,40]]"));
    EXPECT_TRUE(r["decode_ms_per_token"].is_null());
  }
  run(2, path, " --set cache.policy=full --set prompt.hold_back=3");
  const std::vector<Json> results = testing::read_results(model.results());
  ASSERT_EQ(results.size(), 16u);
  int different = 0;
  for (size_t i = 0; i < 8; ++i) different += results[i]["new_token_ids"] != results[i + 8]["new_token_ids"];
  EXPECT_GT(different, 0);
}

// Draws are counted from the first new token, so that they are those of a prompt that is read as a whole. (The hash of
// the request, which keys them, is not: only the same request can be compared.)
TEST(Questions, SampledAnswersAreTheSameInBatches) {
  TinyModel model;
  const std::string path = question_config(model, "cache: {budget: 25%, window: 16}\n");
  const std::string sets = " --set generate.temperature=2 --set generate.seed=3 --set output.resume=false";
  run(1, path, sets);
  run(2, path, sets + " --set generate.batch=4");
  const std::vector<Json> results = testing::read_results(model.results());
  ASSERT_EQ(results.size(), 10u);
  for (size_t i = 0; i < 5; ++i) EXPECT_EQ(results[i]["new_token_ids"], results[i + 5]["new_token_ids"]);
}

TEST(Questions, ARunGoesOnAmidAContext) {
  TinyModel model;
  const std::string path = question_config(model, "cache: {budget: 25%, window: 16}\n");
  run(2, path);
  const std::vector<Json> all = testing::read_results(model.results());
  ASSERT_EQ(all.size(), 5u);
  // Without the second and the fourth.
  model.dir().write("out.jsonl", all[0].dump() + "\n" + all[2].dump() + "\n" + all[4].dump() + "\n");
  const Outcome outcome = run(2, path);
  EXPECT_NE(outcome.err.find("3 of 5 requests are in "), std::string::npos) << outcome.err;
  const std::vector<Json> again = testing::read_results(model.results());
  ASSERT_EQ(again.size(), 5u);
  for (auto [got, want] : {std::pair(3, 1), {4, 3}}) {
    for (const char* member : {"id", "index", "new_token_ids", "kept_hash", "request_hash"})
      EXPECT_EQ(again[got][member], all[want][member]);
  }
  EXPECT_FALSE(again[3]["context_held"].get<bool>());
  EXPECT_TRUE(again[4]["context_held"].get<bool>());
}

TEST(Questions, MemoryIsPlanned) {
  TinyModel model;
  const std::string path = question_config(model, "cache: {policy: full}\n", 1000);
  run(1, path, " --set generate.batch=4");
  const Json r = testing::read_results(model.results()).front();
  const RunConfig config = [&] {
    RunConfig c = load_run_config(path, {"generate.batch=4"});
    resolve_layout(c, 1);
    return c;
  }();
  const Checkpoint checkpoint = open_checkpoint(model.path());
  const RequestSizes sizes = sizes_of(prepare_requests(read_prompts(config), checkpoint, config));
  EXPECT_TRUE(sizes.shares);
  PlanInput input = make_plan_input(checkpoint, config, DecodeMode::tensor, sizes.context, Device::cpu, sizes.fed);
  input.batch = 4;
  input.held = 1;
  const auto planned = static_cast<double>(plan_memory(input).total());
  const auto measured = r["peak_bytes"][0].get<double>();
  EXPECT_GE(planned, measured);
  EXPECT_LT(planned, 1.5 * measured);
}

}  // namespace
}  // namespace restkv
