#include "model/checkpoint.h"

#include <filesystem>

#include "dist/base/error.h"
#include "model/families/family.h"
#include "model/json_reader.h"
#include "model/tokenizer/load.h"
#include "model/weights/gguf_file.h"
#include "model/weights/mapped_file.h"
#include "model/weights/safetensors.h"
#include "model/weights/tensor_spec.h"

namespace restkv {
namespace {

namespace fs = std::filesystem;

std::vector<int32_t> to_tokens(const std::vector<int64_t>& ids, int64_t vocab, const std::string& origin) {
  std::vector<int32_t> tokens;
  for (int64_t id : ids) {
    if (id < 0 || id >= vocab)
      fail_input("{}: eos_token_id: found {}; ids from 0 to {} are allowed", origin, id, vocab - 1);
    tokens.push_back(static_cast<int32_t>(id));
  }
  return tokens;
}

/// eos_token_id of generation_config.json, else of config.json, else none.
std::vector<int32_t> hf_stop_tokens(const fs::path& directory, int64_t vocab) {
  for (const char* name : {"generation_config.json", "config.json"}) {
    std::string path = (directory / name).string();
    if (!fs::exists(path)) continue;
    nlohmann::json root = read_json_object(path);
    JsonReader json(root, path);
    if (json.has("eos_token_id")) return to_tokens(json.integers("eos_token_id"), vocab, path);
  }
  return {};
}

/// Of a list of named templates the one named "default".
std::string default_template(const nlohmann::json& list, const std::string& path) {
  std::string names;
  for (const nlohmann::json& entry : list) {
    if (!entry.is_object()) fail_input("{}: key chat_template: a string or a list of named templates is needed", path);
    JsonReader named(entry, path, "chat_template.");
    if (named.text("name") == "default") return named.text("template");
    names += (names.empty() ? "" : ", ") + named.text("name");
  }
  fail_input("{}: key chat_template: a list with the names {}; one named default is needed", path, names);
}

/// chat_template.jinja, else chat_template of tokenizer_config.json, else empty.
std::string hf_chat_template(const fs::path& directory) {
  fs::path jinja = directory / "chat_template.jinja";
  if (fs::exists(jinja)) {
    MappedFile file(jinja.string());
    return {reinterpret_cast<const char*>(file.data()), static_cast<size_t>(file.size())};
  }
  std::string path = (directory / "tokenizer_config.json").string();
  if (!fs::exists(path)) return "";
  nlohmann::json root = read_json_object(path);
  JsonReader json(root, path);
  if (!json.has("chat_template")) return "";
  if (root["chat_template"].is_array()) return default_template(root["chat_template"], path);
  return json.text("chat_template");
}

Checkpoint open_directory(const fs::path& directory) {
  fs::path config = directory / "config.json";
  if (!fs::exists(config))
    fail_input("{}: holds no config.json; a Hugging Face model directory or a .gguf file is needed",
               directory.string());
  Checkpoint c;
  c.path = directory.string();
  c.format = "safetensors";
  c.config = read_hf_config(config.string());
  c.weights = open_safetensors(directory.string());
  c.tokenizer = load_hf_tokenizer(directory.string());
  c.chat_template = hf_chat_template(directory);
  c.stop_tokens = hf_stop_tokens(directory, c.config.vocab);
  return c;
}

/// The end-of-text token, and the end-of-turn and end-of-message tokens where the file names them.
std::vector<int32_t> gguf_stop_tokens(const GgufFile& file, int64_t vocab) {
  std::vector<int64_t> ids;
  for (const char* name : {"eos", "eot", "eom"}) {
    std::string key = fmt::format("tokenizer.ggml.{}_token_id", name);
    if (!file.has(key)) continue;
    int64_t id = file.get_integer(key);
    if (id < 0 || id >= vocab) file.reject(key, fmt::format("ids from 0 to {} are allowed", vocab - 1));
    ids.push_back(id);
  }
  return to_tokens(ids, vocab, file.path());
}

/// Null when the file has no tokenizer.ggml.model.
std::shared_ptr<Tokenizer> gguf_tokenizer(const GgufFile& file) {
  auto key = [](const char* name) { return fmt::format("tokenizer.ggml.{}", name); };
  if (!file.has(key("model"))) return nullptr;
  GgufTokenizerData data;
  data.origin = file.path();
  data.model = file.get_string(key("model"));
  data.pre = file.get_string(key("pre"), "");
  data.tokens = file.get_strings(key("tokens"));
  if (file.has(key("token_type")))
    for (int64_t type : file.get_integers(key("token_type"))) {
      if (type < INT32_MIN || type > INT32_MAX) file.reject(key("token_type"), fmt::format("one is {}", type));
      data.token_type.push_back(static_cast<int32_t>(type));
    }
  if (file.has(key("scores"))) data.scores = file.get_floats(key("scores"));
  if (file.has(key("merges"))) data.merges = file.get_strings(key("merges"));
  data.bos = file.get_integer(key("bos_token_id"), -1);
  data.eos = file.get_integer(key("eos_token_id"), -1);
  data.unknown = file.get_integer(key("unknown_token_id"), -1);
  data.padding = file.get_integer(key("padding_token_id"), -1);
  if (file.has(key("add_bos_token"))) data.add_bos = file.get_bool(key("add_bos_token"), false);
  if (file.has(key("add_eos_token"))) data.add_eos = file.get_bool(key("add_eos_token"), false);
  if (file.has(key("add_space_prefix"))) data.add_space_prefix = file.get_bool(key("add_space_prefix"), false);
  return make_gguf_tokenizer(std::move(data));
}

Checkpoint open_gguf(const std::string& path) {
  GgufFile file(path);
  Checkpoint c;
  c.path = path;
  c.format = "gguf";
  c.config = read_gguf_config(file);
  c.weights = open_gguf_weights(file, family_of(c.config).tensors(c.config));
  c.tokenizer = gguf_tokenizer(file);
  c.chat_template = file.get_string("tokenizer.chat_template", "");
  c.stop_tokens = gguf_stop_tokens(file, c.config.vocab);
  return c;
}

}  // namespace

Checkpoint open_checkpoint(const std::string& path) {
  if (!fs::exists(path))
    fail_input("{}: does not exist; a Hugging Face model directory or a .gguf file is needed", path);
  bool directory = fs::is_directory(path);
  if (!directory && fs::path(path).extension() != ".gguf")
    fail_input("{}: is neither a directory nor a .gguf file; name the directory that holds config.json", path);
  Checkpoint c = directory ? open_directory(path) : open_gguf(path);
  check_tensors(*c.weights, family_of(c.config).tensors(c.config));
  if (c.stop_tokens.empty() && c.tokenizer != nullptr && c.tokenizer->eos() >= 0) c.stop_tokens = {c.tokenizer->eos()};
  return c;
}

}  // namespace restkv
