// Decode attention and sampling on one GPU, times by CUDA events:
//   attention_decode_bench [BLOCKS_PER_HEAD:DEPTH ...]
// A graph holds the attention of 32 layers (8 KV heads of 128, groups of 4), each with a cache of its own as in a
// model, so that nothing stays in the L2 cache that would not in reality. Prints one line per (rows, batch, settled,
// blocks).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "dist/base/mix.h"
#include "model/ops/attention_decode.h"
#include "model/ops/sample.h"

namespace restkv {
namespace {

constexpr int64_t kLayers = 32, kHkv = 8, kGroup = 4, kD = 128;
constexpr int64_t kMemory = int64_t{75} << 30;

struct Filling {
  long blocks, depth;
};

// Median seconds of one launch.
double seconds_of(Context& ctx, const void* graph, int repeats) {
  std::vector<double> times;
  for (int i = 0; i < repeats + 3; ++i) {
    auto from = ctx.gpu()->mark();
    ctx.gpu()->launch(graph);
    auto to = ctx.gpu()->mark();
    if (i >= 3) times.push_back(ctx.gpu()->seconds_between(from.get(), to.get()));
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

Tensor random_bits(Context& ctx, Shape shape) {
  Tensor t = ctx.empty(DType::bf16, std::move(shape));
  std::vector<bf16> pattern(1 << 20);
  for (size_t i = 0; i < pattern.size(); ++i)
    pattern[i] = to_bf16(static_cast<float>(2.0 * unit_interval(mix64(i)) - 1.0));
  auto seed = ctx.to_device(pattern.data(), DType::bf16, {static_cast<int64_t>(pattern.size())});
  int64_t done = std::min(t.bytes(), seed.bytes());
  ctx.gpu()->copy(t.raw(), seed.raw(), done);
  for (; done < t.bytes(); done *= 2)
    ctx.gpu()->copy(static_cast<char*>(t.raw()) + done, t.raw(), std::min(done, t.bytes() - done));
  return t;
}

void attention(Context& ctx, int64_t rows, int64_t batch, const std::vector<Filling>& fillings) {
  int64_t capacity = rows + 8, per_layer = kHkv * capacity;
  int64_t layer_bytes = batch * per_layer * kD * 4, layers = std::min(kLayers, kMemory / layer_bytes);
  if (layers < 2) return;
  Tensor k = random_bits(ctx, {layers * batch * per_layer, kD}), v = random_bits(ctx, {layers * batch * per_layer, kD});
  Tensor position = ctx.zeros(DType::i32, {layers * batch * per_layer});
  std::vector<int64_t> first_row;
  for (int64_t h = 0; h < kHkv; ++h) first_row.push_back(h * capacity);
  std::vector<int32_t> length(static_cast<size_t>(kHkv), static_cast<int32_t>(rows));
  Tensor first = ctx.to_device(first_row.data(), DType::i64, {kHkv});
  Tensor lengths = ctx.to_device(length.data(), DType::i32, {kHkv});
  std::vector<DeviceKvLayer> records;
  for (int64_t i = 0; i < batch * layers; ++i)
    records.push_back({k.data<bf16>() + i * per_layer * kD, v.data<bf16>() + i * per_layer * kD,
                       position.data<int32_t>() + i * per_layer, first.data<int64_t>(), lengths.data<int32_t>()});
  Tensor record = ctx.to_device(records.data(), DType::u8, {static_cast<int64_t>(records.size() * sizeof(records[0]))});
  DecodeHeads heads;
  for (int64_t h = 0; h < kHkv * kGroup; ++h) heads.head.push_back(h / kGroup);
  for (int64_t h = 0; h < kHkv; ++h) heads.source.push_back(h);
  Tensor scratch = decode_attention_scratch(ctx, batch, heads, kD);
  Tensor q = random_bits(ctx, {batch, kHkv * kGroup * kD}), fresh = random_bits(ctx, {batch, kHkv * kD});
  Tensor out = random_bits(ctx, {batch, kHkv * kGroup * kD}), positions = ctx.zeros(DType::i32, {batch});
  for (bool settled : {false, true})
    for (const Filling& filling : fillings) {
      BatchDecodeAttention args;
      args.q = MatrixView(q);
      args.k = args.v = MatrixView(fresh);
      args.position = positions.data<int32_t>();
      args.layer_stride = layers;
      args.d = kD;
      args.scale = 1.0 / std::sqrt(static_cast<double>(kD));
      args.settled = settled;
      args.blocks_per_head = filling.blocks;
      args.depth = filling.depth;
      args.out = MatrixView(out);
      auto graph = ctx.gpu()->capture([&] {
        for (int64_t layer = 0; layer < layers; ++layer) {
          args.layer = static_cast<const DeviceKvLayer*>(record.raw()) + layer;
          attention_decode_batch(ctx, args, heads, scratch);
        }
      });
      double seconds = seconds_of(ctx, graph.get(), 11) / static_cast<double>(layers);
      std::printf("rows %7ld batch %2ld layers %2ld settled %d filling %3ld:%ld: %8.2f us a layer, %5.2f TB/s\n", rows,
                  batch, layers, settled ? 1 : 0, filling.blocks, filling.depth, 1e6 * seconds,
                  static_cast<double>(batch * kHkv * (rows + 1) * kD * 4) / seconds / 1e12);
    }
}

void sampling(Context& ctx, int64_t vocab, int64_t batch, const SamplingConfig& config) {
  std::vector<float> logits(static_cast<size_t>(vocab * batch));
  for (size_t i = 0; i < logits.size(); ++i) {
    double u = unit_interval(mix64(2 * i)) + 1e-12, w = unit_interval(mix64(2 * i + 1));
    logits[i] = static_cast<float>(2.5 * std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307 * w));
  }
  Tensor device = ctx.to_device(logits.data(), DType::f32, {batch, vocab});
  std::vector<SequenceSampling> how(static_cast<size_t>(batch), sequence_sampling(config, 1));
  Tensor sampling = ctx.to_device(how.data(), DType::u8, {static_cast<int64_t>(how.size() * sizeof(how[0]))});
  Tensor steps = ctx.zeros(DType::i32, {batch}), tokens = ctx.zeros(DType::i32, {batch});
  constexpr int kLaunches = 20;
  auto graph = ctx.gpu()->capture([&] {
    for (int i = 0; i < kLaunches; ++i)
      sample_batch(ctx, {device.data<float>(), batch, vocab, static_cast<SequenceSampling*>(sampling.raw()),
                         steps.data<int32_t>(), tokens.data<int32_t>()});
  });
  std::printf("sample vocab %6ld batch %2ld temperature %.1f top_k %4ld top_p %.2f: %7.2f us\n", vocab, batch,
              config.temperature, config.top_k, config.top_p, 1e6 * seconds_of(ctx, graph.get(), 11) / kLaunches);
}

}  // namespace
}  // namespace restkv

int main(int argc, char** argv) {
  using namespace restkv;
  Context ctx(Context::Options{Device::gpu, 1});
  std::vector<Filling> fillings = {{0, 0}};
  for (int i = 1; i < argc; ++i) {
    Filling filling{};
    if (std::sscanf(argv[i], "%ld:%ld", &filling.blocks, &filling.depth) == 2) fillings.push_back(filling);
  }
  for (int64_t batch : {1, 8, 64})
    for (const SamplingConfig& config : {SamplingConfig{0.0, 0, 1.0, 1}, SamplingConfig{1.0, 0, 1.0, 1},
                                         SamplingConfig{0.8, 50, 0.9, 1}, SamplingConfig{1.0, 0, 0.95, 1}})
      sampling(ctx, 128256, batch, config);
  for (int64_t rows : {1024, 2048, 32768, 131072})
    for (int64_t batch : {1, 8, 64}) attention(ctx, rows, batch, fillings);
}
