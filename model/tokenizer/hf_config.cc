#include "model/tokenizer/hf_config.h"

#include <charconv>
#include <filesystem>
#include <unordered_map>

#include "dist/base/error.h"
#include "model/json_reader.h"

namespace restkv {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// A string, an object with "content", or null.
std::string token_text(const JsonValue& token) {
  if (token.is_null()) return {};
  return token.is_object() ? token.at("content").string() : token.string();
}

json read_if_there(const fs::path& path) { return fs::exists(path) ? read_json_object(path.string()) : json::object(); }

int32_t parse_id(const JsonValue& entry, const std::string& text) {
  int32_t id = 0;
  const auto [at, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (error != std::errc() || at != text.data() + text.size() || id < 0)
    entry.fail(fmt::format("'{}' is not an id; ids begin at 0", text));
  return id;
}

std::optional<bool> read_flag(const JsonValue& flag) {
  if (flag.is_null()) return std::nullopt;
  return flag.boolean_or(false);
}

void read_names(const JsonValue& settings, HfTokenizerConfig& out) {
  const auto take = [](std::string& own, std::string text) {
    if (own.empty()) own = std::move(text);
  };
  take(out.bos, token_text(settings.at("bos_token")));
  take(out.eos, token_text(settings.at("eos_token")));
  take(out.unknown, token_text(settings.at("unk_token")));
  for (const char* name : {"bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"})
    if (std::string text = token_text(settings.at(name)); !text.empty()) out.special.push_back(std::move(text));
  const JsonValue more = settings.at("additional_special_tokens");
  if (more.is_null()) return;
  for (size_t i = 0; i < more.array().size(); ++i)
    if (std::string text = token_text(more.at(i)); !text.empty()) out.special.push_back(std::move(text));
}

}  // namespace

AddedToken read_added_token(const JsonValue& entry) {
  AddedToken token;
  token.content = entry.at("content").string();
  token.special = entry.at("special").boolean_or(false);
  token.single_word = entry.at("single_word").boolean_or(false);
  token.lstrip = entry.at("lstrip").boolean_or(false);
  token.rstrip = entry.at("rstrip").boolean_or(false);
  token.normalized = entry.at("normalized").boolean_or(!token.special);
  return token;
}

HfTokenizerConfig read_hf_tokenizer_config(const std::string& directory) {
  HfTokenizerConfig out;
  out.path = (fs::path(directory) / "tokenizer_config.json").string();
  const json config = read_if_there(out.path);
  const JsonValue settings(config, out.path, "");
  read_names(settings, out);
  out.add_bos = read_flag(settings.at("add_bos_token"));
  out.add_eos = read_flag(settings.at("add_eos_token"));
  const JsonValue added = settings.at("added_tokens_decoder");
  if (!added.is_null()) {
    for (const auto& [id, value] : added.object().items()) {
      const JsonValue entry = added.at(id);
      out.added.push_back(read_added_token(entry));
      out.added.back().id = parse_id(entry, id);
      if (out.added.back().content.empty()) entry.fail("the token is empty");
    }
  }
  const std::string map_path = (fs::path(directory) / "special_tokens_map.json").string();
  const json map = read_if_there(map_path);
  read_names(JsonValue(map, map_path, ""), out);
  return out;
}

void merge_added_tokens(const HfTokenizerConfig& config, const std::function<int32_t(const std::string&)>& id_of,
                        std::vector<AddedToken>& added) {
  std::unordered_map<std::string, size_t> known;
  for (size_t i = 0; i < added.size(); ++i) known.emplace(added[i].content, i);
  const auto add = [&](AddedToken token) {
    known.emplace(token.content, added.size());
    added.push_back(std::move(token));
  };
  for (const AddedToken& token : config.added) {
    const auto entry = known.find(token.content);
    if (entry == known.end()) {
      add(token);
      continue;
    }
    AddedToken& own = added[entry->second];
    const int32_t id = own.id;
    own = token;
    own.id = id;
  }
  for (const std::string& content : config.special) {
    if (const auto entry = known.find(content); entry != known.end()) {
      added[entry->second].special = true;
      continue;
    }
    AddedToken token;
    token.content = content;
    token.id = id_of(content);
    token.special = true;
    if (token.id >= 0) add(std::move(token));
  }
}

}  // namespace restkv
