#include "dist/base/error.h"
#include "model/config.h"
#include "model/families/family.h"
#include "model/json_reader.h"

namespace restkv {
namespace {

std::string supported_architectures() {
  std::string list = "supported: ";
  for (const Family& f : families()) {
    if (&f != families().data()) list += ", ";
    list += f.hf_architecture;
  }
  return list;
}

const Family& find_family(const JsonReader& json) {
  std::vector<std::string> architectures = json.texts("architectures");
  for (const std::string& name : architectures)
    for (const Family& f : families())
      if (f.hf_architecture == name) return f;
  json.reject("architectures", supported_architectures());
}

}  // namespace

ModelConfig read_hf_config(const std::string& path) {
  nlohmann::json root = read_json_object(path);
  JsonReader json(root, path);
  const Family& family = find_family(json);
  if (json.has("quantization_config"))
    json.reject("quantization_config",
                "safetensors weights in F32, F16 or BF16 are supported (and quantised GGUF files)");
  ModelConfig config;
  config.family = family.name;
  family.read_hf(json, &config);
  config.validate(path);
  return config;
}

}  // namespace restkv
