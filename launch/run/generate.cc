#include "launch/run/generate.h"

#include <algorithm>
#include <array>
#include <memory>

#include "dist/base/activity.h"
#include "dist/base/stopwatch.h"
#include "launch/run/text_stream.h"
#include "model/decode_batch.h"

namespace restkv {
namespace {

enum class Stop : int32_t { none, token, text, count, positions };

const char* name_of(Stop stop) {
  static const char* const names[] = {"", "stop_token", "stop_text", "max_new_tokens", "positions"};
  return names[static_cast<int>(stop)];
}

int64_t bytes_sent(const ProcessGrid& grid) {
  return grid.world().stats().bytes_sent + grid.sequence().stats().bytes_sent + grid.tensor().stats().bytes_sent;
}

/// Rank 0's side: samples, shows text, decides when it is enough.
class Writer {
 public:
  Writer(const Checkpoint& checkpoint, const RunConfig& config, const GenerationHooks& hooks)
      : checkpoint_(checkpoint),
        config_(config),
        hooks_(hooks),
        decoder_(*checkpoint.tokenizer),
        filter_(config.generate.stop) {}

  /// Why to stop after `token`, the `count`-th; `at` is the position it would take.
  Stop take(int32_t token, int64_t count, int64_t at) {
    const std::vector<int32_t>& stops = checkpoint_.stop_tokens;
    if (!config_.generate.ignore_eos && std::find(stops.begin(), stops.end(), token) != stops.end()) return Stop::token;
    show(filter_.push(decoder_.push(token)));
    if (filter_.stopped()) return Stop::text;
    if (count >= config_.generate.max_new_tokens) return Stop::count;
    if (checkpoint_.config.max_positions > 0 && at >= checkpoint_.config.max_positions) return Stop::positions;
    return Stop::none;
  }

  std::string finish() {
    if (!filter_.stopped()) {
      show(filter_.push(decoder_.finish()));
      show(filter_.finish());
    }
    return text_;
  }

 private:
  void show(const std::string& text) {
    if (text.empty()) return;
    text_ += text;
    if (hooks_.on_text) hooks_.on_text(text);
  }

  const Checkpoint& checkpoint_;
  const RunConfig& config_;
  const GenerationHooks& hooks_;
  StreamDecoder decoder_;
  StopFilter filter_;
  std::string text_;
};

PrefillOptions prefill_options(const Checkpoint& checkpoint, const RunConfig& config, const Request& request,
                               const GenerationHooks& hooks) {
  // The last token is never fed back: n new tokens take n - 1 places in the cache.
  auto L = static_cast<int64_t>(request.tokens.size());
  PrefillOptions options;
  options.max_new_tokens = config.generate.max_new_tokens - 1;
  if (checkpoint.config.max_positions > 0)
    options.max_new_tokens = std::min(options.max_new_tokens, checkpoint.config.max_positions - L);
  options.progress = hooks.on_prefill;
  options.chunk = config.prefill.chunk;
  options.host_residual = config.prefill.residual == ResidualPlace::host;
  return options;
}

/// A request on its way.
struct Going {
  Sequence sequence;
  Generation result;
  std::unique_ptr<Writer> writer;  // rank 0 only
};

// Decides with rank 0 on the next token of every member: token and Stop of each, the same on every rank.
std::vector<std::array<int32_t, 2>> decide(DecodeBatch& batch, const ProcessGrid& grid, std::span<Going* const> live) {
  std::vector<std::array<int32_t, 2>> decisions(live.size());
  if (grid.is_root()) {
    std::span<const int32_t> tokens = batch.tokens();
    for (size_t i = 0; i < live.size(); ++i) {
      auto count = static_cast<int64_t>(live[i]->result.tokens.size());
      Stop stop = live[i]->writer->take(tokens[i], count + 1, live[i]->sequence.length);
      decisions[i] = {tokens[i], static_cast<int32_t>(stop)};
    }
  }
  if (grid.size() > 1) grid.control().broadcast(std::span<int32_t>(decisions.front().data(), 2 * decisions.size()), 0);
  return decisions;
}

void decode_all(Transformer& model, const ProcessGrid& grid, const RunConfig& config, std::span<const Request> requests,
                std::vector<Going>& all) {
  SamplingConfig sampling{config.generate.temperature, config.generate.top_k, config.generate.top_p,
                          config.generate.seed};
  std::vector<DecodeBatch::Member> members;
  std::vector<Going*> live;
  for (size_t i = 0; i < all.size(); ++i) {
    members.push_back({&all[i].sequence, sampling, requests[i].hash});
    live.push_back(&all[i]);
  }
  ActivityScope doing("decode");
  const int64_t sent = bytes_sent(grid);
  Stopwatch watch;
  auto batch = make_decode_batch(model, std::move(members));
  while (true) {
    auto decisions = decide(*batch, grid, live);
    std::vector<int32_t> tokens;
    for (int64_t i = static_cast<int64_t>(live.size()) - 1; i >= 0; --i) {
      Generation& result = live[i]->result;
      result.tokens.push_back(decisions[i][0]);
      Stop stop = static_cast<Stop>(decisions[i][1]);
      if (stop == Stop::none) {
        tokens.insert(tokens.begin(), decisions[i][0]);
        continue;
      }
      result.stop_reason = name_of(stop);
      result.decode_seconds = watch.seconds();
      result.decode_bytes = bytes_sent(grid) - sent;
      batch->leave(i);
      live.erase(live.begin() + i);
    }
    if (live.empty()) return;
    batch->step(tokens);
  }
}

}  // namespace

std::vector<Generation> generate(Transformer& model, const ProcessGrid& grid, const Checkpoint& checkpoint,
                                 const RunConfig& config, std::span<const Request> requests,
                                 const GenerationHooks& hooks) {
  std::vector<Going> all;
  for (const Request& request : requests) {
    Sequence sequence = model.prefill(request.tokens, prefill_options(checkpoint, config, request, hooks));
    if (hooks.on_prefill_done) hooks.on_prefill_done();
    Generation result;
    result.prefill = sequence.report;
    result.cache_bytes = sequence.cache.bytes();
    result.batch = static_cast<int64_t>(requests.size());
    all.push_back({std::move(sequence), std::move(result), nullptr});
    if (grid.is_root()) all.back().writer = std::make_unique<Writer>(checkpoint, config, hooks);
  }
  decode_all(model, grid, config, requests, all);
  std::vector<Generation> results;
  for (Going& going : all) {
    if (going.writer) going.result.text = going.writer->finish();
    results.push_back(std::move(going.result));
  }
  return results;
}

}  // namespace restkv
