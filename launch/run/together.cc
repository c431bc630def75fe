#include "launch/run/together.h"

#include <algorithm>
#include <array>
#include <exception>
#include <new>

namespace restkv {

void run_together(Communicator& world, const std::function<void()>& body) {
  std::string text;
  int code = 0;
  try {
    body();
  } catch (const Error& e) {
    text = e.what();
    code = std::max(1, e.exit_code());
  } catch (const std::bad_alloc&) {
    text = "out of memory";
    code = 1;
  } catch (const std::exception& e) {
    text = e.what();
    code = 1;
  }
  // (lowest failing rank, its code) as one minimum.
  int64_t none = int64_t{1} << 40;
  int64_t first = code == 0 ? none : int64_t{world.rank()} * 256 + code;
  world.all_reduce(&first, 1, DType::i64, ReduceOp::min);
  if (first == none) return;
  throw AgreedFailure(text, static_cast<int>(first % 256), first / 256 == world.rank());
}

std::string agree_on_text(Communicator& world, const std::string& text) {
  int64_t first = text.empty() ? world.size() : world.rank();
  world.all_reduce(&first, 1, DType::i64, ReduceOp::min);
  if (first == world.size()) return "";
  auto length = static_cast<int64_t>(text.size());
  world.broadcast(&length, 1, DType::i64, static_cast<int>(first));
  std::string agreed = text;
  agreed.resize(static_cast<size_t>(length));
  world.broadcast(agreed.data(), length, DType::u8, static_cast<int>(first));
  return agreed;
}

void require_equal(Communicator& world, uint64_t value, const std::string& text_when_not) {
  std::array<uint64_t, 2> ends = {value, ~value};
  world.all_reduce(std::span<uint64_t>(ends), ReduceOp::max);
  bool equal = ends[0] == ~ends[1];
  run_together(world, [&] {
    if (!equal) throw InputError(text_when_not);
  });
}

}  // namespace restkv
