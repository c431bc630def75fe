// Causal attention of one layer on a GPU, as prefill calls it, and cut further by query rows or by KV heads.
//   attention_prefill_bench [tokens] [query heads] [KV heads] [head size]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "dist/base/error.h"
#include "dist/base/mix.h"
#include "model/ops/attention_prefill.h"
#include "model/weights/random_fill.h"

namespace restkv {
namespace {

struct Layer {
  int64_t L, Hq, Hkv, d;
  Tensor q, k, v, out;
};

// Rows [first, first + n) for KV heads [g, g + count).
void attend(Context& ctx, const Layer& x, int64_t first, int64_t n, int64_t g, int64_t count) {
  const int64_t group = x.Hq / x.Hkv;
  HeadLayout heads{count * group, count, x.d, {{0, count * group}, {0, count}}};
  std::vector<int64_t> offsets, lengths(static_cast<size_t>(count), x.L);
  for (int64_t h = 0; h < count; ++h) offsets.push_back(h * x.d);
  KvView kv{x.k.data<bf16>() + g * x.d,
            x.v.data<bf16>() + g * x.d,
            DType::bf16,
            count,
            x.d,
            x.Hkv * x.d,
            offsets.data(),
            lengths.data()};
  MatrixView q = MatrixView(x.q).block(first, n, g * group * x.d, count * group * x.d);
  MatrixView out = MatrixView(x.out).block(first, n, g * group * x.d, count * group * x.d);
  attention_prefill(ctx, {q, out, first, 1.0 / std::sqrt(static_cast<double>(x.d))}, kv, heads);
}

void measure(Context& ctx, const Layer& x, int64_t rows, int64_t heads) {
  auto layer = [&] {
    for (int64_t first = 0; first < x.L; first += rows)
      for (int64_t g = 0; g < x.Hkv; g += heads)
        attend(ctx, x, first, std::min(rows, x.L - first), g, std::min(heads, x.Hkv - g));
  };
  layer();
  ctx.synchronize();
  std::vector<double> seconds;
  for (int i = 0; i < 3; ++i) {
    auto from = ctx.gpu()->mark();
    layer();
    auto to = ctx.gpu()->mark();
    seconds.push_back(ctx.gpu()->seconds_between(from.get(), to.get()));
  }
  std::sort(seconds.begin(), seconds.end());
  const double flops = 2.0 * static_cast<double>(x.L) * static_cast<double>(x.L + 1) * static_cast<double>(x.Hq * x.d);
  printf("%8ld rows, %2ld KV heads a call: %8.3f ms, %6.1f TFLOP/s\n", static_cast<long>(rows),
         static_cast<long>(heads), 1e3 * seconds[1], flops / seconds[1] / 1e12);
  fflush(stdout);
}

int run(int argc, char** argv) {
  auto number = [&](int i, int64_t otherwise) { return argc > i ? std::atoll(argv[i]) : otherwise; };
  Context ctx({Device::gpu, 1});
  Layer x{number(1, 131072), number(2, 32), number(3, 8), number(4, 128), {}, {}, {}, {}};
  auto random = [&](int64_t width, uint64_t key) {
    Tensor t = ctx.empty(DType::bf16, {x.L, width});
    random_fill(ctx, {key, width, {0, x.L}, {0, width}, 0.0f, 1.7f}, t);
    return t;
  };
  x.q = random(x.Hq * x.d, 1), x.k = random(x.Hkv * x.d, 2), x.v = random(x.Hkv * x.d, 3),
  x.out = random(x.Hq * x.d, 4);
  for (int64_t rows : {x.L, x.L / 32, x.L / 64}) measure(ctx, x, rows, x.Hkv);
  for (int64_t heads : {int64_t{1}, int64_t{2}, int64_t{4}}) measure(ctx, x, x.L / 16, heads);
  return 0;
}

}  // namespace
}  // namespace restkv

int main(int argc, char** argv) {
  try {
    return restkv::run(argc, argv);
  } catch (const restkv::Error& e) {
    fprintf(stderr, "%s\n", e.what());
    return e.exit_code();
  }
}
