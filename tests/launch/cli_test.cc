// The command line, and every subcommand that needs no ranks.
#include <gtest/gtest.h>

#include "tests/launch/subprocess.h"
#include "tests/launch/tiny_model.h"

namespace restkv {
namespace {

using testing::count_of;
using testing::Outcome;
using testing::TinyModel;

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << text

/// Exit code 2, nothing on standard output, one line that says why.
void expect_refused(const Outcome& outcome, const std::string& why) {
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(count_of(outcome.err, "\n"), 1) << outcome.err;
  EXPECT_TRUE(outcome.err.starts_with("restkv: error: ")) << outcome.err;
  EXPECT_HAS(outcome.err, why);
}

TEST(CommandLine, Version) {
  Outcome outcome = testing::restkv(0, "--version");
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.out, "restkv " RESTKV_VERSION "\n");
}

TEST(CommandLine, HelpNamesTheSubcommands) {
  Outcome outcome = testing::restkv(0, "--help");
  EXPECT_EQ(outcome.exit_code, 0);
  for (const char* name : {"run", "plan", "bench", "inspect", "--version"}) EXPECT_HAS(outcome.out, name);
}

TEST(CommandLine, Mistakes) {
  expect_refused(testing::restkv(0, ""), "A subcommand is required");
  expect_refused(testing::restkv(0, "dance"), "dance");
  expect_refused(testing::restkv(0, "run"), "CONFIG is required");
  expect_refused(testing::restkv(0, "bench"), "CONFIG is required");
  expect_refused(testing::restkv(0, "plan a.yaml --fast"), "--fast");
  expect_refused(testing::restkv(0, "plan a.yaml b.yaml"), "b.yaml");
}

TEST(CommandLine, AMistakeIsSaidOnceByManyRanks) {
  Outcome outcome = testing::restkv(3, "run");
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_EQ(count_of(outcome.err, "restkv: error:"), 1) << outcome.err;
}

TEST(Inspect, TellsWhatTheFilesSay) {
  TinyModel model;
  Outcome outcome = testing::restkv(0, "inspect " + model.path());
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_HAS(outcome.out, "safetensors");
  EXPECT_HAS(outcome.out, "8 query, 2 KV, size 16");
  EXPECT_HAS(outcome.out, "model.layers.1.mlp.down_proj.weight");
  EXPECT_HAS(outcome.out, "byte-level BPE");
  EXPECT_HAS(outcome.out, "message['content']");
}

TEST(Inspect, NoSuchModel) {
  expect_refused(testing::restkv(0, "inspect /nonexistent/model"), "/nonexistent/model");
  expect_refused(testing::restkv(0, "inspect /nonexistent/model.gguf"), "/nonexistent/model.gguf");
}

TEST(Plan, NeedsNoRanks) {
  TinyModel model;
  std::string config = model.config(2, 1500, "cache:\n  budget: 10%\n");
  Outcome outcome = testing::restkv(0, "plan " + config + " --set parallel.sequence=4 --set parallel.tensor=2");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  for (const char* part :
       {"4 x 2 (sequence x tensor)", "the longest 1500 tokens", "150 tokens (policy restkv)", "weights",
        "one layer's K/V", "retained cache", "eviction decision", "decode, per token", "8 x "})
    EXPECT_HAS(outcome.out, part);
  EXPECT_FALSE(std::filesystem::exists(model.results()));
}

TEST(Plan, RefusesWhatCannotFitAndNamesWhatWould) {
  TinyModel model;
  std::string config = model.config(1, 3000, "cache:\n  policy: full\n");
  Outcome outcome = testing::restkv(0, "plan " + config + " --set parallel.memory_gib=0.006");
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_HAS(outcome.err, "does not fit into memory");
  EXPECT_HAS(outcome.err, "What would fit: a prompt of at most ");
  EXPECT_HAS(outcome.err, "parallel.sequence: ");
  outcome = testing::restkv(0, "plan " + config + " --set parallel.memory_gib=1");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
}

TEST(Plan, BadInputAsInARun) {
  TinyModel model;
  std::string config = model.config(1, 100);
  expect_refused(testing::restkv(0, "plan " + config + " --set parallel.tensor=3"), "allowed: 1, 2, 4, 8");
  expect_refused(testing::restkv(0, "plan " + config + " --set cache.widow=3"),
                 "nearest known key is \"cache.window\"");
}

}  // namespace
}  // namespace restkv
