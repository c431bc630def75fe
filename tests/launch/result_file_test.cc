#include "launch/results/result_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>

#include "dist/base/error.h"
#include "tests/launch/temp_dir.h"

namespace restkv {
namespace {

using testing::read_file;
using testing::TempDir;

std::string line(const std::string& request, const std::string& text = "t") {
  return R"({"config_hash":"c","request_hash":")" + request + R"(","text":")" + text + R"("})";
}

TEST(ResultFile, AppendsWholeLinesAndKnowsThemAgain) {
  TempDir dir;
  std::string path = dir.path("deep/er/out.jsonl");
  {
    ResultFile file(path);
    EXPECT_FALSE(file.holds("c", "1"));
    file.append(line("1"));
    EXPECT_EQ(read_file(path), line("1") + "\n");  // there before the object ends
    file.append(line("2"));
  }
  ResultFile file(path);
  EXPECT_TRUE(file.holds("c", "1") && file.holds("c", "2"));
  EXPECT_FALSE(file.holds("c", "3") || file.holds("d", "1"));
  EXPECT_EQ(file.torn_bytes(), 0);
  file.append(line("3"));
  EXPECT_EQ(read_file(path), line("1") + "\n" + line("2") + "\n" + line("3") + "\n");
}

TEST(ResultFile, EveryTornEndIsCutOff) {
  TempDir dir;
  std::string whole = line("1") + "\n" + line("2") + "\n";
  size_t first = line("1").size() + 1;
  for (size_t cut = first; cut <= whole.size(); ++cut) {
    std::string path = dir.write("out.jsonl", whole.substr(0, cut));
    ResultFile file(path);
    bool complete = cut >= whole.size() - 1;  // only its newline is missing
    EXPECT_EQ(file.holds("c", "2"), complete) << cut;
    EXPECT_EQ(file.torn_bytes(), complete ? 0 : static_cast<int64_t>(cut - first)) << cut;
    if (!complete) file.append(line("2"));
    EXPECT_EQ(read_file(path), whole) << cut;
  }
}

TEST(ResultFile, ForeignFilesAreLeftAlone) {
  TempDir dir;
  auto refuse = [&](const std::string& content) {
    std::string path = dir.write("x.jsonl", content);
    std::string text = testing::message_of<InputError>([&] { ResultFile file(path); });
    EXPECT_EQ(read_file(path), content);
    return testing::replace_all(text, dir.path() + "/", "");
  };
  EXPECT_EQ(refuse(line("1") + "\nmodel:\n"),
            "output.file x.jsonl:2: found a line that is no result of restkv; expected another file's name");
  EXPECT_EQ(refuse("{\"prompt\": \"p\"}\n"),
            "output.file x.jsonl:1: found a line that is no result of restkv; expected another file's name");
  EXPECT_EQ(refuse("some text"),
            "output.file x.jsonl: its last line is no result of restkv; expected another file's name");
}

TEST(ResultFile, CannotBeOpened) {
  TempDir dir;
  EXPECT_EQ(testing::message_of<InputError>([&] { ResultFile file("/tmp"); }),
            "output.file /tmp: cannot open it for writing: Is a directory");
  std::string blocked = dir.write("file", "") + "/out.jsonl";
  EXPECT_NE(testing::message_of<InputError>([&] { ResultFile file(blocked); }).find("cannot create its folder"),
            std::string::npos);
}

TEST(ResultFile, TwoRunsDoNotShareAFile) {
  TempDir dir;
  ResultFile one(dir.path("out.jsonl"));
  EXPECT_NE(testing::message_of<InputError>([&] {
              ResultFile two(dir.path("out.jsonl"));
            }).find("another run is writing to it"),
            std::string::npos);
}

TEST(ResultFile, DiskFullDevice) {
  ResultFile file("/dev/full");
  EXPECT_EQ(testing::message_of<InputError>([&] { file.append(line("1")); }),
            "output.file /dev/full: cannot write a result of 50 bytes: No space left on device; the results before it "
            "are kept; make room and start the same command again");
}

/// A write that stops in the middle of a line leaves the lines before it, and nothing else.
TEST(ResultFile, DiskFullInTheMiddleOfALine) {
  TempDir dir;
  std::string path = dir.path("out.jsonl");
  ResultFile file(path);
  file.append(line("1"));
  struct rlimit before {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  struct rlimit limit = before;
  limit.rlim_cur = read_file(path).size() + 20;
  std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  std::string text = testing::message_of<InputError>([&] { file.append(line("2")); });
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_NE(text.find("only 20 of 50 bytes were written"), std::string::npos) << text;
  EXPECT_NE(text.find("the results before it are kept"), std::string::npos) << text;
  EXPECT_EQ(read_file(path), line("1") + "\n");
  file.append(line("2"));  // room again
  EXPECT_EQ(read_file(path), line("1") + "\n" + line("2") + "\n");
}

}  // namespace
}  // namespace restkv
