#include "launch/prompts/prompts.h"

#include <gtest/gtest.h>

#include "dist/base/error.h"
#include "tests/launch/temp_dir.h"

namespace restkv {
namespace {

using testing::TempDir;

class Prompts : public ::testing::Test {
 protected:
  std::vector<PromptSource> jsonl(const std::string& content) {
    RunConfig config;
    config.prompt.jsonl = dir_.write("p.jsonl", content);
    return read_prompts(config);
  }
  std::string jsonl_error(const std::string& content) {
    std::string text = testing::message_of<InputError>([&] { jsonl(content); });
    return testing::replace_all(text, dir_.path() + "/", "");
  }
  std::string file_error(const std::string& path) {
    RunConfig config;
    config.prompt.file = path;
    std::string text = testing::message_of<InputError>([&] { read_prompts(config); });
    return testing::replace_all(text, dir_.path() + "/", "");
  }
  TempDir dir_;
};

TEST_F(Prompts, TextAndFileAreOnePromptAsItStands) {
  RunConfig config;
  config.prompt.text = "  two\nlines\n";
  ASSERT_EQ(read_prompts(config).size(), 1u);
  EXPECT_EQ(read_prompts(config)[0].text, "  two\nlines\n");
  config.prompt.text.clear();
  config.prompt.file = dir_.write("p.txt", "h\xc3\xa9llo\n{\"prompt\": 1}\n");
  EXPECT_EQ(read_prompts(config)[0].text, "h\xc3\xa9llo\n{\"prompt\": 1}\n");
  config.prompt.file = dir_.write("bom.txt", "\xef\xbb\xbfhello");
  EXPECT_EQ(read_prompts(config)[0].text, "hello");
}

TEST_F(Prompts, JsonLines) {
  auto prompts = jsonl(
      "{\"prompt\": \"one\", \"id\": \"a\", \"answer\": 3}\r\n\n"
      "{\"id\": 7, \"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", \"content\": "
      "\"u\"}]}");
  ASSERT_EQ(prompts.size(), 2u);
  EXPECT_EQ(prompts[0].text, "one");
  EXPECT_EQ(prompts[0].id, "a");
  EXPECT_EQ(prompts[1].id, "7");
  EXPECT_EQ(prompts[1].origin, dir_.path("p.jsonl") + ":3");
  ASSERT_EQ(prompts[1].messages.size(), 2u);
  EXPECT_EQ(prompts[1].messages[1].role, "user");
  EXPECT_EQ(prompts[1].messages[1].content, "u");
}

TEST_F(Prompts, Questions) {
  auto prompts = jsonl("{\"prompt\": \"one\", \"questions\": [\"q\", \"r\"]}\n{\"prompt\": \"two\"}\n");
  EXPECT_EQ(prompts[0].questions, (std::vector<std::string>{"q", "r"}));
  EXPECT_TRUE(prompts[1].questions.empty());
  RunConfig config;
  config.prompt.text = "one";
  config.prompt.questions = {"q", "r"};
  EXPECT_EQ(read_prompts(config)[0].questions, config.prompt.questions);
  EXPECT_EQ(jsonl_error("{\"prompt\": \"one\", \"questions\": \"q\"}"),
            "p.jsonl:1: \"questions\": found string, expected a list of at least one text");
  EXPECT_EQ(jsonl_error("{\"prompt\": \"one\", \"questions\": []}"),
            "p.jsonl:1: \"questions\": found an empty list, expected a list of at least one text");
  EXPECT_EQ(jsonl_error("{\"prompt\": \"one\", \"questions\": [\"q\", \"\"]}"),
            "p.jsonl:1: \"questions\" holds an empty text, expected texts of at least one character");
  EXPECT_EQ(jsonl_error("{\"messages\": [{\"role\": \"user\", \"content\": \"u\"}], \"questions\": [\"q\"]}"),
            "p.jsonl:1: found \"questions\" with \"messages\", expected them with \"prompt\"");
}

TEST_F(Prompts, BadLinesNameFileAndLine) {
  EXPECT_EQ(jsonl_error("{\"prompt\": \"a\"}\n{\"prompt\": \n").substr(0, 30), "p.jsonl:2: not a JSON object: ");
  EXPECT_EQ(jsonl_error("[1]"), "p.jsonl:1: found array, expected a JSON object with \"prompt\" or \"messages\"");
  EXPECT_EQ(jsonl_error("{\"text\": \"a\"}"),
            "p.jsonl:1: found neither \"prompt\" nor \"messages\", expected exactly one");
  EXPECT_EQ(jsonl_error("{\"prompt\": 5}"), "p.jsonl:1: \"prompt\": found number, expected text");
  EXPECT_EQ(jsonl_error("{\"prompt\": \"\"}"), "p.jsonl:1: the prompt is empty; expected at least one character");
  EXPECT_EQ(jsonl_error("{\"prompt\": \"a\", \"id\": [1]}"),
            "p.jsonl:1: \"id\": found array, expected text or an integer");
  EXPECT_EQ(
      jsonl_error("{\"messages\": []}"),
      "p.jsonl:1: \"messages\": found an empty list, expected a list of at least one {\"role\": ..., \"content\": "
      "...}");
  EXPECT_EQ(jsonl_error("{\"messages\": [\"hi\"]}"),
            "p.jsonl:1: \"messages\" holds string, expected objects with \"role\" and \"content\"");
  EXPECT_EQ(jsonl_error("{\"messages\": [{\"role\": \"user\"}]}"),
            "p.jsonl:1: found no \"content\", expected text there");
  EXPECT_EQ(jsonl_error("\n{\"prompt\": \"\xc3(\"}"),
            "p.jsonl:2: invalid UTF-8 at byte 12 (0xC3); the text must be valid UTF-8");
  EXPECT_EQ(jsonl_error("\n\n"), "p.jsonl: prompt.jsonl: found no prompts, expected one JSON object a line");
}

TEST_F(Prompts, BadFiles) {
  EXPECT_EQ(file_error(dir_.path("none.txt")),
            "none.txt: prompt.file: cannot read the file: No such file or directory");
  EXPECT_EQ(file_error("/tmp"), "/tmp: prompt.file: found a directory, expected a file");
  EXPECT_EQ(file_error(dir_.write("empty.txt", "")), "empty.txt: the prompt is empty; expected at least one character");
  EXPECT_EQ(file_error(dir_.write("bad.txt", "one\ntwo \xff\n")),
            "bad.txt: invalid UTF-8 at byte 8 (0xFF); the text must be valid UTF-8");
}

}  // namespace
}  // namespace restkv
