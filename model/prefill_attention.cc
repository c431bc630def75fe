// The attention of one layer of the prefill: projections, the exchange of keys and values within the sequence group
// beside them, and attention itself, by all-gather or round a ring.
#include <algorithm>

#include "dist/base/error.h"
#include "dist/comm/gather_rows.h"
#include "model/ops/add.h"
#include "model/ops/attention_prefill.h"
#include "model/ops/merge_attention.h"
#include "model/ops/rms_norm.h"
#include "model/ops/rope.h"
#include "model/prefill_state.h"
#include "model/ring_schedule.h"

namespace restkv {

// q = softmax(q K^T / sqrt(d)) V for this rank's rows; k and v hold its keys and values.
void Transformer::attention(int64_t layer, const LayerWeights& w, PrefillState& s) {
  if (grid_.sequence_size() > 1 && context_ == ContextPlan::ring)
    ring_attention(w, s);
  else
    gathered_attention(layer, w, s);
}

// For the rows of one part: normed = rms_norm(x); q, k, v = normed Wqkv^T (+ bias); rotate q and k. Of them those that
// are asked for, the keys with their values.
void Transformer::project_qkv(const LayerWeights& w, const PrefillPart& part, bool queries, bool keys,
                              PrefillState& s) {
  int64_t H = config_.hidden, q_width = s.q.size(1), kv_width = s.k.size(1);
  MatrixView weight(w.qkv);
  MatrixView wq = weight.block(0, q_width, 0, H), wk = weight.block(q_width, kv_width, 0, H),
             wv = weight.block(q_width + kv_width, kv_width, 0, H);
  auto project = [&](const MatrixView& normed, const MatrixView& w_part, const MatrixView& y, int64_t bias_at) {
    gemm(ctx_, normed, w_part, y);
    if (w.qkv_bias.empty()) return;
    // One row for all: a leading dimension of zero.
    add(ctx_, y, {w.qkv_bias.data<float>() + bias_at, DType::f32, y.rows, y.cols, 0});
  };
  for_slices(part.first, part.rows, s.slice, [&](int64_t first, int64_t rows) {
    MatrixView normed = MatrixView(s.normed).block(0, rows, 0, H);
    s.clock.start("norm");
    rms_norm(ctx_, s.x_rows(first, rows), w.attention_norm, normed, config_.rms_eps);
    s.clock.start("gemm");
    if (queries) project(normed, wq, s.held_rows(s.q, first, rows), 0);
    if (!keys) return;
    project(normed, wk, MatrixView(s.k).block(first, rows, 0, kv_width), q_width);
    project(normed, wv, MatrixView(s.v).block(first, rows, 0, kv_width), q_width + kv_width);
  });
  if (part.rows == 0) return;
  s.clock.start("rope");
  const Tensor angles = s.rope.rows(part.first - s.origin, part.rows);
  if (queries) apply_rope(ctx_, s.held_rows(s.q, part.first, part.rows), config_.d, angles);
  if (keys) apply_rope(ctx_, MatrixView(s.k).block(part.first, part.rows, 0, kv_width), config_.d, angles);
}

// Those of a run's queries that lie in the window, before attention overwrites them.
void Transformer::copy_window_queries(const PrefillPart& run, PrefillState& s) {
  if (s.q_window.empty()) return;
  const int64_t L = s.partition.length();
  const Range window{L - s.q_window.size(0), L};
  const Range rows = intersect({run.position, run.position + run.rows}, window);
  if (rows.empty()) return;
  // The rank's rows of the window begin with the window, or with the rank's chunk.
  const int64_t at = rows.begin - std::max(window.begin, s.parts[run.half].position);
  const Tensor& all = s.parts.size() == 1 ? s.q_window : s.q_own[run.half];
  const Tensor to = all.rows(at, rows.size());
  ctx_.copy(to.raw(), s.q.rows(run.first - s.origin + rows.begin - run.position, rows.size()).raw(), to.bytes());
}

void Transformer::gather_window_queries(PrefillState& s) {
  if (s.q_window.empty()) return;
  Communicator& sequence = grid_.sequence();
  const int64_t L = s.partition.length();
  count_sent(sequence, s.report.evict_bytes, [&] {
    for (int half : {0, 1})
      gather_half(sequence, s.partition, half, {L - s.q_window.size(0), L}, s.q_own[half].raw(), s.q_window.raw(),
                  s.q.size(1), activation_);
  });
}

// The keys and values of one half of all ranks' chunks, of which `part` is this rank's, into k_all and v_all.
std::shared_ptr<void> Transformer::gather_keys(const PrefillPart& part, bool window_queries, PrefillState& s) {
  Communicator& sequence = grid_.sequence();
  if (sequence.size() == 1) return nullptr;
  s.clock.start("exchange");
  const auto gather = [&] {
    count_sent(sequence, s.report.exchange_bytes, [&] {
      for (auto [own, all] : {std::pair{&s.k, &s.k_all}, {&s.v, &s.v_all}})
        gather_half(sequence, s.partition, static_cast<int>(part.half), {0, s.partition.length()},
                    own->rows(part.first, part.rows).raw(), all->raw(), own->size(1), activation_);
    });
    if (window_queries) gather_window_queries(s);
  };
  // The last gather is beside attention, whose kernels hold all multiprocessors for milliseconds.
  return window_queries ? sequence.beside_first(gather) : sequence.beside(gather);
}

// While the upper chunk is projected the lower chunks' keys and values are gathered, and while the lower chunk attends
// them, which is all it sees, the upper ones.
void Transformer::gathered_attention(int64_t layer, const LayerWeights& w, PrefillState& s) {
  std::vector<std::shared_ptr<void>> tickets;
  for (const PrefillPart& part : s.parts) {
    const bool complete = tickets.size() + 1 == s.parts.size();
    project_qkv(w, part, /*queries=*/true, /*keys=*/true, s);
    s.clock.start("exchange");
    copy_window_queries(part, s);
    tickets.push_back(gather_keys(part, /*window_queries=*/complete, s));
  }
  for (const PrefillPart& part : s.parts) {
    if (tickets[part.half]) {
      s.clock.start("exchange");
      grid_.sequence().join(tickets[part.half].get());
    }
    attend(layer, part, s);
  }
}

// The attention of a run of rows over the gathered keys and values.
void Transformer::attend(int64_t layer, const PrefillPart& part, PrefillState& s) {
  s.clock.start("attention");
  const HeadLayout& heads = plan_.resident.heads;
  const std::vector<int64_t> lengths(static_cast<size_t>(heads.Hkv_lc()), s.partition.length());
  const KvView kv{s.k_all.raw(), s.v_all.raw(), activation_,         heads.Hkv_lc(),
                  config_.d,     s.k.size(1),   s.kv_offsets.data(), lengths.data()};
  // A tile reads all of its queries before it writes its rows, so the output may take their place.
  PrefillAttention args{s.held_rows(s.q, part.first, part.rows),
                        s.held_rows(s.attended, part.first, part.rows),
                        part.position,
                        config_.attention_scale(),
                        config_.window_of(layer),
                        config_.traits.attention_softcap};
  if (s.keeps_queries && part.rows > 0) {
    args.lse = s.lse.data<float>() + (part.first - s.origin);
    args.lse_ld = s.chunked() ? part.rows : s.L_lc;  // dense, as column sums read it
  }
  attention_prefill(ctx_, args, kv, heads);
}

// The chunks of all ranks come by one after the other; while one is attended the next is on its way.
void Transformer::ring_attention(const LayerWeights& w, PrefillState& s) {
  Communicator& sequence = grid_.sequence();
  const int ranks = sequence.size(), rank = sequence.rank();
  for (const PrefillPart& part : s.parts) {
    project_qkv(w, part, /*queries=*/true, /*keys=*/true, s);
    copy_window_queries(part, s);
  }
  const auto schedule = ring_schedule(s.partition, rank);
  const Tensor* held = &s.kv;
  for (int step = 0; step < ranks; ++step) {
    const int64_t rows = s.partition.local_size(ring_source(rank, ranks, step));
    const Tensor* next = step + 1 < ranks ? &s.ring[static_cast<size_t>(step % 2)] : nullptr;
    std::shared_ptr<void> ticket;
    if (next != nullptr) {
      s.clock.start("exchange");
      ticket = sequence.beside([&] {
        if (step == 0) gather_window_queries(s);
        const int64_t coming = s.partition.local_size(ring_source(rank, ranks, step + 1)), width = 2 * s.k.size(1);
        count_sent(sequence, s.report.exchange_bytes, [&] {
          sequence.send_recv(held->raw(), rows * width, (rank + 1) % ranks, next->raw(), coming * width,
                             (rank + ranks - 1) % ranks, activation_);
        });
      });
    }
    s.clock.start("attention");
    for (const RingBlock& block : schedule[static_cast<size_t>(step)]) attend_block(block, *held, rows, s);
    if (next == nullptr) break;
    s.clock.start("exchange");
    if (ticket) sequence.join(ticket.get());
    held = next;
  }
}

// One block of the ring, merged into the totals; with the last one of a chunk its rows of q become the output. `held`:
// keys, then values, `rows` of each.
void Transformer::attend_block(const RingBlock& block, const Tensor& held, int64_t rows, PrefillState& s) {
  const HeadLayout& heads = plan_.resident.heads;
  const PrefillPart& part = s.parts[static_cast<size_t>(block.half)];
  const int64_t width = s.q.size(1);
  const std::vector<int64_t> lengths(static_cast<size_t>(heads.Hkv_lc()), block.keys);
  KvView kv{held.raw(),  held.rows(rows, rows).raw(), activation_,   heads.Hkv_lc(), config_.d,
            s.k.size(1), s.kv_offsets.data(),         lengths.data()};
  for_slices(0, part.rows, s.block_out.size(0), [&](int64_t first, int64_t n) {
    const int64_t row = part.first + first;
    MatrixView q = MatrixView(s.q).block(row, n, 0, width), out = MatrixView(s.block_out).block(0, n, 0, width);
    // check_support() refuses sliding windows that cut anything.
    PrefillAttention args{q,
                          out,
                          block.first_position + first,
                          config_.attention_scale(),
                          /*sliding_window=*/0,
                          config_.traits.attention_softcap,
                          s.block_lse.data<float>(),
                          s.block_lse.size(1)};
    attention_prefill(ctx_, args, kv, heads);
    merge_attention(ctx_, {out, args.lse, args.lse_ld},
                    {MatrixView(s.total_out).block(row, n, 0, width), s.total_lse.data<float>() + row,
                     s.total_lse.size(1), block.first},
                    config_.d, block.last ? q : MatrixView());
  });
}

}  // namespace restkv
