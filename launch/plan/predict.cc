#include "launch/plan/predict.h"

#include <algorithm>
#include <cmath>

#include "kvcache/exchange_bytes.h"
#include "kvcache/policies/policy.h"
#include "launch/bench/costs.h"
#include "launch/plan/eviction_cost.h"

namespace restkv {
namespace {

constexpr double kF32 = 4.0;

/// Where a group lies: nodes that it spans, and its ranks on each.
struct Spread {
  double nodes = 1.0, per_node = 1.0;
};

Spread spread_of(RankGroup group, int64_t ranks_per_node) {
  int64_t per_node = std::clamp<int64_t>(ranks_per_node / group.stride, 1, group.size);
  const int64_t nodes = (group.size + per_node - 1) / per_node;
  return {static_cast<double>(nodes), static_cast<double>(per_node)};
}

double latency_of(const Machine& m, const Spread& spread) {
  double inside = spread.per_node > 1.0 ? m.inside.latency + m.inside.hop * (spread.per_node - 2.0) : 0.0;
  return spread.nodes > 1.0 ? inside + m.between.latency + m.between.hop * (std::log2(spread.nodes) - 1.0) : inside;
}

// All adapters of a node work for a group that has a rank at each of them.
double bandwidth_of(const Machine& m, const Spread& spread) {
  if (spread.nodes == 1.0) return m.inside.bandwidth;
  double between = spread.per_node * m.between.bandwidth;
  return spread.per_node == 1.0 ? between : std::min(m.inside.bandwidth, between);
}

class Predictor {
 public:
  Predictor(const PlanInput& input, const Machine& machine, int64_t ranks_per_node)
      : in_(input),
        m_(machine),
        c_(input.model),
        size_(device_sizes(input.device)),
        node_(ranks_per_node),
        sequence_{input.sequence_size(), input.tensor_size()},
        tensor_{input.tensor_size(), 1},
        world_{input.ranks(), 1},
        partition_(input.L, input.sequence_size()) {
    for (int r = 0; r < input.sequence_size(); ++r) L_lc_ = std::max(L_lc_, partition_.local_size(r));
    matrix_ = static_cast<double>(
        size_of(size_.matrices.value_or(weight_dtype(input.config.model.dtype).value_or(DType::f32))));
    const ShardPlan shard = shard_of(0);
    Hq_lc_ = shard.resident.heads.Hq_lc();
    kv_lc_ = shard.resident.heads.Hkv_lc() * c_.d;
  }

  // Bytes of all layers, each read or written once (scoring: kvcache/README.md).
  MemoryWork work() const {
    const auto a = static_cast<double>(size_.activation), positions = layers() * static_cast<double>(L_lc_);
    const auto heads = static_cast<double>(Hq_lc_);
    // Two norms read the residual stream and write activations; the rotation reads and writes q and k; the activation
    // reads two columns of the MLP and writes one.
    const double mlp = static_cast<double>(c_.intermediate) / static_cast<double>(tensor_.size);
    const double elementwise = 2.0 * static_cast<double>(c_.hidden) * (kF32 + a) + 3.0 * mlp * a +
                               2.0 * a * (heads * static_cast<double>(c_.d) + static_cast<double>(kv_lc_));
    if (!in_.evicts()) return {positions * elementwise, 0.0};
    const PolicyExchanges use = exchanges();
    const auto kv = static_cast<double>(kv_lc_ * size_.kv);
    double scoring = kF32 * 2.0 * heads;  // scores, pooled scores
    if (use.softmax) scoring += kv + 3.0 * heads * static_cast<double>(in_.config.cache.window) * kF32;
    scoring += 2.0 * kv * static_cast<double>(use.output_rows);
    return {positions * elementwise, positions * scoring};
  }

  Prediction run() {
    compute();
    exchange();
    evict();
    reshard();
    decode();
    return p_;
  }

 private:
  ShardPlan shard_of(int rank) const {
    int tensor = in_.tensor_size();
    return make_shard_plan(c_, in_.sequence_size(), tensor, rank / tensor, rank % tensor, in_.decode);
  }
  PolicyExchanges exchanges() const {
    const CacheConfig& cache = in_.config.cache;
    return find_policy(cache.policy).make(cache)->exchanges(cache);
  }
  double layers() const { return static_cast<double>(c_.layers); }
  double share() const { return static_cast<double>(L_lc_) / static_cast<double>(in_.L * tensor_.size); }
  double read() const { return m_.copy_bytes * m_.read; }
  double sum(RankGroup g, double bytes) const { return all_reduce_seconds(m_, g, node_, bytes); }
  // A decode step's sum: over peer memory where decode_groups.h takes it (one node, up to 8 ranks and 8 MB pushed).
  double step_sum(RankGroup g, double bytes) const {
    const double pushed = bytes * static_cast<double>(g.size - 1);
    const bool peers = !m_.inside.pushed_sum.empty() && g.size <= 8 && spread_of(g, node_).nodes == 1.0;
    if (g.size > 1 && peers && pushed <= 8e6) return value_at(m_.inside.pushed_sum, pushed);
    return sum(g, bytes);
  }
  double gather(RankGroup g, double received) const { return all_gather_seconds(m_, g, node_, received); }

  void compute() {
    const PrefillCost cost = prefill_cost(c_, in_.L);
    const double weights = cost.linear / 2.0 / static_cast<double>(in_.L * tensor_.size) * matrix_;
    p_.linear = std::max(cost.linear * share() / (m_.gemm_flops * m_.linear), weights / read());
    p_.attention = cost.attention * share() / (m_.gemm_flops * value_at(m_.attention, static_cast<double>(in_.L)));
    p_.elementwise = work().elementwise / (m_.copy_bytes * m_.elementwise);
    const double floor = layers() * m_.layer_floor, all = p_.linear + p_.attention + p_.elementwise;
    if (all < floor) p_.elementwise += floor - all;
    p_.head = static_cast<double>(c_.hidden * c_.vocab) * matrix_ / static_cast<double>(tensor_.size) / read();
  }

  void exchange() {
    double layer = 0.0;
    if (sequence_.size > 1) {
      const double received = 2.0 * static_cast<double>((in_.L - L_lc_) * kv_lc_ * size_.kv);
      const double queries = 2.0 * static_cast<double>(L_lc_ * c_.hidden * Hq_lc_ * c_.d) / (m_.gemm_flops * m_.linear);
      const double whole = gather(sequence_, received);
      layer = m_.overlap ? std::max(whole - queries, latency_of(m_, spread_of(sequence_, node_))) : whole;
    }
    // Of the output projection and of the MLP, slice by slice; on GPUs beside the next slice's work, so the last ones
    // show.
    const int64_t chunk = in_.config.prefill.chunk,
                  slice = chunk > 0 ? std::min(chunk, size_.slice_rows) : size_.slice_rows;
    for (int64_t first = 0; tensor_.size > 1 && first < L_lc_; first += slice) {
      const int64_t rows = std::min(slice, L_lc_ - first);
      if (m_.overlap && first + rows < L_lc_) continue;
      layer += 2.0 * sum(tensor_, static_cast<double>(rows * c_.hidden * size_.sum));
    }
    p_.exchange = layers() * layer;
  }

  void evict() {
    if (!in_.evicts()) {
      // Every row is copied to the cache.
      p_.scoring = layers() * 4.0 * static_cast<double>(L_lc_ * kv_lc_ * size_.kv) / m_.copy_bytes;
      return;
    }
    p_.scoring = layers() * m_.evict_start + work().scoring / (m_.copy_bytes * m_.evict);
    if (in_.ranks() == 1) return;
    const CacheConfig& cache = in_.config.cache;
    const PolicyExchanges use = exchanges();
    const ExchangeBytes sent =
        eviction_exchange_bytes(cache, shard_of(0).resident.heads, partition_, 0, in_.tensor_size(), {in_.device});
    // A selection is one gather of lists on GPUs, four sums of histograms on CPUs; those have one sum of the top sets
    // more.
    const bool gpu = in_.device == Device::gpu;
    const double selection = gpu ? 1.0 : 4.0, top_sets = gpu ? 1.0 : 5.0;
    const double calls = (use.softmax ? 1.0 : 0.0) + (use.output_rows > 0 ? 1.0 : 0.0) +
                         (use.top_sets ? top_sets : 0.0) + (use.past_scores ? 1.0 : 0.0) + selection +
                         (in_.window_queries ? 1.0 : 0.0);
    double layer = 0.0;
    if (sequence_.size > 1) {
      const Spread spread = spread_of(sequence_, node_);
      layer += calls * latency_of(m_, spread) + static_cast<double>(sent.sequence) / bandwidth_of(m_, spread);
    }
    if (sent.tensor > 0) layer += gather(tensor_, static_cast<double>(sent.tensor));
    p_.evict_exchange = layers() * layer;
  }

  void reshard() {
    const int64_t sent = reshard_sent_bytes(in_);
    if (sent == 0) return;
    const Spread spread = spread_of(sequence_, node_);
    p_.reshard = layers() * (2.0 * latency_of(m_, spread) +
                             static_cast<double>(sent) / static_cast<double>(in_.ranks()) / bandwidth_of(m_, spread));
  }

  /// Bytes of the matrices that a rank reads for one step.
  double step_weights(const Shard& s) const {
    const int64_t q = s.heads.Hq_lc() * c_.d, kv = s.heads.Hkv_lc() * c_.d;
    const int64_t layer = c_.hidden * (2 * q + 2 * kv + 3 * s.mlp.size());
    return static_cast<double>(c_.layers * layer + c_.hidden * s.vocab.size()) * matrix_;
  }

  /// Bytes of the K and V rows that a rank reads for one step, in the middle of the decoding.
  double step_rows(const Shard& s) const {
    const bool by_tensor = in_.decode == DecodeMode::tensor;
    const bool per_query = in_.config.cache.granularity == Granularity::query_head;
    double kept = 0.0;
    for (int64_t layer = 0; layer < c_.layers; ++layer) kept += static_cast<double>(in_.kept_in(layer));
    kept += layers() * static_cast<double>(in_.new_tokens) / 2.0;
    if (!by_tensor) kept /= static_cast<double>(sequence_.size);
    const int64_t heads = per_query ? s.heads.Hq_lc() : s.heads.Hkv_lc();
    return static_cast<double>(in_.batch * heads * 2 * c_.d * size_.kv) * kept;
  }

  void decode() {
    const auto batch = static_cast<double>(in_.batch);
    double weights = 0.0, rows = 0.0;
    for (int r = 0; r < in_.ranks(); ++r) {
      const Shard s = shard_of(r).decode;
      weights = std::max(weights, step_weights(s));
      rows = std::max(rows, step_rows(s));
    }
    p_.products = weights / read() * value_at(m_.batch, batch) + (4.0 * layers() + 1.0) * m_.product_start;
    p_.rows = layers() * m_.attention_start + rows / read();
    p_.step_start = m_.step_start;
    const bool by_tensor = in_.decode == DecodeMode::tensor;
    const RankGroup group = by_tensor ? world_ : tensor_;
    const double row = batch * static_cast<double>(c_.hidden) * kF32;
    double t = step_sum(tensor_, row) + 2.0 * layers() * step_sum(group, row);
    t += gather(group, batch * static_cast<double>(c_.vocab) * kF32 * static_cast<double>(group.size - 1) /
                           static_cast<double>(group.size));
    if (!by_tensor)
      t += layers() * gather(sequence_, batch * static_cast<double>(Hq_lc_ * (c_.d + 1)) * kF32 *
                                            static_cast<double>(sequence_.size - 1));
    p_.decode_exchange = t;
  }

  const PlanInput& in_;
  const Machine m_;
  const ModelConfig& c_;
  const DeviceSizes size_;
  const int64_t node_;
  const RankGroup sequence_, tensor_, world_;
  const SequencePartition partition_;
  double matrix_ = 4.0;  // bytes of a matrix's element
  int64_t L_lc_ = 0;     // of the rank that has most
  int64_t Hq_lc_ = 0, kv_lc_ = 0;
  Prediction p_;
};

}  // namespace

double all_reduce_seconds(const Machine& m, RankGroup group, int64_t ranks_per_node, double bytes) {
  if (group.size <= 1) return 0.0;
  const Spread spread = spread_of(group, ranks_per_node);
  const auto n = static_cast<double>(group.size);
  const double latency = latency_of(m, spread), moved = 2.0 * (n - 1.0) / n;
  if (spread.nodes == 1.0 && !m.inside.all_reduce.empty()) {
    // Two ranks move the bytes once; beyond the table's end they take what its last rate says.
    const Curve& curve = m.inside.all_reduce;
    const auto [most, seconds] = curve.back();
    double two = bytes <= most ? value_at(curve, bytes) : seconds + (bytes - most) / m.inside.bandwidth;
    return latency + moved * std::max(0.0, two - m.inside.latency);
  }
  return latency + moved * bytes / bandwidth_of(m, spread);
}

double all_gather_seconds(const Machine& m, RankGroup group, int64_t ranks_per_node, double received) {
  if (group.size <= 1) return 0.0;
  const Spread spread = spread_of(group, ranks_per_node);
  return latency_of(m, spread) + received / bandwidth_of(m, spread);
}

MemoryWork memory_work(const PlanInput& input) { return Predictor(input, Machine{}, 1).work(); }

Prediction predict(const PlanInput& input, const Machine& machine, int64_t ranks_per_node) {
  return Predictor(input, machine, ranks_per_node).run();
}

}  // namespace restkv
