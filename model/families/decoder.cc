#include "model/families/decoder.h"

#include <algorithm>
#include <cmath>

#include "dist/base/error.h"

namespace restkv {
namespace {

/// What cos and sin are multiplied by when a file does not say it (Peng et al., 2023, section 3.4).
double yarn_attention_factor(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

void read_hf_yarn(const JsonReader& settings, RopeConfig* rope) {
  rope->beta_fast = settings.number("beta_fast", rope->beta_fast);
  rope->beta_slow = settings.number("beta_slow", rope->beta_slow);
  rope->truncate = settings.boolean("truncate", true);
  const double mscale = settings.number("mscale", 0.0), all = settings.number("mscale_all_dim", 0.0);
  double otherwise = yarn_attention_factor(rope->factor, 1.0);
  if (mscale != 0.0 && all != 0.0)
    otherwise = yarn_attention_factor(rope->factor, mscale) / yarn_attention_factor(rope->factor, all);
  rope->attention_factor = settings.number("attention_factor", otherwise);
}

/// The positions that scaling stretches to. Some files state them as max_position_embeddings, others do not.
void stretch_positions(ModelConfig* config, int64_t original) {
  const double stretched = static_cast<double>(original) * config->rope.factor;
  constexpr double kMost = int64_t{1} << 30;
  if (stretched <= kMost) config->max_positions = std::max(config->max_positions, static_cast<int64_t>(stretched));
}

}  // namespace

void read_hf_sizes(const JsonReader& json, ModelConfig* config) {
  config->layers = json.integer("num_hidden_layers");
  config->hidden = json.integer("hidden_size");
  config->intermediate = json.integer("intermediate_size");
  config->Hq = json.integer("num_attention_heads");
  config->Hkv = json.integer("num_key_value_heads", config->Hq);
  if (config->Hq < 1) json.reject("num_attention_heads", "at least 1 is needed");
  if (!json.has("head_dim") && config->hidden % config->Hq != 0)
    json.reject("head_dim", fmt::format("needed when num_attention_heads ({}) does not divide hidden_size ({})",
                                        config->Hq, config->hidden));
  config->d = json.integer("head_dim", config->hidden / config->Hq);
  config->vocab = json.integer("vocab_size");
  config->max_positions = json.integer("max_position_embeddings");
  config->rms_eps = json.number("rms_norm_eps", 1e-6);
}

void read_hf_rope(const JsonReader& json, ModelConfig* config) {
  RopeConfig& rope = config->rope;
  rope.theta = json.number("rope_theta", rope.theta);
  if (json.number("partial_rotary_factor", 1.0) != 1.0) json.reject("partial_rotary_factor", "1 is supported");
  const char* key = json.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!json.has(key)) return;
  JsonReader settings = json.object(key);
  for (const char* kind : {"full_attention", "sliding_attention"})
    if (settings.has(kind)) settings.reject(kind, "the same rotary settings for all layers are supported");
  rope.theta = settings.number("rope_theta", rope.theta);
  if (settings.number("partial_rotary_factor", 1.0) != 1.0) settings.reject("partial_rotary_factor", "1 is supported");
  const char* type_key = settings.has("rope_type") ? "rope_type" : "type";
  // rope_parameters may hold rope_theta alone; a rope_scaling without a type means nothing.
  if (settings.has(type_key) || std::string_view(key) == "rope_scaling") rope.type = settings.text(type_key);
  if (rope.type == "default") return;
  if (rope.type != "linear" && rope.type != "dynamic" && rope.type != "yarn" && rope.type != "llama3")
    settings.reject(type_key, fmt::format("supported: {}", kRopeTypes));
  rope.factor = settings.number("factor");
  if (rope.type != "llama3") {
    const int64_t original = settings.integer("original_max_position_embeddings", config->max_positions);
    if (rope.type != "linear") rope.original_max_positions = original;
    if (rope.type == "yarn") read_hf_yarn(settings, &rope);
    stretch_positions(config, original);
    return;
  }
  rope.low_freq_factor = settings.number("low_freq_factor");
  rope.high_freq_factor = settings.number("high_freq_factor");
  rope.original_max_positions = settings.integer("original_max_position_embeddings");
}

void read_gguf_sizes(const GgufFile& file, const std::string& architecture, ModelConfig* config) {
  auto key = [&](const char* name) { return architecture + "." + name; };
  config->layers = file.get_integer(key("block_count"));
  config->hidden = file.get_integer(key("embedding_length"));
  config->intermediate = file.get_integer(key("feed_forward_length"));
  config->Hq = file.get_integer(key("attention.head_count"));
  config->Hkv = file.get_integer(key("attention.head_count_kv"), config->Hq);
  if (config->Hq < 1) file.reject(key("attention.head_count"), "at least 1 is needed");
  if (!file.has(key("attention.key_length")) && config->hidden % config->Hq != 0)
    file.reject(key("attention.key_length"), fmt::format("needed when the head count ({}) does not divide {} ({})",
                                                         config->Hq, key("embedding_length"), config->hidden));
  config->d = file.get_integer(key("attention.key_length"), config->hidden / config->Hq);
  if (file.get_integer(key("attention.value_length"), config->d) != config->d)
    file.reject(key("attention.value_length"), fmt::format("the key length, {}, is supported", config->d));
  config->max_positions = file.get_integer(key("context_length"));
  config->rms_eps = file.get_number(key("attention.layer_norm_rms_epsilon"));
  const StoredTensor* embedding = file.find_tensor("token_embd.weight");
  config->vocab = file.get_integer(key("vocab_size"), embedding != nullptr ? embedding->info.shape.front() : 0);
  config->tied_embeddings = file.find_tensor("output.weight") == nullptr;
}

void read_gguf_rope(const GgufFile& file, const std::string& architecture, ModelConfig* config) {
  auto key = [&](const char* name) { return architecture + "." + name; };
  RopeConfig& rope = config->rope;
  rope.theta = file.get_number(key("rope.freq_base"), rope.theta);
  if (file.get_integer(key("rope.dimension_count"), config->d) != config->d)
    file.reject(key("rope.dimension_count"), fmt::format("the head size, {}, is supported", config->d));
  std::string type = file.get_string(key("rope.scaling.type"), "none");
  if (type != "none" && type != "linear" && type != "yarn")
    file.reject(key("rope.scaling.type"), "supported: none, linear, yarn");
  // rope.scale_linear is the key that files had before rope.scaling.*.
  const char* factor_key = file.has(key("rope.scale_linear")) ? "rope.scale_linear" : "rope.scaling.factor";
  rope.factor = file.get_number(key(factor_key), 1.0);
  if (type == "none" && std::string_view(factor_key) == "rope.scaling.factor") rope.factor = 1.0;
  if (type == "yarn") {
    rope.type = "yarn";
    rope.original_max_positions = file.get_integer(key("rope.scaling.original_context_length"), config->max_positions);
    rope.attention_factor =
        yarn_attention_factor(rope.factor, 1.0) * file.get_number(key("rope.scaling.attn_factor"), 1.0);
    stretch_positions(config, rope.original_max_positions);
  } else if (rope.factor != 1.0) {
    rope.type = "linear";
  }
  if (const StoredTensor* factors = file.find_tensor("rope_freqs.weight")) {
    if (factors->info.shape != Shape{config->d / 2})
      fail_input("{}: tensor rope_freqs.weight has shape {}; [{}], half the head size, is needed", file.path(),
                 shape_text(factors->info.shape), config->d / 2);
    rope.frequency_factors = file.read_vector(*factors);
  }
}

std::vector<TensorSpec> decoder_tensors(const ModelConfig& c, bool interleaved) {
  const int64_t H = c.hidden, I = c.intermediate;
  std::vector<TensorSpec> all;
  all.push_back({"model.embed_tokens.weight", {c.vocab, H}, "token_embd.weight"});
  for (int64_t l = 0; l < c.layers; ++l) {
    auto add = [&](const char* hf, const char* gguf, Shape shape, int64_t interleaved_heads = 0) {
      all.push_back({fmt::format("model.layers.{}.{}.weight", l, hf), std::move(shape),
                     fmt::format("blk.{}.{}.weight", l, gguf), interleaved_heads});
    };
    add("input_layernorm", "attn_norm", {H});
    add("self_attn.q_proj", "attn_q", {c.Hq * c.d, H}, interleaved ? c.Hq : 0);
    add("self_attn.k_proj", "attn_k", {c.Hkv * c.d, H}, interleaved ? c.Hkv : 0);
    add("self_attn.v_proj", "attn_v", {c.Hkv * c.d, H});
    if (c.traits.attention_bias)
      for (auto [part, heads] : {std::pair{'q', c.Hq}, {'k', c.Hkv}, {'v', c.Hkv}})
        all.push_back({fmt::format("model.layers.{}.self_attn.{}_proj.bias", l, part),
                       {heads * c.d},
                       fmt::format("blk.{}.attn_{}.bias", l, part)});
    add("self_attn.o_proj", "attn_output", {H, c.Hq * c.d});
    if (c.traits.output_norms) {
      add("post_attention_layernorm", "post_attention_norm", {H});
      add("pre_feedforward_layernorm", "ffn_norm", {H});
      add("post_feedforward_layernorm", "post_ffw_norm", {H});
    } else {
      add("post_attention_layernorm", "ffn_norm", {H});
    }
    add("mlp.gate_proj", "ffn_gate", {I, H});
    add("mlp.up_proj", "ffn_up", {I, H});
    add("mlp.down_proj", "ffn_down", {H, I});
  }
  all.push_back({"model.norm.weight", {H}, "output_norm.weight"});
  if (!c.tied_embeddings) all.push_back({"lm_head.weight", {c.vocab, H}, "output.weight"});
  return all;
}

}  // namespace restkv
