#include "dist/base/phase_clock.h"

#include <algorithm>
#include <cstring>

#include "dist/base/activity.h"

namespace restkv {

void add_phases(std::vector<PhaseTime>& total, const std::vector<PhaseTime>& part) {
  for (const PhaseTime& p : part) {
    auto same = std::find_if(total.begin(), total.end(), [&](const PhaseTime& t) { return t.name == p.name; });
    if (same == total.end()) same = total.insert(total.end(), {p.name, 0.0, 0});
    same->seconds += p.seconds;
    same->bytes += p.bytes;
  }
}

PhaseClock::~PhaseClock() {
  if (running_ && ctx_.gpu() != nullptr) ctx_.gpu()->pop_range();
}

PhaseTime& PhaseClock::phase(const char* name) {
  for (PhaseTime& p : phases_)
    if (p.name == name) return p;
  phases_.push_back({name, 0.0, 0});
  return phases_.back();
}

void PhaseClock::start(const char* name) {
  activity().step = name;
  if (running_ && std::strcmp(name, current_) == 0) return;
  if (GpuRuntime* gpu = ctx_.gpu()) {
    std::shared_ptr<void> now = gpu->mark();
    if (running_) {
      spans_.back().to = now;
      gpu->pop_range();
    }
    gpu->push_range(name);
    spans_.push_back({name, now, nullptr});
    phase(name);
  } else {
    if (running_) phase(current_).seconds += watch_.seconds();
    watch_ = Stopwatch();
    phase(name);
  }
  current_ = name;
  running_ = true;
}

void PhaseClock::stop() {
  activity().step = nullptr;
  if (!running_) return;
  if (GpuRuntime* gpu = ctx_.gpu()) {
    spans_.back().to = gpu->mark();
    gpu->pop_range();
  } else {
    phase(current_).seconds += watch_.seconds();
  }
  running_ = false;
}

void PhaseClock::add_bytes(const char* name, int64_t bytes) { phase(name).bytes += bytes; }

std::vector<PhaseTime> PhaseClock::finish() {
  stop();
  for (const Span& span : spans_)
    phase(span.name).seconds += ctx_.gpu()->seconds_between(span.from.get(), span.to.get());
  spans_.clear();
  return phases_;
}

}  // namespace restkv
