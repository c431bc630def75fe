// A decoder written out token by token in double precision, from the formulas: its cache is a list of rows for every
// query head, and eviction strikes rows from it. Nothing is shared with the engine but the readers of weights and the
// rotary frequencies.
#pragma once

#include <cmath>
#include <vector>

#include "model/checkpoint.h"
#include "model/ops/rope.h"
#include "tests/kvcache/eviction_formulas.h"
#include "tests/model/weight_files.h"

namespace restkv::testing {

class ReferenceModel {
 public:
  explicit ReferenceModel(const Checkpoint& checkpoint)
      : c_(checkpoint.config), frequencies_(rope_frequencies(c_.rope, c_.d)) {
    auto read = [&](const std::string& name) {
      if (!checkpoint.weights->contains(name)) return Vector();
      const Shape& shape = checkpoint.weights->info(name).shape;
      std::vector<float> values =
          read_f32(*checkpoint.weights, name, {0, shape.size() == 1 ? 1 : shape[0]}, {0, shape.back()});
      return Vector(values.begin(), values.end());
    };
    embedding_ = read("model.embed_tokens.weight");
    final_norm_ = read("model.norm.weight");
    head_ = c_.tied_embeddings ? embedding_ : read("lm_head.weight");
    for (int64_t l = 0; l < c_.layers; ++l) {
      auto part = [&](const char* name) { return read(fmt::format("model.layers.{}.{}", l, name)); };
      // Gemma 2 norms what attention and MLP add, and names its norms by their places.
      const bool outer = c_.traits.output_norms;
      layers_.push_back({part("input_layernorm.weight"),
                         part(outer ? "pre_feedforward_layernorm.weight" : "post_attention_layernorm.weight"),
                         part("self_attn.q_proj.weight"), part("self_attn.k_proj.weight"),
                         part("self_attn.v_proj.weight"), part("self_attn.q_proj.bias"), part("self_attn.k_proj.bias"),
                         part("self_attn.v_proj.bias"), part("self_attn.o_proj.weight"), part("mlp.gate_proj.weight"),
                         part("mlp.up_proj.weight"), part("mlp.down_proj.weight"),
                         outer ? part("post_attention_layernorm.weight") : Vector(),
                         outer ? part("post_feedforward_layernorm.weight") : Vector()});
      cache_.emplace_back(static_cast<size_t>(c_.Hq));
    }
    queries_.resize(layers_.size());
  }

  /// The logits of the token at the next position.
  Vector forward(int32_t token) {
    Vector x(embedding_.begin() + token * c_.hidden, embedding_.begin() + (token + 1) * c_.hidden);
    for (double& value : x) value *= c_.traits.scaled_embeddings ? std::sqrt(float(c_.hidden)) : 1.0;
    for (size_t l = 0; l < layers_.size(); ++l) {
      const Layer& w = layers_[l];
      add(x, normed_output(attention(l, normed(x, w.attention_norm)), w.attention_output_norm));
      const Vector h = normed(x, w.mlp_norm), gate = product(w.gate, h), up = product(w.up, h);
      Vector inner;
      for (size_t i = 0; i < gate.size(); ++i) inner.push_back(activated(gate[i]) * up[i]);
      add(x, normed_output(product(w.down, inner), w.mlp_output_norm));
    }
    ++length_;
    Vector logits = product(head_, normed(x, final_norm_));
    if (const double cap = c_.traits.logit_softcap; cap > 0.0)
      for (double& value : logits) value = cap * std::tanh(value / cap);
    return logits;
  }

  /// What ReST-KV decides on in a layer once the prompt has been read.
  EvictionCase eviction_case(int64_t layer, const CacheConfig& config) const {
    EvictionCase out;
    out.config = config;
    out.form = c_.attention_form(layer);
    out.L = length_, out.Hq = c_.Hq, out.Hkv = c_.Hkv, out.d = c_.d, out.layer = layer, out.layers = c_.layers;
    auto append = [](std::vector<float>& to, const Vector& from) { to.insert(to.end(), from.begin(), from.end()); };
    for (int64_t h = 0; h < c_.Hq; ++h)
      for (int64_t position = length_ - config.window; position < length_; ++position) {
        const Vector& q = queries_[layer][position];
        append(out.q, Vector(q.begin() + h * c_.d, q.begin() + (h + 1) * c_.d));
      }
    for (int64_t g = 0; g < c_.Hkv; ++g)
      for (const Row& row : cache_[layer][g * (c_.Hq / c_.Hkv)]) append(out.k, row.k), append(out.v, row.v);
    append(out.wo, layers_[layer].output);
    return out;
  }

  /// Strikes the rows of a query head that are not in `kept`.
  void keep(int64_t layer, int64_t query_head, const std::vector<int64_t>& kept) {
    std::vector<Row> rows;
    for (int64_t position : kept) rows.push_back(cache_[layer][query_head][position]);
    cache_[layer][query_head] = rows;
  }

 private:
  struct Layer {
    Vector attention_norm, mlp_norm, q, k, v, q_bias, k_bias, v_bias, output, gate, up, down, attention_output_norm,
        mlp_output_norm;
  };
  struct Row {
    Vector k, v;
    int64_t position;
  };

  static void add(Vector& x, const Vector& y) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }
  static Vector product(const Vector& w, const Vector& x, const Vector& bias = {}) {
    Vector y(w.size() / x.size());
    for (size_t r = 0; r < y.size(); ++r) {
      y[r] = std::inner_product(x.begin(), x.end(), w.begin() + r * x.size(), 0.0);
      if (!bias.empty()) y[r] += bias[r];
    }
    return y;
  }
  Vector normed(const Vector& x, const Vector& weight) const {
    const double mean = std::inner_product(x.begin(), x.end(), x.begin(), 0.0) / static_cast<double>(x.size());
    Vector y;
    for (size_t i = 0; i < x.size(); ++i)
      y.push_back(x[i] / std::sqrt(mean + c_.rms_eps) * (c_.traits.norm_offset + weight[i]));
    return y;
  }
  Vector normed_output(const Vector& y, const Vector& weight) const { return weight.empty() ? y : normed(y, weight); }
  double activated(double g) const {
    if (c_.traits.activation == Activation::silu) return g / (1.0 + std::exp(-g));
    return 0.5 * g * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (g + 0.044715 * g * g * g)));
  }
  void rotate(Vector& heads) const {
    const int64_t half = c_.d / 2;
    for (size_t h = 0; h < heads.size(); h += c_.d)
      for (int64_t j = 0; j < half; ++j) {
        const double angle = static_cast<double>(length_) * frequencies_[j], a = heads[h + j], b = heads[h + j + half];
        heads[h + j] = a * std::cos(angle) - b * std::sin(angle);
        heads[h + j + half] = b * std::cos(angle) + a * std::sin(angle);
      }
  }

  double score(size_t layer, double dot, int64_t position) const {
    const AttentionForm form = c_.attention_form(static_cast<int64_t>(layer));
    double x = dot * (form.scale > 0.0 ? form.scale : 1.0 / std::sqrt(static_cast<double>(c_.d)));
    if (form.softcap > 0.0) x = form.softcap * std::tanh(x / form.softcap);
    return form.sliding_window > 0 && position <= length_ - form.sliding_window ? -INFINITY : x;
  }
  Vector attention(size_t layer, const Vector& h) {
    const Layer& w = layers_[layer];
    Vector q = product(w.q, h, w.q_bias), k = product(w.k, h, w.k_bias), v = product(w.v, h, w.v_bias), out;
    rotate(q);
    rotate(k);
    queries_[layer].push_back(q);
    for (int64_t head = 0; head < c_.Hq; ++head) {
      std::vector<Row>& rows = cache_[layer][head];
      const int64_t g = head / (c_.Hq / c_.Hkv) * c_.d;
      rows.push_back(
          {Vector(k.begin() + g, k.begin() + g + c_.d), Vector(v.begin() + g, v.begin() + g + c_.d), length_});
      Vector weights, o(static_cast<size_t>(c_.d), 0.0);
      for (const Row& row : rows)
        weights.push_back(
            score(layer, std::inner_product(row.k.begin(), row.k.end(), q.begin() + head * c_.d, 0.0), row.position));
      const double max = *std::max_element(weights.begin(), weights.end());
      double sum = 0.0;
      for (double& a : weights) sum += a = std::exp(a - max);
      for (size_t i = 0; i < rows.size(); ++i)
        for (int64_t j = 0; j < c_.d; ++j) o[j] += weights[i] / sum * rows[i].v[j];
      out.insert(out.end(), o.begin(), o.end());
    }
    return product(w.output, out);
  }

  ModelConfig c_;
  std::vector<float> frequencies_;
  Vector embedding_, final_norm_, head_;
  std::vector<Layer> layers_;
  std::vector<std::vector<std::vector<Row>>> cache_;  // [layers][query heads][rows]
  std::vector<std::vector<Vector>> queries_;          // [layers][positions][Hq d]
  int64_t length_ = 0;
};

}  // namespace restkv::testing
