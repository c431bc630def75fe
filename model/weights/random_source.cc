#include "model/weights/random_source.h"

#include <cmath>

#include "dist/base/error.h"
#include "dist/base/mix.h"

namespace restkv {
namespace {

uint64_t hash_name(const std::string& name) {
  uint64_t h = 0;
  for (unsigned char c : name) h = mix64(h ^ c);
  return h;
}

}  // namespace

RandomSource::RandomSource(const ModelConfig& config, uint64_t seed, double gain)
    : seed_(seed), gain_(gain), norm_center_(1.0 - config.traits.norm_offset) {
  int64_t H = config.hidden, I = config.intermediate, q = config.Hq * config.d, kv = config.Hkv * config.d;
  add("model.embed_tokens.weight", {config.vocab, H});
  if (!config.tied_embeddings) add("lm_head.weight", {config.vocab, H});
  add("model.norm.weight", {H});
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    std::string prefix = fmt::format("model.layers.{}.", layer);
    add(prefix + "input_layernorm.weight", {H});
    add(prefix + "post_attention_layernorm.weight", {H});
    if (config.traits.output_norms) {
      add(prefix + "pre_feedforward_layernorm.weight", {H});
      add(prefix + "post_feedforward_layernorm.weight", {H});
    }
    add(prefix + "self_attn.q_proj.weight", {q, H});
    add(prefix + "self_attn.k_proj.weight", {kv, H});
    add(prefix + "self_attn.v_proj.weight", {kv, H});
    if (config.traits.attention_bias) {
      add(prefix + "self_attn.q_proj.bias", {q});
      add(prefix + "self_attn.k_proj.bias", {kv});
      add(prefix + "self_attn.v_proj.bias", {kv});
    }
    add(prefix + "self_attn.o_proj.weight", {H, q});
    add(prefix + "mlp.gate_proj.weight", {I, H});
    add(prefix + "mlp.up_proj.weight", {I, H});
    add(prefix + "mlp.down_proj.weight", {H, I});
  }
}

void RandomSource::add(const std::string& name, Shape shape) {
  int64_t n = 1;
  for (int64_t extent : shape) n *= extent;
  infos_[name] = {name, "BF16", std::move(shape), 2 * n};
}

const WeightInfo& RandomSource::info(const std::string& name) const {
  auto it = infos_.find(name);
  if (it == infos_.end()) fail_input("{}: no tensor {}", describe(), name);
  return it->second;
}

std::vector<WeightInfo> RandomSource::list() const {
  std::vector<WeightInfo> all;
  for (const auto& [name, info] : infos_) all.push_back(info);
  return all;
}

std::string RandomSource::describe() const { return fmt::format("random weights (seed {})", seed_); }

RandomElements RandomSource::elements(const std::string& name, Range rows, Range cols) const {
  const WeightInfo& tensor = info(name);
  int64_t width = tensor.shape.back();
  RandomElements e;
  e.key = mix64(seed_ ^ hash_name(name));
  e.width = width;
  e.rows = rows;
  e.cols = cols;
  // Uniform with standard deviation gain / sqrt(inputs), a common initialisation.
  // What norms multiply by stays near one; biases are of the size of what they are added to.
  bool is_vector = tensor.shape.size() == 1, is_bias = name.ends_with(".bias");
  e.center = is_vector && !is_bias ? static_cast<float>(norm_center_) : 0.0f;
  e.half_width = is_bias     ? 0.5f
                 : is_vector ? 0.1f
                             : static_cast<float>(std::sqrt(3.0) * gain_ / std::sqrt(static_cast<double>(width)));
  return e;
}

void RandomSource::read(const std::string& name, Range rows, Range cols, DType dtype, void* dst) const {
  RESTKV_CHECK(dtype == DType::f32 || dtype == DType::bf16, "random weights as {}", name_of(dtype));
  random_rows(elements(name, rows, cols), dtype, dst);
}

bool RandomSource::fill(Context& ctx, const std::string& name, Range rows, Range cols, const Tensor& out) const {
  random_fill(ctx, elements(name, rows, cols), out);
  return true;
}

}  // namespace restkv
