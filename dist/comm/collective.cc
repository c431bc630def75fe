#include "dist/comm/collective.h"

#include <cstring>

#include "dist/base/error.h"

namespace restkv::collective {
namespace {

template <class T>
void fold_typed(T* into, const T* from, int64_t count, ReduceOp op) {
  switch (op) {
    case ReduceOp::sum:
      for (int64_t i = 0; i < count; ++i) into[i] = into[i] + from[i];
      return;
    // x != x holds for NaN alone: it wins over every number, so the order of the ranks cannot hide it.
    case ReduceOp::max:
      for (int64_t i = 0; i < count; ++i) into[i] = (from[i] > into[i] || from[i] != from[i]) ? from[i] : into[i];
      return;
    case ReduceOp::min:
      for (int64_t i = 0; i < count; ++i) into[i] = (from[i] < into[i] || from[i] != from[i]) ? from[i] : into[i];
      return;
  }
}

// Each step is rounded to bf16, as a library that reduces in this type does.
void fold_bf16(bf16* into, const bf16* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) into[i] = to_bf16(to_float(into[i]) + to_float(from[i]));
}

template <class T>
void fold_as(void* into, const void* from, int64_t count, ReduceOp op) {
  fold_typed(static_cast<T*>(into), static_cast<const T*>(from), count, op);
}

}  // namespace

std::string_view name_of(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum: return "sum";
    case ReduceOp::max: return "max";
    case ReduceOp::min: return "min";
  }
  return "?";
}

void check_all_reduce(int64_t count, DType dtype, ReduceOp op) {
  RESTKV_CHECK(count >= 0, "all_reduce of {} elements", count);
  const bool summed = dtype == DType::bf16 && op == ReduceOp::sum;
  if ((dtype == DType::bf16 && !summed) || dtype == DType::f16 || dtype == DType::u8)
    fail_runtime(
        "all_reduce ({}) of {}: this type is moved but not reduced so; reduce f32, f64, i32, i64, u32 or u64, or sum "
        "bf16",
        name_of(op), restkv::name_of(dtype));
}

void check_all_gather_v(int size, std::span<const int64_t> counts, std::span<const int64_t> displacements) {
  RESTKV_CHECK(counts.size() == static_cast<size_t>(size) && displacements.size() == counts.size(),
               "all_gather_v over {} ranks got {} counts and {} displacements", size, counts.size(),
               displacements.size());
  for (int r = 0; r < size; ++r)
    RESTKV_CHECK(counts[r] >= 0 && displacements[r] >= 0, "all_gather_v: rank {} has {} elements at {}", r, counts[r],
                 displacements[r]);
}

void check_broadcast(int size, int64_t count, int root) {
  RESTKV_CHECK(count >= 0 && 0 <= root && root < size, "broadcast of {} elements from rank {} of {}", count, root,
               size);
}

void check_send_recv(int rank, int size, int64_t send_count, int destination, int64_t recv_count, int source) {
  RESTKV_CHECK(
      send_count >= 0 && recv_count >= 0 && -1 <= destination && destination < size && -1 <= source && source < size,
      "send_recv of {} elements to rank {} and {} from rank {} of {}", send_count, destination, recv_count, source,
      size);
  RESTKV_CHECK((destination == rank) == (source == rank), "send_recv with itself has to be both, not to {} from {}",
               destination, source);
  RESTKV_CHECK(destination != rank || send_count == recv_count, "send_recv with itself of {} and {} elements",
               send_count, recv_count);
}

void fold(void* into, const void* from, int64_t count, DType dtype, ReduceOp op) {
  switch (dtype) {
    case DType::f32: return fold_as<float>(into, from, count, op);
    case DType::bf16:
      RESTKV_CHECK(op == ReduceOp::sum, "{} of bf16", name_of(op));
      return fold_bf16(static_cast<bf16*>(into), static_cast<const bf16*>(from), count);
    case DType::f64: return fold_as<double>(into, from, count, op);
    case DType::i32: return fold_as<int32_t>(into, from, count, op);
    case DType::i64: return fold_as<int64_t>(into, from, count, op);
    case DType::u32: return fold_as<uint32_t>(into, from, count, op);
    case DType::u64: return fold_as<uint64_t>(into, from, count, op);
    default: fail_runtime("no reduction of {}", restkv::name_of(dtype));
  }
}

void copy_bytes(void* to, const void* from, int64_t bytes) {
  if (bytes > 0 && to != from) std::memmove(to, from, static_cast<size_t>(bytes));
}

}  // namespace restkv::collective
