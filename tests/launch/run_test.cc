// Runs of the whole program on a small model: results, layouts, resuming, and ranks that die.
#include <gtest/gtest.h>

#include "dist/base/stopwatch.h"
#include "tests/launch/subprocess.h"
#include "tests/launch/tiny_model.h"

namespace restkv {
namespace {

using testing::count_of;
using testing::Outcome;
using testing::TinyModel;

constexpr const char* kShort = "generate: {max_new_tokens: 8, ignore_eos: true}\ncache: {budget: 25%}\n";

std::set<std::string> numbered_ids(int count) {
  std::set<std::string> ids;
  for (int i = 0; i < count; ++i) ids.insert(fmt::format("p{}", i));
  return ids;
}

Outcome run(int ranks, const std::string& config, const std::string& sets = "") {
  Outcome outcome = testing::restkv(ranks, "run " + config + sets);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  return outcome;
}

TEST(Run, WritesOneLineWithEverything) {
  TinyModel model;
  Outcome outcome = run(2, model.config(1, 500, kShort));
  auto results = testing::read_results(model.results());
  ASSERT_EQ(results.size(), 1u);
  const auto& r = results[0];
  EXPECT_EQ(r["id"], "p0");
  EXPECT_EQ(r["index"], 0);
  EXPECT_EQ(r["prompt_tokens"], 500);
  EXPECT_EQ(r["new_tokens"], 8);
  EXPECT_EQ(r["new_token_ids"].size(), 8u);
  EXPECT_EQ(r["stop_reason"], "max_new_tokens");
  EXPECT_TRUE(r["evicted"].get<bool>());
  EXPECT_TRUE(r["reason"].is_null());
  EXPECT_EQ(r["budget_tokens"], 125);
  EXPECT_EQ(r["kept_counts"], nlohmann::json::parse("[[125,125],[125,125]]"));
  EXPECT_EQ(r["cache_bytes"], 2 * 2 * 2 * 125 * 16 * 4);  // K and V, layers, heads, tokens, head size, float
  EXPECT_EQ(r["full_cache_bytes"], 2 * 2 * 2 * 500 * 16 * 4);
  EXPECT_EQ(r["peak_bytes"].size(), 2u);
  EXPECT_EQ(r["cache_bytes_per_rank"][0].get<int64_t>() + r["cache_bytes_per_rank"][1].get<int64_t>(),
            r["cache_bytes"]);
  EXPECT_EQ(r["kept_hash"].get<std::string>().size(), 16u);
  EXPECT_EQ(r["layout"]["sequence"], 2);
  EXPECT_EQ(r["layout"]["tensor"], 1);
  EXPECT_GT(r["bytes_sent"]["prefill"].get<int64_t>(), 0);
  EXPECT_GT(r["bytes_sent"]["evict"].get<int64_t>(), 0);
  EXPECT_GT(r["bytes_sent"]["decode"].get<int64_t>(), 0);
  EXPECT_GT(r["prefill_s"].get<double>(), r["evict_s"].get<double>());
  EXPECT_GT(r["decode_ms_per_token"].get<double>(), 0.0);
  EXPECT_EQ(r["version"], RESTKV_VERSION);
  for (const char* member : {"config_hash", "request_hash"}) EXPECT_EQ(r[member].get<std::string>().size(), 16u);
  EXPECT_EQ(outcome.out, r["text"].get<std::string>() + "\n");  // streamed as it is stored
  for (const char* part : {"prefill", "eviction", "decode", "125 / 500 tokens per head", "(25.0%)", "peak memory"})
    EXPECT_NE(outcome.err.find(part), std::string::npos) << part;
}

TEST(Run, ShortPromptsAreNotEvictedAndTheResultSaysSo) {
  TinyModel model;
  run(2, model.config(1, 40, "generate: {max_new_tokens: 1}\n"));
  auto results = testing::read_results(model.results());
  ASSERT_EQ(results.size(), 1u);
  EXPECT_FALSE(results[0]["evicted"].get<bool>());
  EXPECT_NE(results[0]["reason"].get<std::string>().find("not longer than the budget"), std::string::npos);
  EXPECT_EQ(results[0]["cache_bytes"], results[0]["full_cache_bytes"]);
  EXPECT_TRUE(results[0]["decode_ms_per_token"].is_null());
}

TEST(Run, SameTextOnEveryLayout) {
  TinyModel model;
  std::string config = model.config(1, 700, kShort);
  struct Case {
    int ranks;
    const char* sets;
  };
  for (Case c : {Case{1, ""}, Case{2, ""}, Case{2, " --set parallel.decode=sequence"},
                 Case{2, " --set parallel.tensor=2"}, Case{4, " --set parallel.tensor=2"}, Case{3, ""}})
    run(c.ranks, config, c.sets);
  auto results = testing::read_results(model.results());
  ASSERT_EQ(results.size(), 6u);
  for (const auto& r : results) {
    EXPECT_EQ(r["new_token_ids"], results[0]["new_token_ids"]) << r["layout"];
    if (r["layout"]["tensor"] == 1) {
      EXPECT_EQ(r["kept_hash"], results[0]["kept_hash"]) << r["layout"];
    }
  }
}

TEST(Run, SampledTextIsTheSameOnEveryLayout) {
  TinyModel model;
  std::string config =
      model.config(2, 150, "generate: {max_new_tokens: 6, temperature: 0.8, top_p: 0.9, seed: 5, ignore_eos: true}\n");
  run(1, config);
  run(2, config);
  auto results = testing::read_results(model.results());
  ASSERT_EQ(results.size(), 4u);
  EXPECT_EQ(results[0]["new_token_ids"], results[2]["new_token_ids"]);
  EXPECT_EQ(results[1]["new_token_ids"], results[3]["new_token_ids"]);
  EXPECT_NE(results[0]["new_token_ids"], results[1]["new_token_ids"]);
}

TEST(Run, BatchedResultsAreThoseOfOneAtATime) {
  TinyModel model;
  // Without ignore_eos and with a temperature: requests end at different steps and leave the batch.
  std::string config =
      model.config(5, 150, "generate: {max_new_tokens: 40, temperature: 3.0, seed: 5, stop: [a, e]}\n");
  run(1, config);
  run(2, config, " --set generate.batch=3 --set output.resume=false");
  auto results = testing::read_results(model.results());
  ASSERT_EQ(results.size(), 10u);
  std::set<size_t> lengths;
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(results[i]["new_token_ids"], results[i + 5]["new_token_ids"]);
    EXPECT_EQ(results[i]["text"], results[i + 5]["text"]);
    EXPECT_EQ(results[i]["batch"], 1);
    EXPECT_EQ(results[i + 5]["batch"], i < 3 ? 3 : 2);
    lengths.insert(results[i]["new_token_ids"].size());
  }
  EXPECT_GT(lengths.size(), 1u);
}

TEST(Run, ChatTemplateAndMessages) {
  TinyModel model;
  std::string config = model.config(1, 10, "generate: {max_new_tokens: 1}\n");
  model.dir().write(
      "prompts.jsonl",
      "{\"id\": \"a\", \"prompt\": \"hello\"}\n{\"id\": \"b\", \"messages\": [{\"role\": \"user\", \"content\": "
      "\"hello\"}]}\n");
  run(1, config, " --set prompt.chat=auto");
  auto results = testing::read_results(model.results());
  ASSERT_EQ(results.size(), 2u);
  // "<user>hello\n<assistant>" is 24 bytes, and no "th" in it.
  EXPECT_EQ(results[0]["prompt_tokens"], 23);
  EXPECT_EQ(results[0]["new_token_ids"], results[1]["new_token_ids"]);
}

TEST(Run, LongPromptsAreShortenedOnRequest) {
  TinyModel model;
  run(1, model.config(1, 4200, kShort), " --set prompt.max_tokens=300");
  auto results = testing::read_results(model.results());
  ASSERT_EQ(results.size(), 1u);
  EXPECT_EQ(results[0]["prompt_tokens"], 300);
  EXPECT_EQ(results[0]["removed_prompt_tokens"], 3900);
}

TEST(Run, GenerationEndsAtTheLastPosition) {
  TinyModel model;
  run(1, model.config(1, 4090, "generate: {max_new_tokens: 50, ignore_eos: true}\ncache: {budget: 64}\n"));
  auto results = testing::read_results(model.results());
  ASSERT_EQ(results.size(), 1u);
  EXPECT_EQ(results[0]["stop_reason"], "positions");
  EXPECT_EQ(results[0]["new_tokens"], 7);  // positions 4090 to 4095, and the token after the last
}

TEST(Resume, SkipsWhatIsThereUnderTheSameConfiguration) {
  TinyModel model;
  std::string config = model.config(2, 100, kShort);
  run(2, config, " --set cache.budget=64");
  std::string first = testing::read_file(model.results());
  Outcome again = run(2, config, " --set cache.budget=64");
  EXPECT_EQ(testing::read_file(model.results()), first);
  EXPECT_NE(again.err.find("2 of 2 requests are in "), std::string::npos) << again.err;
  model.config(3, 100, kShort);  // one more prompt
  run(2, config, " --set cache.budget=64");
  EXPECT_EQ(testing::ids_once(model.results()), numbered_ids(3));
  run(2, config, " --set cache.budget=48");  // another configuration
  EXPECT_EQ(testing::read_results(model.results()).size(), 6u);
  run(2, config, " --set cache.budget=48 --set output.resume=false");
  EXPECT_EQ(testing::read_results(model.results()).size(), 9u);
}

TEST(Resume, AfterATornLine) {
  TinyModel model;
  std::string config = model.config(3, 100, kShort);
  run(1, config, " --set cache.budget=64");
  std::string whole = testing::read_file(model.results());
  std::filesystem::resize_file(model.results(), whole.size() - 40);
  Outcome again = run(1, config, " --set cache.budget=64");
  EXPECT_NE(again.err.find("cut off a torn last line"), std::string::npos) << again.err;
  EXPECT_EQ(testing::ids_once(model.results()), numbered_ids(3));
}

/// Starts a run whose ranks leave their process ids, and waits until `ready`.
class Interrupted {
 public:
  Interrupted(const TinyModel& model, int ranks, const std::string& config)
      : model_(model),
        process_(fmt::format("exec {} -np {} sh -c 'echo $$ > {}/pid.$OMPI_COMM_WORLD_RANK; exec {} run {} --set "
                             "parallel.device=cpu'",
                             RESTKV_MPIRUN, ranks, model.dir().path(), RESTKV_PROGRAM, config)) {}

  template <class Ready>
  void wait_until(const Ready& ready) {
    for (int i = 0; i < 6000 && !ready(process_); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    EXPECT_TRUE(ready(process_)) << process_.err();
  }
  pid_t pid_of(int rank) const {
    return std::stoi(testing::read_file(fmt::format("{}/pid.{}", model_.dir().path(), rank)));
  }
  Outcome wait() { return process_.wait(); }

 private:
  const TinyModel& model_;
  testing::Process process_;
};

/// Whether a process runs; one that ended and that nobody has waited for does not.
bool alive(pid_t pid) {
  std::string status = testing::read_file(fmt::format("/proc/{}/stat", pid));
  size_t name_end = status.rfind(") ");
  return name_end != std::string::npos && status.size() > name_end + 2 && status[name_end + 2] != 'Z';
}

TEST(Interruption, KilledInTheMiddleAndStartedAgain) {
  TinyModel model;
  std::string config =
      model.config(12, 200, "generate: {max_new_tokens: 200, ignore_eos: true}\ncache: {budget: 64}\n");
  {
    Interrupted first(model, 2, config);
    first.wait_until([&](auto&) { return count_of(testing::read_file(model.results()), "\n") >= 2; });
    ::kill(first.pid_of(0), SIGKILL);  // the rank that writes
    EXPECT_NE(first.wait().exit_code, 0);
  }
  size_t done = testing::ids_once(model.results()).size();
  EXPECT_GE(done, 2u);
  EXPECT_LT(done, 12u);
  run(2, config);
  EXPECT_EQ(testing::ids_once(model.results()), numbered_ids(12));
}

TEST(Interruption, ARankThatDiesInDecodeEndsAllWithinFiveSeconds) {
  TinyModel model;
  std::string config = model.config(1, 100, "generate: {max_new_tokens: 3900, ignore_eos: true}\n");
  Interrupted run(model, 2, config);
  run.wait_until([](testing::Process& p) { return p.out().size() > 20; });  // text comes out: decoding
  pid_t survivor = run.pid_of(0);
  EXPECT_TRUE(alive(survivor) && alive(run.pid_of(1)));
  ::kill(run.pid_of(1), SIGKILL);
  Stopwatch since_kill;
  Outcome outcome = run.wait();
  EXPECT_NE(outcome.exit_code, 0);
  // The launcher may return a moment before its last rank is gone.
  while (alive(survivor) && since_kill.seconds() < 5.0) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_LT(outcome.seconds, 5.0);
  EXPECT_FALSE(alive(survivor));
  EXPECT_EQ(testing::read_file(model.results()), "");  // no half result
}

}  // namespace
}  // namespace restkv
