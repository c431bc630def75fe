#include "model/ops/decode_exchange.h"

#include <algorithm>

#include "model/ops/dispatch.h"

namespace restkv {

void sum_into_stream(Context& ctx, const PeerView& peers, const Tensor& terms, const Tensor& norm,
                     const DecodeStream& stream, bool replace) {
  RESTKV_CHECK(on_gpu(ctx), "sum_into_stream has no version for {}", name_of(ctx.device()));
  RESTKV_CHECK(terms.dtype() == DType::f32 && terms.shape() == stream.x.shape(), "terms {} for x {}", terms.describe(),
               stream.x.describe());
  RESTKV_CHECK(norm.dtype() == DType::f32 && norm.numel() == stream.hidden(), "norm weight {} for {} elements",
               norm.describe(), stream.hidden());
  RESTKV_CHECK(stream.batch() >= 1 && stream.batch() <= kMaxDecodeBatch, "decode batch {} (1 to {})", stream.batch(),
               kMaxDecodeBatch);
  RESTKV_CHECK(stream_sum_words(stream.batch(), stream.hidden()) <= peers.words,
               "a sum of {} words over peer memory for {}", stream_sum_words(stream.batch(), stream.hidden()),
               peers.words);
  gpu::sum_into_stream(ctx, peers, terms, norm, stream, replace);
}

void exchange_and_merge(Context& ctx, const PeerView& peers, const PartialExchange& args) {
  RESTKV_CHECK(on_gpu(ctx), "exchange_and_merge has no version for {}", name_of(ctx.device()));
  RESTKV_CHECK(args.d > 0 && args.d % 2 == 0, "exchange_and_merge: head size {}, an even one needed", args.d);
  RESTKV_CHECK(partial_exchange_words(args.rows, args.d) <= peers.words,
               "{} partial results of {} elements over peer memory for {} words", args.rows, args.d, peers.words);
  if (args.rows > 0) gpu::exchange_and_merge(ctx, peers, args);
}

int64_t column_exchange_words(const std::vector<Range>& columns, int64_t rows) {
  int64_t width = 1;
  for (const Range& part : columns) width = std::max(width, part.size());
  return rows * ((width + 1) / 2) * 2;
}

void exchange_columns(Context& ctx, const PeerView& peers, const ColumnExchange& args) {
  RESTKV_CHECK(on_gpu(ctx), "exchange_columns has no version for {}", name_of(ctx.device()));
  RESTKV_CHECK(static_cast<int>(args.columns.size()) == peers.size, "slices of {} ranks for a group of {}",
               args.columns.size(), peers.size);
  for (const Range& part : args.columns)
    RESTKV_CHECK(part.begin >= 0 && part.end <= args.cols, "columns {} to {} of {}", part.begin, part.end, args.cols);
  const Range mine = args.columns[static_cast<size_t>(peers.rank)];
  RESTKV_CHECK(args.own.dtype == DType::f32 && args.own.cols == mine.size(), "a slice {} [{}, {}] for {} columns",
               name_of(args.own.dtype), args.own.rows, args.own.cols, mine.size());
  RESTKV_CHECK(column_exchange_words(args.columns, args.own.rows) <= peers.words,
               "{} rows of slices over peer memory for {} words", args.own.rows, peers.words);
  if (args.own.rows > 0) gpu::exchange_columns(ctx, peers, args);
}

void join_columns(Context& ctx, const float* parts, const std::vector<Range>& columns, int64_t rows, float* out,
                  int64_t cols) {
  for (const Range& part : columns) {
    RESTKV_CHECK(part.begin >= 0 && part.end <= cols, "columns {} to {} of {}", part.begin, part.end, cols);
    if (on_gpu(ctx)) {
      if (!part.empty() && rows > 0) gpu::place_columns(ctx, parts, part.size(), rows, out, cols, part.begin);
    } else {
      for (int64_t r = 0; r < rows; ++r) std::copy_n(parts + r * part.size(), part.size(), out + r * cols + part.begin);
    }
    parts += rows * part.size();
  }
}

}  // namespace restkv
