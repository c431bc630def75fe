#include "model/transformer_weights.h"

#include <fmt/ranges.h>

#include "dist/base/error.h"
#include "dist/base/staged_upload.h"
#include "kvcache/output_factors.h"

namespace restkv {
namespace {

// Reads named tensors of one checkpoint into tensors of one context, checking shapes on the way.
class Loader {
 public:
  Loader(Context& ctx, const WeightSource& source, std::optional<DType> dtype, int64_t total,
         const LoadProgress& progress)
      : ctx_(ctx), source_(source), dtype_(dtype), total_(total), progress_(progress) {
    if (ctx.gpu() != nullptr) upload_ = std::make_unique<StagedUpload>(ctx, kSlotBytes, kSlots);
  }

  // A norm's weights, `offset` added.
  Tensor vector(const std::string& name, int64_t n, double offset) {
    check_shape(name, {n});
    std::vector<float> values(static_cast<size_t>(n));
    source_.read(name, {0, 1}, {0, n}, DType::f32, values.data());
    for (float& x : values) x += static_cast<float>(offset);
    Tensor t = ctx_.to_device(values.data(), DType::f32, {n});
    report(t.bytes());
    return t;
  }

  // Rows x cols of the matrix `name`, whose whole shape is [full_rows, full_cols].
  Tensor matrix(const std::string& name, int64_t full_rows, int64_t full_cols, Range rows, Range cols) {
    Tensor t = ctx_.empty(dtype_for(name), {rows.size(), cols.size()});
    read_into(t, name, full_rows, full_cols, rows, cols);
    return t;
  }

  struct Part {
    std::string name;
    int64_t full_rows;
    Range rows;
  };

  // Slices of several vectors, one after another, in f32.
  Tensor joined(const std::vector<Part>& parts) {
    std::vector<float> values;
    for (const Part& part : parts) {
      check_shape(part.name, {part.full_rows});
      const size_t at = values.size();
      values.resize(at + static_cast<size_t>(part.rows.size()));
      source_.read(part.name, {0, 1}, part.rows, DType::f32, values.data() + at);
    }
    Tensor t = ctx_.to_device(values.data(), DType::f32, {static_cast<int64_t>(values.size())});
    report(t.bytes());
    return t;
  }

  // Row slices of several matrices with equal columns, stacked.
  Tensor stacked(const std::vector<Part>& parts, int64_t cols) {
    int64_t rows = 0;
    for (const Part& part : parts) rows += part.rows.size();
    Tensor t = ctx_.empty(dtype_for(parts[0].name), {rows, cols});
    int64_t at = 0;
    for (const Part& part : parts) {
      Tensor slice = t.rows(at, part.rows.size());
      read_into(slice, part.name, part.full_rows, cols, part.rows, {0, cols});
      at += part.rows.size();
    }
    return t;
  }

 private:
  DType dtype_for(const std::string& name) const { return dtype_ ? *dtype_ : source_.natural_dtype(name); }

  // Rows of `name` into dense host memory. In parallel: decoding quantised weights is work, not only copying.
  void read_rows(const std::string& name, Range rows, Range cols, DType dtype, void* to) {
    constexpr int64_t kBlockBytes = int64_t{1} << 20;  // enough of them for all threads, each worth its call
    const int64_t row_bytes = std::max<int64_t>(1, cols.size() * size_of(dtype));
    const int64_t block = std::max<int64_t>(1, kBlockBytes / row_bytes), blocks = (rows.size() + block - 1) / block;
    ctx_.parallel_for(blocks, [&](int64_t b) {
      Range part{rows.begin + b * block, std::min(rows.begin + (b + 1) * block, rows.end)};
      source_.read(name, part, cols, dtype, static_cast<char*>(to) + b * block * row_bytes);
    });
  }

  void read_into(Tensor& t, const std::string& name, int64_t full_rows, int64_t full_cols, Range rows, Range cols) {
    check_shape(name, {full_rows, full_cols});
    if (source_.fill(ctx_, name, rows, cols, t)) {
      // made where it is needed
    } else if (upload_ == nullptr) {
      read_rows(name, rows, cols, t.dtype(), t.raw());
    } else {
      const int64_t row_bytes = std::max<int64_t>(1, cols.size() * size_of(t.dtype()));
      const int64_t step = std::max<int64_t>(1, upload_->slot_bytes() / row_bytes);
      for (int64_t first = 0; first < rows.size(); first += step) {
        const int64_t count = std::min(step, rows.size() - first);
        upload_->send(static_cast<char*>(t.raw()) + first * row_bytes, count * row_bytes, [&](void* host) {
          read_rows(name, {rows.begin + first, rows.begin + first + count}, cols, t.dtype(), host);
        });
      }
    }
    report(t.bytes());
  }

  void check_shape(const std::string& name, const Shape& expected) const {
    const WeightInfo& info = source_.info(name);
    if (info.shape != expected)
      fail_input("{}: tensor {} has shape [{}], the configuration needs [{}]", source_.describe(), name,
                 fmt::join(info.shape, ", "), fmt::join(expected, ", "));
  }

  void report(int64_t bytes) {
    done_ += bytes;
    if (progress_) progress_(std::min(done_, total_), total_);
  }

  // Large enough for full speed of the bus, few enough that pinning them takes milliseconds.
  static constexpr int64_t kSlotBytes = int64_t{32} << 20;
  static constexpr int kSlots = 4;

  Context& ctx_;
  std::unique_ptr<StagedUpload> upload_;  // null on CPU ranks
  const WeightSource& source_;
  std::optional<DType> dtype_;
  int64_t done_ = 0;
  int64_t total_;
  const LoadProgress& progress_;
};

int64_t expected_bytes(const ModelConfig& config, const Shard& shard, DType dtype) {
  int64_t heads = (2 * shard.heads.Hq_lc() + 2 * shard.heads.Hkv_lc()) * config.d;
  int64_t layer = config.hidden * (heads + 3 * shard.mlp.size());
  int64_t vocabulary = shard.vocab.size() * config.hidden * (config.tied_embeddings ? 1 : 2);
  return (config.layers * layer + vocabulary) * size_of(dtype);
}

LayerWeights load_layer(Context& ctx, Loader& loader, const ModelConfig& config, const Shard& shard, int64_t layer,
                        bool with_output_factors) {
  std::string prefix = fmt::format("model.layers.{}.", layer);
  int64_t d = config.d, H = config.hidden, I = config.intermediate;
  Range q = shard.heads.local.q, kv = shard.heads.local.kv;
  Range q_rows{q.begin * d, q.end * d}, kv_rows{kv.begin * d, kv.end * d};
  LayerWeights w;
  const double offset = config.traits.norm_offset;
  w.attention_norm = loader.vector(prefix + "input_layernorm.weight", H, offset);
  w.qkv = loader.stacked({{prefix + "self_attn.q_proj.weight", config.Hq * d, q_rows},
                          {prefix + "self_attn.k_proj.weight", config.Hkv * d, kv_rows},
                          {prefix + "self_attn.v_proj.weight", config.Hkv * d, kv_rows}},
                         H);
  if (config.traits.attention_bias)
    w.qkv_bias = loader.joined({{prefix + "self_attn.q_proj.bias", config.Hq * d, q_rows},
                                {prefix + "self_attn.k_proj.bias", config.Hkv * d, kv_rows},
                                {prefix + "self_attn.v_proj.bias", config.Hkv * d, kv_rows}});
  w.output = loader.matrix(prefix + "self_attn.o_proj.weight", H, config.Hq * d, {0, H}, q_rows);
  if (config.traits.output_norms) {
    w.attention_output_norm = loader.vector(prefix + "post_attention_layernorm.weight", H, offset);
    w.mlp_norm = loader.vector(prefix + "pre_feedforward_layernorm.weight", H, offset);
    w.mlp_output_norm = loader.vector(prefix + "post_feedforward_layernorm.weight", H, offset);
  } else {
    w.mlp_norm = loader.vector(prefix + "post_attention_layernorm.weight", H, offset);
  }
  w.gate_up = loader.stacked(
      {{prefix + "mlp.gate_proj.weight", I, shard.mlp}, {prefix + "mlp.up_proj.weight", I, shard.mlp}}, H);
  w.down = loader.matrix(prefix + "mlp.down_proj.weight", H, I, {0, H}, shard.mlp);
  if (with_output_factors) w.output_factors = output_factors(ctx, MatrixView(w.output), shard.heads.Hq_lc(), d);
  return w;
}

}  // namespace

int64_t TransformerWeights::bytes() const {
  int64_t total = embedding.bytes() + final_norm.bytes();
  if (output_head.raw() != embedding.raw()) total += output_head.bytes();
  for (const LayerWeights& w : layers)
    total += w.attention_norm.bytes() + w.attention_output_norm.bytes() + w.mlp_output_norm.bytes() + w.qkv.bytes() +
             w.qkv_bias.bytes() + w.output.bytes() + w.mlp_norm.bytes() + w.gate_up.bytes() + w.down.bytes();
  return total;
}

TransformerWeights load_weights(Context& ctx, const WeightSource& source, const ModelConfig& config, const Shard& shard,
                                std::optional<DType> dtype, bool with_output_factors, const LoadProgress& progress) {
  const std::string embedding = "model.embed_tokens.weight";
  if (ctx.device() == Device::gpu) {
    RESTKV_CHECK(!dtype || *dtype == DType::bf16, "weights in {} on a GPU; bf16 is what its kernels take",
                 name_of(*dtype));
    dtype = DType::bf16;
  }
  DType held = dtype ? *dtype : source.natural_dtype("model.layers.0.mlp.down_proj.weight");
  Loader loader(ctx, source, dtype, expected_bytes(config, shard, held), progress);
  TransformerWeights w;
  w.embedding = loader.matrix(embedding, config.vocab, config.hidden, shard.vocab, {0, config.hidden});
  for (int64_t layer = 0; layer < config.layers; ++layer)
    w.layers.push_back(load_layer(ctx, loader, config, shard, layer, with_output_factors));
  w.final_norm = loader.vector("model.norm.weight", config.hidden, config.traits.norm_offset);
  w.output_head = config.tied_embeddings
                      ? w.embedding
                      : loader.matrix("lm_head.weight", config.vocab, config.hidden, shard.vocab, {0, config.hidden});
  return w;
}

}  // namespace restkv
