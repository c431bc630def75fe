// What all communicators share: the argument checks, the bytes_sent formulas and the element-wise reduction.
// For implementations of Communicator; others need communicator.h only.
#pragma once

#include <cstdint>
#include <span>

#include "dist/comm/communicator.h"

namespace restkv::collective {

std::string_view name_of(ReduceOp op);

/// Throws RuntimeFailure for dtypes that have no reduction (f16, u8; bf16 has the sum alone) and for negative counts.
void check_all_reduce(int64_t count, DType dtype, ReduceOp op);
void check_all_gather_v(int size, std::span<const int64_t> counts, std::span<const int64_t> displacements);
void check_broadcast(int size, int64_t count, int root);
void check_send_recv(int rank, int size, int64_t send_count, int destination, int64_t recv_count, int source);

/// Bytes one rank of n sends; see dist/README.md.
inline int64_t sent_by_all_reduce(int n, int64_t bytes) { return 2 * (n - 1) * bytes / n; }
inline int64_t sent_by_all_gather(int n, int64_t own_bytes) { return own_bytes * (n - 1); }
inline int64_t sent_by_broadcast(int n, int64_t bytes, bool is_root) { return is_root ? bytes * (n - 1) : 0; }

/// into[i] = into[i] op from[i]. A NaN on either side gives NaN for every op.
void fold(void* into, const void* from, int64_t count, DType dtype, ReduceOp op);

/// Copies unless both are the same memory; null pointers are fine with no bytes.
void copy_bytes(void* to, const void* from, int64_t bytes);

}  // namespace restkv::collective
