#include "launch/run/generate.h"

#include <algorithm>
#include <array>

#include "dist/base/stopwatch.h"
#include "launch/run/text_stream.h"
#include "model/sampler.h"

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
  Writer(const Checkpoint& checkpoint, const RunConfig& config, const Request& request, const GenerationHooks& hooks)
      : checkpoint_(checkpoint),
        config_(config),
        request_(request),
        hooks_(hooks),
        decoder_(*checkpoint.tokenizer),
        filter_(config.generate.stop),
        sampling_{config.generate.temperature, config.generate.top_k, config.generate.top_p, config.generate.seed} {}

  int32_t next(const std::vector<float>& logits, uint64_t step) const {
    return sample(logits, sampling_, request_.hash, step);
  }

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
  const Request& request_;
  const GenerationHooks& hooks_;
  StreamDecoder decoder_;
  StopFilter filter_;
  SamplingConfig sampling_;
  std::string text_;
};

}  // namespace

Generation generate(Transformer& model, const ProcessGrid& grid, const Checkpoint& checkpoint, const RunConfig& config,
                    const Request& request, const GenerationHooks& hooks) {
  // The last token is never fed back: n new tokens take n - 1 places in the cache.
  auto L = static_cast<int64_t>(request.tokens.size());
  PrefillOptions options;
  options.max_new_tokens = config.generate.max_new_tokens - 1;
  if (checkpoint.config.max_positions > 0)
    options.max_new_tokens = std::min(options.max_new_tokens, checkpoint.config.max_positions - L);
  options.progress = hooks.on_prefill;
  Sequence sequence = model.prefill(request.tokens, options);
  if (hooks.on_prefill_done) hooks.on_prefill_done();

  Generation result;
  result.prefill = sequence.report;
  result.cache_bytes = sequence.cache.bytes();
  Writer writer(checkpoint, config, request, hooks);
  int64_t sent = bytes_sent(grid);
  Stopwatch watch;
  Stop stop = Stop::none;
  while (true) {
    std::array<int32_t, 2> decision{};  // token, stop
    if (grid.is_root()) {
      auto count = static_cast<int64_t>(result.tokens.size());
      decision[0] = writer.next(sequence.logits, static_cast<uint64_t>(count));
      decision[1] = static_cast<int32_t>(writer.take(decision[0], count + 1, sequence.length));
    }
    if (grid.size() > 1) grid.world().broadcast(std::span<int32_t>(decision), 0);
    result.tokens.push_back(decision[0]);
    stop = static_cast<Stop>(decision[1]);
    if (stop != Stop::none) break;
    model.decode_step(sequence, decision[0]);
  }
  result.decode_seconds = watch.seconds();
  result.decode_bytes = bytes_sent(grid) - sent;
  result.stop_reason = name_of(stop);
  if (grid.is_root()) result.text = writer.finish();
  return result;
}

}  // namespace restkv
