#include "model/families/family.h"

#include "dist/base/error.h"

namespace restkv {

std::span<const Family> families() {
  static const Family table[] = {kLlamaFamily, kMistralFamily, kGemmaFamily, kGemma2Family, kQwen2Family};
  return table;
}

const Family& family_of(const ModelConfig& config) {
  for (const Family& f : families())
    if (f.name == config.family) return f;
  fail_runtime("there is no model family \"{}\"", config.family);
}

}  // namespace restkv
