// H2O (NeurIPS 2023): the attention that a position has got from all prompt queries so far, each of which sees what is
// before it. The most recent half of the budget is kept whole: that is the window here.
#include "kvcache/policies/policy.h"

namespace restkv {
namespace {

class H2o : public Policy {
 public:
  PolicyScores score(LayerStatistics& layer) const override { return {layer.column_scores(), {}, {}}; }

  PolicyExchanges exchanges(const CacheConfig&) const override {
    PolicyExchanges use;
    use.column_sums = true;
    return use;
  }

  bool reads_prompt_queries() const override { return true; }
};

}  // namespace

std::unique_ptr<Policy> make_h2o(const CacheConfig&) { return std::make_unique<H2o>(); }

}  // namespace restkv
