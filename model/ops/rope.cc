#include "model/ops/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "model/ops/dispatch.h"

namespace restkv {
namespace {

// Long wavelengths are divided by `factor`, short ones stay, those between are blended.
float llama3_scaled(const RopeConfig& rope, double frequency) {
  double wavelength = 2.0 * std::numbers::pi / frequency;
  double original = static_cast<double>(rope.original_max_positions);
  if (wavelength > original / rope.low_freq_factor) return static_cast<float>(frequency / rope.factor);
  if (wavelength < original / rope.high_freq_factor) return static_cast<float>(frequency);
  double smooth = (original / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return static_cast<float>((1.0 - smooth) * frequency / rope.factor + smooth * frequency);
}

// Frequencies that turn more than beta_fast times over the original positions stay, those that turn less than beta_slow
// times are divided by `factor`, and between the two the share that stays falls linearly with the index.
float yarn_scaled(const RopeConfig& rope, int64_t d, int64_t i, double frequency) {
  auto index_of_turns = [&](double turns) {
    return static_cast<double>(d) *
           std::log(static_cast<double>(rope.original_max_positions) / (turns * 2.0 * std::numbers::pi)) /
           (2.0 * std::log(rope.theta));
  };
  double low = index_of_turns(rope.beta_fast), high = index_of_turns(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(d - 1));
  if (low == high) high += 0.001;
  double divided = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
  return static_cast<float>(frequency / rope.factor * divided + frequency * (1.0 - divided));
}

// The base that a sequence of `length` tokens asks for.
double dynamic_theta(const RopeConfig& rope, int64_t d, int64_t length) {
  const auto original = static_cast<double>(rope.original_max_positions), D = static_cast<double>(d);
  const double reached = std::max(static_cast<double>(length), original);
  return rope.theta * std::pow(rope.factor * reached / original - (rope.factor - 1.0), D / (D - 2.0));
}

}  // namespace

std::vector<float> rope_frequencies(const RopeConfig& rope, int64_t d, int64_t length) {
  std::vector<float> frequencies(static_cast<size_t>(d / 2));
  const double theta = rope.type == "dynamic" ? dynamic_theta(rope, d, length) : rope.theta;
  for (int64_t i = 0; i < d / 2; ++i) {
    double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(d));
    if (rope.type == "default" || rope.type == "dynamic")
      frequencies[i] = static_cast<float>(frequency);
    else if (rope.type == "linear")
      frequencies[i] = static_cast<float>(frequency / rope.factor);
    else if (rope.type == "llama3")
      frequencies[i] = llama3_scaled(rope, frequency);
    else if (rope.type == "yarn")
      frequencies[i] = yarn_scaled(rope, d, i, frequency);
    else
      fail_runtime("rope type \"{}\" has no frequencies", rope.type);
    if (!rope.frequency_factors.empty()) frequencies[i] /= rope.frequency_factors.at(static_cast<size_t>(i));
  }
  return frequencies;
}

Tensor rope_table(Context& ctx, const std::vector<float>& frequencies, const std::vector<int64_t>& positions,
                  double factor) {
  int64_t half = static_cast<int64_t>(frequencies.size()), n = static_cast<int64_t>(positions.size());
  Tensor table = ctx.empty(DType::f32, {n, 2, half});
  fill_rope_table(ctx, ctx.to_device(frequencies.data(), DType::f32, {half}),
                  ctx.to_device(positions.data(), DType::i64, {n}), factor, table);
  return table;
}

void fill_rope_table(Context& ctx, const Tensor& frequencies, const Tensor& positions, double factor,
                     const Tensor& table) {
  const int64_t half = frequencies.numel(), n = positions.numel();
  RESTKV_CHECK(table.size(0) >= n && table.size(1) == 2 && table.size(2) == half,
               "rope table {} for {} positions, {} frequencies", table.describe(), n, half);
  const float *f = frequencies.data<float>(), scale = static_cast<float>(factor);
  const int64_t* p = positions.data<int64_t>();
  float* data = table.data<float>();
  if (on_gpu(ctx)) return gpu::rope_table(ctx, f, p, n, half, scale, data);
  ctx.parallel_for(n, [&](int64_t r) {
    float position = static_cast<float>(p[r]);
    for (int64_t i = 0; i < half; ++i) {
      float angle = position * f[i];
      data[(2 * r) * half + i] = std::cos(angle) * scale;
      data[(2 * r + 1) * half + i] = std::sin(angle) * scale;
    }
  });
}

void apply_rope(Context& ctx, const MatrixView& x, int64_t d, const Tensor& table) {
  RESTKV_CHECK(table.size(0) >= x.rows && 2 * table.size(2) == d && x.cols % d == 0,
               "rope table {} for x [{}, {}], d {}", table.describe(), x.rows, x.cols, d);
  if (on_gpu(ctx)) return gpu::apply_rope(ctx, x, d, table.data<float>());
  require_cpu_f32(ctx, "apply_rope", {x.dtype});
  cpu::apply_rope(ctx, x, d, table.data<float>());
}

}  // namespace restkv
