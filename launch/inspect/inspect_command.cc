#include "launch/inspect/inspect_command.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <map>

#include "launch/results/record.h"
#include "model/checkpoint.h"
#include "model/shard_plan.h"

namespace restkv {
namespace {

void print_row(const char* name, const std::string& value) { fmt::print("  {:<22} {}\n", name, value); }

template <class T>
void print_number(const char* name, T value) {
  print_row(name, fmt::format("{}", value));
}

void print_architecture(const Checkpoint& checkpoint) {
  const ModelConfig& m = checkpoint.config;
  fmt::print("model {}\n", checkpoint.path);
  print_row("format", checkpoint.format);
  print_row("family", m.family);
  print_number("parameters", m.parameters());
  print_number("layers", m.layers);
  print_number("hidden", m.hidden);
  print_number("MLP", m.intermediate);
  print_row("heads", fmt::format("{} query, {} KV, size {}", m.Hq, m.Hkv, m.d));
  print_number("vocabulary", m.vocab);
  print_number("positions", m.max_positions);
  print_number("RMSNorm epsilon", m.rms_eps);
  print_row("embeddings", m.tied_embeddings ? "tied to the output head" : "separate from the output head");
  print_row("RoPE", fmt::format("{}, theta {}, factor {}", m.rope.type, m.rope.theta, m.rope.factor));
  if (m.traits.attention_bias) print_row("biases", "on queries, keys and values");
  if (m.traits.sliding_window > 0) print_number("sliding window", m.traits.sliding_window);
  print_row("cache", fmt::format("{} per token in f32", format_bytes(2 * m.layers * m.Hkv * m.d * 4)));
  print_row("parallel.tensor", fmt::format("{}", fmt::join(allowed_tensor_sizes(m), ", ")));
}

/// A key under which layer 2 comes before layer 10: every number preceded by its length.
std::string counting_order(const std::string& name) {
  std::string key;
  for (size_t i = 0; i < name.size();) {
    size_t end = i;
    while (end < name.size() && std::isdigit(static_cast<unsigned char>(name[end]))) ++end;
    if (end > i) key += static_cast<char>(end - i);
    end = std::max(end, i + 1);
    key += name.substr(i, end - i);
    i = end;
  }
  return key;
}

void print_tensors(const WeightSource& weights) {
  std::vector<WeightInfo> list = weights.list();
  std::sort(list.begin(), list.end(),
            [](const auto& a, const auto& b) { return counting_order(a.name) < counting_order(b.name); });
  std::map<std::string, std::pair<int64_t, int64_t>> by_encoding;  // tensors, bytes
  int64_t bytes = 0;
  fmt::print("tensors\n");
  for (const WeightInfo& t : list) {
    std::string shape = fmt::format("[{}]", fmt::join(t.shape, ", "));
    fmt::print("  {:<52} {:<6} {:<18} {:>12}\n", t.name, t.encoding, shape, t.stored_bytes);
    by_encoding[t.encoding].first += 1;
    by_encoding[t.encoding].second += t.stored_bytes;
    bytes += t.stored_bytes;
  }
  for (const auto& [encoding, sum] : by_encoding)
    print_row(encoding.c_str(), fmt::format("{} tensors, {}", sum.first, format_bytes(sum.second)));
  print_row("all", fmt::format("{} tensors, {}", list.size(), format_bytes(bytes)));
}

std::string token_text(const Tokenizer& tokenizer, int32_t id) {
  return id < 0 ? "none" : fmt::format("{} \"{}\"", id, tokenizer.piece(id, false));
}

void print_tokenizer(const Checkpoint& checkpoint) {
  fmt::print("tokenizer\n");
  if (checkpoint.tokenizer == nullptr) {
    print_row("none", "the model computes logits, but cannot read text");
    return;
  }
  const Tokenizer& t = *checkpoint.tokenizer;
  print_row("kind", t.describe());
  print_number("tokens", t.vocab_size());
  print_row("first token", t.add_bos() ? token_text(t, t.bos()) : "none is added");
  if (t.add_eos()) print_row("last token", token_text(t, t.eos()) + " after raw prompts");
  std::string stops;
  for (int32_t id : checkpoint.stop_tokens) stops += (stops.empty() ? "" : ", ") + token_text(t, id);
  print_row("stop tokens", stops.empty() ? "none" : stops);
}

}  // namespace

void inspect_command(const std::string& model_path) {
  Checkpoint checkpoint = open_checkpoint(model_path);
  print_architecture(checkpoint);
  print_tensors(*checkpoint.weights);
  print_tokenizer(checkpoint);
  fmt::print("chat template\n{}\n", checkpoint.chat_template.empty() ? "  none" : checkpoint.chat_template);
}

}  // namespace restkv
