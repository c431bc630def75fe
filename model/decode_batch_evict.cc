// Eviction while decoding in a batch on a GPU: what a step leaves for the rules, and what happens behind it.
#include "model/decode_batch_buffers.h"
#include "model/decode_batch_device.h"

namespace restkv {

DeviceEvictBatch DeviceDecodeBatch::eviction_batch() const {
  DeviceEvictBatch batch = evictor_->device_batch(b_->batch());
  batch.layer = static_cast<const DeviceKvLayer*>(b_->caches.raw());
  batch.record = static_cast<const DeviceEvictRecord*>(b_->evictions.raw());
  batch.position = b_->positions.data<int32_t>();
  batch.scale = model_.config().attention_scale();
  if (groups_.merges()) batch.owner = b_->owners.data<int32_t>();
  if (evictor_->gathers_queries()) {
    batch.q = b_->gathered.q.raw();
    batch.lse = b_->gathered.lse.data<float>();
    return batch;
  }
  if (b_->lse.empty()) return batch;
  batch.q = b_->q.raw();
  batch.lse = b_->lse.data<float>();
  return batch;
}

void DeviceDecodeBatch::upload_evictions() {
  if (evictor_ == nullptr) return;
  std::vector<DeviceEvictRecord> records;
  for (const Member& m : members_) records.push_back(m.sequence->eviction.record());
  ctx_.gpu()->to_device(b_->evictions.raw(), records.data(),
                        static_cast<int64_t>(records.size() * sizeof(DeviceEvictRecord)));
}

// Part of every step.
void DeviceDecodeBatch::enqueue_watch() {
  if (evictor_ == nullptr) return;
  start_phase("evict");
  if (evictor_->gathers_queries())
    evictor_->gather_step_queries(b_->gathered, b_->q.raw(), b_->lse.data<float>(), b_->batch(), size());
  evictor_->watch_step(eviction_batch(), size());
}

// Behind a step, when the host's account of lengths has it.
void DeviceDecodeBatch::evict_due() {
  if (evictor_ == nullptr) return;
  if (clock_ != nullptr) clock_->start("evict");
  std::vector<DecodedMember> members;
  for (const Member& m : members_) {
    Sequence& s = *m.sequence;
    members.push_back({&s.eviction, &s.cache, s.length - 1, s.length - s.prompt_tokens});
  }
  std::vector<const float*> factors;
  for (const LayerWeights& w : model_.weights().layers)
    factors.push_back(w.output_factors.empty() ? nullptr : w.output_factors.data<float>());
  evictor_->after_step(eviction_batch(), members, factors);
}

}  // namespace restkv
