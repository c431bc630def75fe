// TOVA (EMNLP 2024): the attention of the last prompt token, averaged over all query heads of the layer; one kept set
// for all of its heads.
#include "kvcache/policies/policy.h"

namespace restkv {
namespace {

class Tova : public Policy {
 public:
  PolicyScores score(LayerStatistics& layer) const override { return {layer.attention(RowReduction::last), {}, {}}; }

  PolicyExchanges exchanges(const CacheConfig&) const override { return {true, 0, false, false}; }
};

}  // namespace

std::unique_ptr<Policy> make_tova(const CacheConfig&) { return std::make_unique<Tova>(); }

}  // namespace restkv
