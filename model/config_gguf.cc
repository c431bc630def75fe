#include "dist/base/error.h"
#include "model/config.h"
#include "model/families/family.h"
#include "model/weights/gguf_file.h"

namespace restkv {

ModelConfig read_gguf_config(const GgufFile& file) {
  std::string architecture = file.get_string("general.architecture");
  std::string supported;
  for (const Family& family : families()) {
    if (family.gguf_architecture.empty()) continue;
    if (family.gguf_architecture == architecture) {
      ModelConfig config;
      config.family = family.name;
      family.read_gguf(file, &config);
      config.validate(file.path());
      return config;
    }
    supported += supported.empty() ? "supported: " : ", ";
    supported += family.gguf_architecture;
  }
  file.reject("general.architecture", supported);
}

}  // namespace restkv
