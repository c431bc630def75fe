// A layer of the prefill in chunks of rows: beside the residual stream and the layer's keys and values nothing grows
// with the prompt.
#include "kvcache/statistics/running_column_sums.h"
#include "model/ops/rope.h"
#include "model/prefill_state.h"

namespace restkv {

// Keys and values of all rows come first, since any row may attend those of others; then chunk by chunk all the rest,
// whose queries, attention and activations then take the place of the chunk's before.
void Transformer::chunked_layer(int64_t layer, const LayerWeights& w, PrefillState& s) {
  Communicator& sequence = grid_.sequence();
  std::vector<std::shared_ptr<void>> tickets = project_all_keys(w, s);
  if (s.keeps_queries) ctx_.fill_zero(s.column_sums.raw(), s.column_sums.bytes());
  auto join = [&](size_t last_half) {
    for (size_t half = 0; half <= last_half && half < tickets.size(); ++half)
      if (std::shared_ptr<void> ticket = std::move(tickets[half])) {
        s.clock.start("exchange");
        sequence.join(ticket.get());
      }
  };
  // The window's queries are complete with a rank's last chunk; all ranks gather them once, whatever chunks they have.
  std::shared_ptr<void> window;
  auto gather_window = [&] {
    if (sequence.size() == 1 || s.q_window.empty()) return;
    s.clock.start("exchange");
    window = sequence.beside([&] { gather_window_queries(s); });
  };
  for (size_t i = 0; i < s.chunks.size(); ++i) {
    const PrefillPart& chunk = s.chunks[i];
    enter_chunk(chunk, s);
    project_qkv(w, chunk, /*queries=*/true, /*keys=*/false, s);
    copy_window_queries(chunk, s);
    if (i + 1 == s.chunks.size()) gather_window();
    join(chunk.half);
    chunk_attention(layer, chunk, s);
    project_output(w, {chunk.first, chunk.first + chunk.rows}, s);
    mlp(w, {chunk.first, chunk.first + chunk.rows}, s);
    leave_chunk(chunk, /*changed=*/true, s);
  }
  if (s.chunks.empty()) gather_window();
  join(1);
  if (window) sequence.join(window.get());
}

// The buffers of one chunk are the chunk's from now on.
void Transformer::enter_chunk(const PrefillPart& chunk, PrefillState& s) {
  s.origin = chunk.first;
  if (s.residual) {
    s.clock.start("copy");  // the wait for it, where it comes late
    s.x = s.residual->enter();
    s.x_origin = chunk.first;
  }
  s.clock.start("rope");
  fill_rope_table(ctx_, s.frequencies, s.position_ids.rows(chunk.first, chunk.rows), config_.rope.attention_factor,
                  s.rope);
}

void Transformer::leave_chunk(const PrefillPart& chunk, bool changed, PrefillState& s) {
  if (!s.residual) return;
  settle(s, {chunk.first, chunk.first + chunk.rows});
  s.residual->leave(changed);
}

// Both halves are gathered beside what follows: the lower one beside the projection of the upper one, that one beside
// the lower chunks' way through the layer, which see lower keys only.
std::vector<std::shared_ptr<void>> Transformer::project_all_keys(const LayerWeights& w, PrefillState& s) {
  std::vector<std::shared_ptr<void>> tickets;
  for (const PrefillPart& part : s.parts) {
    for (const PrefillPart& chunk : s.chunks) {
      if (chunk.half != part.half) continue;
      enter_chunk(chunk, s);
      project_qkv(w, chunk, /*queries=*/false, /*keys=*/true, s);
      leave_chunk(chunk, /*changed=*/false, s);
    }
    tickets.push_back(gather_keys(part, /*window_queries=*/false, s));
  }
  return tickets;
}

void Transformer::chunk_attention(int64_t layer, const PrefillPart& chunk, PrefillState& s) {
  attend(layer, chunk, s);
  if (!s.keeps_queries) return;
  s.clock.start("scoring");
  const PromptQueries queries{MatrixView(s.q).block(0, chunk.rows, 0, s.q.size(1)), MatrixView(s.k_all),
                              s.lse.data<float>()};
  add_column_sums(ctx_, plan_.resident.heads, {0, chunk.position, chunk.rows}, queries, s.column_sums.data<int64_t>());
}

}  // namespace restkv
