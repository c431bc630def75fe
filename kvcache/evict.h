// The eviction decision of one layer, taken by all sequence ranks together. kvcache/README.md tells the steps E1-E6.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "dist/base/context.h"
#include "dist/base/gemm.h"
#include "dist/base/phase_clock.h"
#include "dist/comm/communicator.h"
#include "dist/comm/partition.h"
#include "kvcache/attention_form.h"
#include "kvcache/config.h"
#include "kvcache/heads.h"
#include "kvcache/kept_rows.h"

namespace restkv {

/// All queries of the prompt, for policies that read them.
struct PromptQueries {
  MatrixView q;  ///< [L_lc, Hq_lc * d] rotated queries of the local positions
  MatrixView k;  ///< [L, Hkv_lc * d] rotated keys of all positions, in global order
  /// [Hq_lc, L_lc] natural logarithm of the sum of exp of the scaled causal scores of each query.
  const float* lse = nullptr;
  /// i64 [Hq_lc, L] the sums that these make over all ranks (column_sums.h), where they were made before: then nothing
  /// else here is read. Else null.
  const int64_t* sums = nullptr;
};

/// One layer's input on this rank. Everything lives on the context's device; q_window, k and v are dense and of one
/// dtype: f32 on CPU ranks, bf16 or f32 on GPUs.
struct LayerKv {
  int64_t layer = 0;  ///< index in the model
  const SequencePartition* partition = nullptr;
  MatrixView q_window;  ///< [W, Hq_lc * d] rotated queries of the last W positions, all of them, on every rank
  MatrixView k;         ///< [L_lc, Hkv_lc * d] rotated keys of the local positions
  MatrixView v;         ///< [L_lc, Hkv_lc * d]
  /// [Hq_lc, d, d] upper triangular R_h with R_h^T R_h = W_O,h W_O,h^T (output_factors.h); null unless use_wo.
  const float* r = nullptr;
  /// Of the model; read where layers differ in what they keep.
  int64_t layers = 0;
  PromptQueries prompt = {};  ///< read where Evictor::needs_prompt_queries(); plain attention alone
  AttentionForm form = {};
};

/// For tests and diagnosis: what the decision was made on. Filling it waits for the device.
struct EvictTrace {
  /// [rows, L_lc] f32 the scores that the selection ran on, one row per cache head (per KV head, or one for all, with
  /// policies that decide for those); elements at window positions are undefined.
  std::vector<float> scores;
  /// Rows of all selections whose cut fell into a tie (each costs a little more exchange, see exchange_bytes.h).
  int64_t tied_rows = 0;
};

class Evictor {
 public:
  /// `sequence`: the ranks that share this rank's heads. `tensor`: the ranks that share its tokens; used only when a
  /// KV head's query heads lie on several tensor ranks, or the policy takes a mean over all heads of the layer. All
  /// references outlive the object.
  /// Throws InputError when the configuration is not valid.
  Evictor(Context& ctx, Communicator& sequence, Communicator& tensor, const HeadLayout& heads,
          const CacheConfig& config);
  ~Evictor();

  /// Whether a prompt of L tokens is evicted at all: the policy evicts, and L exceeds the budget.
  bool evicts(int64_t L) const;
  /// Whether the policy reads LayerKv::q_window / LayerKv::r.
  bool needs_window_queries() const;
  /// Whether it reads LayerKv::prompt.
  bool needs_prompt_queries() const;
  bool needs_output_factors() const;

  /// Collective over `sequence` (and `tensor`, see above). Preconditions: the policy evicts, L is at least the budget.
  /// On a GPU the decision is taken in stream order, and nothing waits for it (but a trace). Throws InputError when the
  /// budget does not fit this prompt (budget below window + 1).
  /// `clock`, when given, is in its phase "scoring" and passes to "select".
  KeptRows evict(const LayerKv& layer, EvictTrace* trace = nullptr, PhaseClock* clock = nullptr);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace restkv
