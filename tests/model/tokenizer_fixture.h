// Reads the fixtures of tests/data/tokenizer and makes variations of them.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "model/tokenizer/load.h"
#include "model/tokenizer/utf8.h"

namespace restkv::testing {

using Ids = std::vector<int32_t>;

inline std::string tokenizer_data(const std::string& name) {
  return std::string(RESTKV_TEST_DATA "/tokenizer/") + name;
}

inline nlohmann::json read_json(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in) << path;
  return nlohmann::json::parse(in);
}

inline std::string read_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in) << path;
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline const std::vector<std::string>& fixture_strings() {
  static const auto strings = read_json(tokenizer_data("strings.json")).get<std::vector<std::string>>();
  return strings;
}

/// One row of ids per line.
inline std::vector<Ids> read_ids(const std::string& name) {
  std::ifstream in(tokenizer_data(name + ".ids"));
  EXPECT_TRUE(in) << name;
  std::vector<Ids> rows;
  for (std::string line; std::getline(in, line);) {
    std::istringstream fields(line);
    Ids& row = rows.emplace_back();
    for (int32_t id; fields >> id;) row.push_back(id);
  }
  return rows;
}

/// Compares encode() with the reference over all strings; reports the first few that differ.
inline void expect_same_ids(const Tokenizer& tokenizer, const std::vector<std::string>& strings,
                            const std::vector<Ids>& expected, bool parse_special) {
  ASSERT_EQ(strings.size(), expected.size());
  int wrong = 0;
  for (size_t i = 0; i < strings.size() && wrong < 5; ++i) {
    const Ids ids = tokenizer.encode(strings[i], parse_special);
    if (ids == expected[i]) continue;
    ++wrong;
    ADD_FAILURE() << "string " << i << ": " << nlohmann::json(strings[i]).dump(-1, ' ', true) << "\n  found    "
                  << nlohmann::json(ids) << "\n  expected " << nlohmann::json(expected[i]);
  }
}

/// What a GGUF file made from tests/data/tokenizer/NAME would hold.
inline GgufTokenizerData gguf_from_fixture(const std::string& name, const std::string& pre) {
  const nlohmann::json document = read_json(tokenizer_data(name) + "/tokenizer.json");
  GgufTokenizerData data;
  data.origin = name + ".gguf";
  data.model = "gpt2";
  data.pre = pre;
  const auto put = [&](const std::string& token, size_t id, int32_t type) {
    if (id >= data.tokens.size()) data.tokens.resize(id + 1), data.token_type.resize(id + 1, 1);
    data.tokens[id] = token;
    data.token_type[id] = type;
  };
  for (const auto& [token, id] : document["model"]["vocab"].items()) put(token, id, 1);
  for (const auto& token : document["added_tokens"]) put(token["content"], token["id"], token["special"] ? 3 : 4);
  for (const auto& rule : document["model"]["merges"])
    data.merges.push_back(rule[0].get<std::string>() + " " + rule[1].get<std::string>());
  return data;
}

/// A directory with the given files, removed at the end.
class TokenizerDirectory {
 public:
  explicit TokenizerDirectory(const std::string& tokenizer_json, const std::string& config = "{}")
      : TokenizerDirectory() {
    write("tokenizer.json", tokenizer_json);
    write("tokenizer_config.json", config);
  }
  TokenizerDirectory() {
    static int count = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("restkv-tokenizer-" + std::to_string(::getpid()) + "-" + std::to_string(count++));
    std::filesystem::create_directories(path_);
  }
  void write(const std::string& name, const std::string& content) {
    std::ofstream(path_ / name, std::ios::binary) << content;
  }
  ~TokenizerDirectory() { std::filesystem::remove_all(path_); }
  TokenizerDirectory(const TokenizerDirectory&) = delete;
  TokenizerDirectory& operator=(const TokenizerDirectory&) = delete;
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

/// Valid UTF-8 of up to `length` characters from all planes.
inline std::string random_text(std::mt19937& rng, int length) {
  static constexpr uint32_t kLimits[] = {0x80, 0x800, 0x10000, 0x110000};
  std::string text;
  for (int i = static_cast<int>(rng() % (length + 1)); i > 0; --i) {
    uint32_t c = rng() % kLimits[rng() % 4];
    if (c >= 0xD800 && c < 0xE000) c -= 0x800;
    append_utf8(text, c);
  }
  return text;
}

}  // namespace restkv::testing
