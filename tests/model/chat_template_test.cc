// Chat templates against what jinja2 prints, byte for byte.
#include "model/chat_template.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "dist/base/error.h"

namespace restkv {
namespace {

std::string chat_data(const std::string& name) {
  std::ifstream in(std::string(RESTKV_TEST_DATA "/chat/") + name, std::ios::binary);
  EXPECT_TRUE(in) << name;
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

class ChatFixture : public ::testing::Test {
 protected:
  nlohmann::ordered_json fixture_ = nlohmann::ordered_json::parse(chat_data("cases.json"));
  std::tm now_ = [this] {
    std::tm now{};
    std::istringstream(fixture_["now"].get<std::string>()) >> std::get_time(&now, "%Y-%m-%d %H:%M:%S");
    return now;
  }();

  std::vector<ChatMessage> conversation(const std::string& name) const {
    std::vector<ChatMessage> messages;
    for (const auto& message : fixture_["conversations"][name])
      messages.push_back({message["role"], message["content"]});
    return messages;
  }

  std::string render(const nlohmann::ordered_json& entry) const {
    const std::string name = entry["name"];
    const std::string source = entry.contains("source") ? entry["source"].get<std::string>() : chat_data(name);
    if (!entry.contains("variables"))
      return render_chat(source, name, conversation(entry["conversation"]), entry["generate"], "<s>", "</s>", &now_);
    return render_template(source, name, variables(entry), &now_);
  }

  nlohmann::ordered_json variables(const nlohmann::ordered_json& entry) const {
    nlohmann::ordered_json out = {{"messages", fixture_["conversations"][entry["conversation"].get<std::string>()]},
                                  {"add_generation_prompt", entry["generate"]},
                                  {"bos_token", "<s>"},
                                  {"eos_token", "</s>"}};
    if (entry.contains("variables"))
      for (const auto& [key, value] : fixture_["variables"][entry["variables"].get<size_t>()].items()) out[key] = value;
    return out;
  }
};

TEST_F(ChatFixture, TextEqualsTheReference) {
  int compared = 0;
  for (const auto& entry : fixture_["cases"]) {
    if (!entry.contains("expected")) continue;
    SCOPED_TRACE(entry["name"].get<std::string>() + " " +
                 entry.value("source", entry["conversation"].get<std::string>()));
    ++compared;
    try {
      EXPECT_EQ(render(entry), entry["expected"].get<std::string>());
    } catch (const Error& error) {
      ADD_FAILURE() << error.what();
    }
  }
  EXPECT_GT(compared, 380);
}

TEST_F(ChatFixture, MessagesAsJsonGiveTheSame) {
  for (const auto& entry : fixture_["cases"]) {
    if (!entry.contains("expected") || entry.contains("source")) continue;
    const std::string name = entry["name"];
    EXPECT_EQ(render_template(chat_data(name), name, variables(entry), &now_), entry["expected"].get<std::string>());
  }
}

TEST(ChatTemplate, VariablesThatTemplatesDoNotKnowAreRefused) {
  const auto message = [](const nlohmann::ordered_json& variables) {
    try {
      return "printed: " + render_template("{{ x }} {{ tools }}", "m", variables);
    } catch (const InputError& error) {
      return std::string(error.what());
    }
  };
  EXPECT_EQ(message({{"x", -3}}), "printed: -3 None");
  EXPECT_NE(message({{"x", uint64_t{1} << 63}}).find("variable x: the number 9223372036854775808 is too large"),
            std::string::npos);
  EXPECT_NE(message({{"x", "\xff"}}).find("variable x: invalid UTF-8"), std::string::npos);
  EXPECT_NE(message(5).find("the variables are no JSON object"), std::string::npos);
  nlohmann::ordered_json deep = 1;
  for (int i = 0; i < 100; ++i) deep = nlohmann::ordered_json::array({deep});
  EXPECT_NE(message({{"x", deep}}).find("nested deeper than 64 levels"), std::string::npos);
}

TEST_F(ChatFixture, WhatTheReferenceRefusesIsRefused) {
  int refused = 0;
  for (const auto& entry : fixture_["cases"]) {
    if (entry.contains("expected")) continue;
    SCOPED_TRACE(entry["name"].get<std::string>() + " " +
                 entry.value("source", entry["conversation"].get<std::string>()));
    ++refused;
    try {
      ADD_FAILURE() << "printed: " << render(entry);
    } catch (const InputError& error) {
      const std::string text = error.what();
      EXPECT_EQ(text.rfind(entry["name"].get<std::string>() + ": ", 0), 0u) << text;
      if (entry.contains("raised"))
        EXPECT_NE(text.find("refuses these messages: " + entry["raised"].get<std::string>()), std::string::npos)
            << text;
      else
        EXPECT_NE(text.find("chat template, line "), std::string::npos) << text;
    }
  }
  EXPECT_GT(refused, 60);
}

std::string message_of(const std::string& source) {
  try {
    return "printed: " + render_chat(source, "m.gguf", {{"user", "x"}}, true, "", "");
  } catch (const InputError& error) {
    return error.what();
  }
}

TEST(ChatTemplate, WhatIsNotSupportedIsNamedWithItsLine) {
  const std::pair<const char*, const char*> cases[] = {
      {"a\n{% include 'x' %}", "m.gguf: chat template, line 2: the tag 'include' is not supported"},
      {"\n\n{{ 'x' | groupby('a') }}", "line 3: the filter 'groupby' is not supported; supported: abs, "},
      {"{{ 1 is escaped }}", "line 1: the test 'escaped' is not supported; supported: "},
      {"{{ 'a'.encode() }}", "line 1: a string has no method 'encode' that is supported"},
      {"{{ 'a'.strip }}", "line 1: the method 'strip' is supported only where it is called"},
      {"{{ f(*a) }}", "line 1: arguments with '*' are not supported"},
      {"{% for x in y recursive %}{% endfor %}", "line 1: recursive loops are not supported"},
      {"{{ '%s' % 'x' }}", "line 1: '%' is not supported between a string and a string"},
      {"{{ 0x10 }}", "line 1: the number '0x' is not supported"},
      {"{{ namespace() }}", "line 1: a namespace cannot be printed"},
      {"{{ joiner() }}", "line 1: the function 'joiner' is not defined"},
      {"{% for m in messages %}\n{{ m.content + 1 }}\n{% endfor %}",
       "line 2: '+' is not supported between a string and"},
      {"{{ 9223372036854775807 + 1 }}", "line 1: the result of + is too large"},
      {"{{ 'x' * 999999999999 }}", "line 1: the result of * is too large"},
  };
  for (const auto& [source, expected] : cases)
    EXPECT_NE(message_of(source).find(expected), std::string::npos) << message_of(source);
}

TEST(ChatTemplate, InvalidUtf8IsRefused) {
  EXPECT_NE(message_of("a\xff").find("m.gguf: chat template: invalid UTF-8 at byte 1"), std::string::npos);
  EXPECT_THROW(render_chat("{{ messages[0].content }}", "t", {{"user", "ab\xc3"}}, true, "", ""), InputError);
}

TEST(ChatTemplate, DeepNestingIsRefused) {
  const auto repeat = [](const std::string& text, int count) {
    std::string out;
    for (int i = 0; i < count; ++i) out += text;
    return out;
  };
  for (const std::string& source :
       {"{{ " + repeat("(", 100000), "{{ " + repeat("[", 100000), "{{ " + repeat("not ", 100000),
        "{{ " + repeat("-", 100000), "{{ x" + repeat("[0]", 100000) + " }}", "{{ x" + repeat("|trim", 100000) + " }}",
        repeat("{% if 1 %}", 100000), repeat("{% for x in y %}", 100000), "{{ " + repeat("1 if ", 100000)}) {
    EXPECT_NE(message_of(source).find("chat template, line 1"), std::string::npos) << source.substr(0, 30);
  }
}

// Any change of a template prints something or is refused.
TEST_F(ChatFixture, ChangedTemplatesNeverCrash) {
  std::mt19937 rng(5);
  static constexpr std::string_view kSigns = "{}%#-+()[]|.,:'\"\\ \n0aif";
  std::vector<std::string> sources;
  for (const auto& entry : fixture_["cases"])
    if (entry.contains("source")) sources.push_back(entry["source"]);
  for (const char* name : {"chatml", "headers", "brackets", "turns", "tools", "thinking", "asks", "calls", "functions"})
    for (int i = 0; i < 20; ++i) sources.push_back(chat_data(std::string(name) + ".jinja"));
  int printed = 0;
  for (std::string source : sources) {
    for (int i = 0; i < 6 && !source.empty(); ++i) {
      const size_t at = rng() % source.size();
      switch (rng() % 3) {
        case 0: source.erase(at, rng() % 12); break;
        case 1: source.insert(at, source.substr(rng() % source.size(), rng() % 12)); break;
        default: source[at] = kSigns[rng() % kSigns.size()];
      }
      try {
        render_chat(source, "t", conversation("long"), true, "<s>", "</s>", &now_);
        ++printed;
      } catch (const InputError&) {
      }
    }
  }
  EXPECT_GT(printed, 100);
}

TEST(ChatTemplate, LongMessagesAreFast) {
  const std::string text(4 << 20, 'x');
  const std::string out =
      render_chat(chat_data("brackets.jinja"), "t", {{"system", text}, {"user", text}}, true, "<s>", "");
  EXPECT_EQ(out.size(), 2 * text.size() + std::string("<s>[INST] \n\n[/INST]").size());
}

}  // namespace
}  // namespace restkv
