// The heads of one layer that this rank computes.
#pragma once

#include <cstdint>

#include "dist/comm/partition.h"

namespace restkv {

struct HeadLayout {
  int64_t Hq = 0;   ///< query heads of the model
  int64_t Hkv = 0;  ///< KV heads of the model
  int64_t d = 0;    ///< head size
  HeadRange local;  ///< this tensor rank's heads (global indices)

  int64_t group() const { return Hq / Hkv; }
  int64_t Hq_lc() const { return local.q.size(); }
  int64_t Hkv_lc() const { return local.kv.size(); }
  /// Local KV head of local query head h.
  int64_t kv_of(int64_t h) const { return (local.q.begin + h) / group() - local.kv.begin; }
  /// Whether split_heads() cuts some KV head's query heads over several of `tensor_size` tensor ranks: the same answer
  /// on all of them.
  bool groups_are_split(int tensor_size) const {
    for (int part = 0; part < tensor_size; ++part) {
      const HeadRange share = split_heads(Hq, Hkv, tensor_size, part);
      if (share.q.size() != share.kv.size() * group()) return true;
    }
    return false;
  }
  /// Local query heads that read local KV head g; a part of the group when the group lies on several tensor ranks.
  Range query_heads_of(int64_t g) const {
    int64_t first = (local.kv.begin + g) * group();
    Range q = intersect({first, first + group()}, local.q);
    return {q.begin - local.q.begin, q.end - local.q.begin};
  }
};

}  // namespace restkv
