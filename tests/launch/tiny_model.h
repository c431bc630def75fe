// A model of 256 tokens with a tokenizer and a chat template, and configurations for it.
#pragma once

#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "tests/launch/temp_dir.h"

namespace restkv::testing {

/// A folder with the golden Llama model (8 query heads, 2 KV heads, 2 layers, 4096 positions) and the byte tokenizer.
class TinyModel {
 public:
  TinyModel() {
    namespace fs = std::filesystem;
    fs::create_directory(dir_.path("model"));
    for (const char* from : {"models/llama3/config.json", "models/llama3/model.safetensors",
                             "byte_tokenizer/tokenizer.json", "byte_tokenizer/tokenizer_config.json"}) {
      fs::path source = fs::path(RESTKV_TEST_DATA) / from;
      fs::create_symlink(source, fs::path(path()) / source.filename());
    }
  }

  std::string path() const { return dir_.path("model"); }
  const TempDir& dir() const { return dir_; }
  std::string results() const { return dir_.path("out.jsonl"); }

  /// A configuration of `count` prompts in JSONL, about `length` tokens each, with ids p0, p1, ...
  std::string config(int count, int length, const std::string& more = "") const {
    std::string lines;
    for (int i = 0; i < count; ++i)
      lines += nlohmann::json{{"id", fmt::format("p{}", i)}, {"prompt", text(i, length)}}.dump() + "\n";
    dir_.write("prompts.jsonl", lines);
    return dir_.write("run.yaml",
                      fmt::format("model:\n  path: {}\nprompt:\n  jsonl: {}\n  chat: none\noutput:\n  file: {}\n{}",
                                  path(), dir_.path("prompts.jsonl"), results(), more));
  }

  static std::string text(int seed, int length) {
    std::string out;
    auto x = static_cast<uint32_t>(seed * 7919 + 1);
    while (static_cast<int>(out.size()) < length) {
      x = x * 1664525u + 1013904223u;
      out += static_cast<char>('A' + (x >> 24) % 26);
    }
    return out;
  }

 private:
  TempDir dir_;
};

/// The lines of a results file; fails the test for one that is no JSON.
inline std::vector<nlohmann::json> read_results(const std::string& path) {
  std::vector<nlohmann::json> results;
  std::istringstream in(read_file(path));
  for (std::string line; std::getline(in, line);) {
    results.push_back(nlohmann::json::parse(line, nullptr, false));
    EXPECT_TRUE(results.back().is_object()) << line;
  }
  return results;
}

/// The ids of a results file: each once, or the test fails.
inline std::set<std::string> ids_once(const std::string& path) {
  std::set<std::string> ids;
  for (const auto& result : read_results(path)) {
    std::string id = result.value("id", "none");
    EXPECT_TRUE(ids.insert(id).second) << id << " is there twice";
  }
  return ids;
}

}  // namespace restkv::testing
