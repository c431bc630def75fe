// Causal attention through cuDNN's backend API: the operation graph of scaled dot-product attention, which cuDNN fuses
// into one Hopper kernel. The only file that knows cuDNN.
#include <cuda_bf16.h>
#include <cudnn.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "dist/base/gpu_handles.h"
#include "model/ops/attention_prefill.h"

namespace restkv {
namespace {

[[noreturn]] void cudnn_failed(const char* call, const char* file, int line, cudnnStatus_t status) {
  char words[512] = "";
  cudnnGetLastErrorString(words, sizeof(words));
  fail_runtime("{}:{}: {}: {} {}", file, line, call, cudnnGetErrorString(status), words);
}

#define RESTKV_CUDNN_CHECK(call)                                                      \
  do {                                                                                \
    if (cudnnStatus_t status_ = (call); status_ != CUDNN_STATUS_SUCCESS) [[unlikely]] \
      cudnn_failed(#call, __FILE__, __LINE__, status_);                               \
  } while (0)

// An owned backend descriptor.
class Descriptor {
 public:
  explicit Descriptor(cudnnBackendDescriptorType_t type) {
    RESTKV_CUDNN_CHECK(cudnnBackendCreateDescriptor(type, &descriptor_));
  }
  ~Descriptor() {
    if (descriptor_ != nullptr) cudnnBackendDestroyDescriptor(descriptor_);
  }
  Descriptor(Descriptor&& other) noexcept : descriptor_(other.descriptor_) { other.descriptor_ = nullptr; }
  Descriptor& operator=(Descriptor&&) = delete;

  template <class T>
  Descriptor& set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, const std::vector<T>& values) {
    RESTKV_CUDNN_CHECK(cudnnBackendSetAttribute(descriptor_, name, type, static_cast<int64_t>(values.size()),
                                                const_cast<T*>(values.data())));
    return *this;
  }
  template <class T>
  Descriptor& set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, T value) {
    RESTKV_CUDNN_CHECK(cudnnBackendSetAttribute(descriptor_, name, type, 1, &value));
    return *this;
  }
  Descriptor& set(cudnnBackendAttributeName_t name, const Descriptor& other) {
    return set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, other.descriptor_);
  }
  Descriptor& finalize() {
    RESTKV_CUDNN_CHECK(cudnnBackendFinalize(descriptor_));
    return *this;
  }
  cudnnBackendDescriptor_t get() const { return descriptor_; }

 private:
  cudnnBackendDescriptor_t descriptor_ = nullptr;
};

// The tensors that the caller provides, by their ids in the graph.
enum Uid : int64_t {
  kQ = 1,
  kK,
  kV,
  kO,
  kStats,
  kScale,
  kMinusInfinity,
  kShift,
  kLeft,
  kCap,
  kPerCap,
  kFirstVirtual = 100
};

struct Shape4 {
  int64_t dims[4];
  int64_t strides[4];
};

// Collects tensors and operations in the order in which cuDNN's pattern matching expects them.
class GraphBuilder {
 public:
  Descriptor tensor(int64_t uid, cudnnDataType_t type, const Shape4& shape, bool by_value = false) {
    return make(uid, type, shape, false, by_value);
  }
  Descriptor intermediate(cudnnDataType_t type, const Shape4& shape) { return make(next_++, type, shape, true, false); }

  void matmul(const Descriptor& a, const Descriptor& b, const Descriptor& c) {
    Descriptor multiply(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    multiply.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT).finalize();
    Descriptor op(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    op.set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, a)
        .set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, b)
        .set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, c)
        .set(CUDNN_ATTR_OPERATION_MATMUL_DESC, multiply)
        .finalize();
    keep(std::move(multiply), std::move(op));
  }

  // y = mode(x, b) or mode(x); with t: y = t ? x : b.
  void pointwise(cudnnPointwiseMode_t mode, const Descriptor& x, const Descriptor* b, const Descriptor& y,
                 const Descriptor* t = nullptr, cudnnDataType_t precision = CUDNN_DATA_FLOAT) {
    Descriptor kind(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    kind.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, mode)
        .set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, precision)
        .finalize();
    Descriptor op(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    op.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, kind).set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    if (b != nullptr) op.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, *b);
    if (t != nullptr) op.set(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, *t);
    op.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y).finalize();
    keep(std::move(kind), std::move(op));
  }

  void index(int64_t axis, const Descriptor& x, const Descriptor& y) {
    Descriptor kind(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    kind.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, CUDNN_POINTWISE_GEN_INDEX)
        .set(CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, axis)
        .set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_INT32)
        .finalize();
    Descriptor op(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    op.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, kind)
        .set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x)
        .set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y)
        .finalize();
    keep(std::move(kind), std::move(op));
  }

  void reduce(cudnnReduceTensorOp_t how, const Descriptor& x, const Descriptor& y) {
    Descriptor kind(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    kind.set(CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, how)
        .set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT)
        .finalize();
    Descriptor op(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    op.set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x)
        .set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y)
        .set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, kind)
        .finalize();
    keep(std::move(kind), std::move(op));
  }

  Descriptor graph(cudnnHandle_t handle) {
    std::vector<cudnnBackendDescriptor_t> ops;
    for (const Descriptor& op : operations_) ops.push_back(op.get());
    Descriptor graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, handle)
        .set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, ops)
        .finalize();
    return graph;
  }

 private:
  Descriptor make(int64_t uid, cudnnDataType_t type, const Shape4& shape, bool is_virtual, bool by_value) {
    Descriptor t(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    t.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, uid)
        .set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, type)
        .set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, int64_t{16})
        .set(CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, std::vector<int64_t>(shape.dims, shape.dims + 4))
        .set(CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, std::vector<int64_t>(shape.strides, shape.strides + 4))
        .set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, is_virtual)
        .set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, by_value)
        .finalize();
    return t;
  }
  void keep(Descriptor kind, Descriptor op) {
    kinds_.push_back(std::move(kind));
    operations_.push_back(std::move(op));
  }

  int64_t next_ = kFirstVirtual;
  std::vector<Descriptor> kinds_, operations_;
};

struct AttentionShape {
  int64_t Hq, Hkv, d, n, keys, q_stride, o_stride, kv_stride, stats_stride;
  bool masked;  // causal; else every row sees all keys
  bool window;  // masked: keys too far before a row are hidden as well
  bool capped;  // scores are soft-capped

  std::string key() const {
    return fmt::format("sdpa {} {} {} {} {} {} {} {} {} {}{}{}", Hq, Hkv, d, n, keys, q_stride, o_stride, kv_stride,
                       stats_stride, masked ? "causal" : "full", window ? " window" : "", capped ? " capped" : "");
  }
};

Shape4 packed(int64_t a, int64_t b, int64_t c, int64_t d) { return {{a, b, c, d}, {b * c * d, c * d, d, 1}}; }

// The operations between the scores and their softmax, in the order in which cuDNN knows them.
class ScoreOperations {
 public:
  ScoreOperations(GraphBuilder& g, const Shape4& scores, std::vector<Descriptor>& keep)
      : g_(g), scores_(scores), keep_(keep) {}

  // cap tanh(scores / cap)
  size_t cap(size_t scores) {
    size_t cap = by_value(kCap, CUDNN_DATA_FLOAT), per_cap = by_value(kPerCap, CUDNN_DATA_FLOAT);
    size_t divided = fresh(CUDNN_DATA_FLOAT), bent = fresh(CUDNN_DATA_FLOAT), capped = fresh(CUDNN_DATA_FLOAT);
    g_.pointwise(CUDNN_POINTWISE_MUL, at(scores), &at(per_cap), at(divided));
    g_.pointwise(CUDNN_POINTWISE_TANH_FWD, at(divided), nullptr, at(bent));
    g_.pointwise(CUDNN_POINTWISE_MUL, at(bent), &at(cap), at(capped));
    return capped;
  }

  // Visible: row + shift >= column, and with `window` column + left > row (left = window - shift).
  size_t mask(size_t scores, bool window) {
    size_t minus_infinity = by_value(kMinusInfinity, CUDNN_DATA_FLOAT), shift = by_value(kShift, CUDNN_DATA_INT32);
    size_t row = fresh(CUDNN_DATA_INT32), shifted = fresh(CUDNN_DATA_INT32), column = fresh(CUDNN_DATA_INT32);
    g_.index(2, at(scores), at(row));
    g_.pointwise(CUDNN_POINTWISE_ADD, at(row), &at(shift), at(shifted), nullptr, CUDNN_DATA_INT32);
    g_.index(3, at(scores), at(column));
    size_t masked = hide_unless(CUDNN_POINTWISE_CMP_GE, shifted, column, scores, minus_infinity);
    if (!window) return masked;
    // The bound is a float, as in cuDNN's own front end: exact below 2^24, and keys of a call are fewer.
    size_t left = by_value(kLeft, CUDNN_DATA_FLOAT);
    size_t own_row = fresh(CUDNN_DATA_INT32), own_column = fresh(CUDNN_DATA_INT32), bound = fresh(CUDNN_DATA_FLOAT);
    g_.index(2, at(masked), at(own_row));
    g_.index(3, at(masked), at(own_column));
    g_.pointwise(CUDNN_POINTWISE_ADD, at(own_column), &at(left), at(bound));
    return hide_unless(CUDNN_POINTWISE_CMP_GT, bound, own_row, masked, minus_infinity);
  }

 private:
  size_t hide_unless(cudnnPointwiseMode_t mode, size_t a, size_t b, size_t scores, size_t minus_infinity) {
    size_t visible = fresh(CUDNN_DATA_BOOLEAN), masked = fresh(CUDNN_DATA_FLOAT);
    g_.pointwise(mode, at(a), &at(b), at(visible), nullptr, CUDNN_DATA_BOOLEAN);
    g_.pointwise(CUDNN_POINTWISE_BINARY_SELECT, at(scores), &at(minus_infinity), at(masked), &at(visible));
    return masked;
  }
  size_t add(Descriptor t) {
    keep_.push_back(std::move(t));
    return keep_.size() - 1;
  }
  size_t by_value(int64_t uid, cudnnDataType_t type) { return add(g_.tensor(uid, type, packed(1, 1, 1, 1), true)); }
  size_t fresh(cudnnDataType_t type) { return add(g_.intermediate(type, scores_)); }
  const Descriptor& at(size_t i) const { return keep_[i]; }

  GraphBuilder& g_;
  Shape4 scores_;
  std::vector<Descriptor>& keep_;
};

// softmax(mask(cap(scale Q K^T))) V
void describe_attention(GraphBuilder& g, const AttentionShape& s, std::vector<Descriptor>& keep) {
  auto add = [&](Descriptor t) -> size_t {
    keep.push_back(std::move(t));
    return keep.size() - 1;
  };
  keep.reserve(48);
  Shape4 scores = packed(1, s.Hq, s.n, s.keys), rows = packed(1, s.Hq, s.n, 1), one = packed(1, 1, 1, 1);
  size_t q = add(g.tensor(kQ, CUDNN_DATA_BFLOAT16, {{1, s.Hq, s.n, s.d}, {s.n * s.q_stride, s.d, s.q_stride, 1}}));
  size_t k =
      add(g.tensor(kK, CUDNN_DATA_BFLOAT16, {{1, s.Hkv, s.d, s.keys}, {s.keys * s.kv_stride, s.d, 1, s.kv_stride}}));
  size_t v =
      add(g.tensor(kV, CUDNN_DATA_BFLOAT16, {{1, s.Hkv, s.keys, s.d}, {s.keys * s.kv_stride, s.d, s.kv_stride, 1}}));
  size_t o = add(g.tensor(kO, CUDNN_DATA_BFLOAT16, {{1, s.Hq, s.n, s.d}, {s.n * s.o_stride, s.d, s.o_stride, 1}}));
  size_t stats =
      add(g.tensor(kStats, CUDNN_DATA_FLOAT, {{1, s.Hq, s.n, 1}, {s.Hq * s.stats_stride, s.stats_stride, 1, 1}}));
  size_t scale = add(g.tensor(kScale, CUDNN_DATA_FLOAT, one, true));
  auto fresh = [&](cudnnDataType_t type, const Shape4& shape) { return add(g.intermediate(type, shape)); };
  auto at = [&](size_t i) -> const Descriptor& { return keep[i]; };

  size_t product = fresh(CUDNN_DATA_FLOAT, scores), scaled = fresh(CUDNN_DATA_FLOAT, scores);
  g.matmul(at(q), at(k), at(product));
  g.pointwise(CUDNN_POINTWISE_MUL, at(product), &at(scale), at(scaled));
  ScoreOperations operations(g, scores, keep);
  size_t masked = s.capped ? operations.cap(scaled) : scaled;
  if (s.masked) masked = operations.mask(masked, s.window);
  size_t highest = fresh(CUDNN_DATA_FLOAT, rows), centred = fresh(CUDNN_DATA_FLOAT, scores),
         exponential = fresh(CUDNN_DATA_FLOAT, scores), sum = fresh(CUDNN_DATA_FLOAT, rows),
         log_sum = fresh(CUDNN_DATA_FLOAT, rows), probability = fresh(CUDNN_DATA_BFLOAT16, scores);
  g.reduce(CUDNN_REDUCE_TENSOR_MAX, at(masked), at(highest));
  g.pointwise(CUDNN_POINTWISE_SUB, at(masked), &at(highest), at(centred));
  g.pointwise(CUDNN_POINTWISE_EXP, at(centred), nullptr, at(exponential));
  g.reduce(CUDNN_REDUCE_TENSOR_ADD, at(exponential), at(sum));
  // cuDNN recognises the pattern with the log-sum-exp as an output only.
  g.pointwise(CUDNN_POINTWISE_LOG, at(sum), nullptr, at(log_sum));
  g.pointwise(CUDNN_POINTWISE_ADD, at(log_sum), &at(highest), at(stats));
  g.pointwise(CUDNN_POINTWISE_DIV, at(exponential), &at(sum), at(probability));
  g.matmul(at(probability), at(v), at(o));
}

struct CudnnState {
  cudnnHandle_t handle = nullptr;
  ~CudnnState() {
    if (handle != nullptr) cudnnDestroy(handle);
  }
};

CudnnState& cudnn_of(const Context& ctx) {
  std::shared_ptr<void>& slot = plan_slot(ctx, "cudnn");
  if (!slot) {
    auto state = std::make_shared<CudnnState>();
    RESTKV_CUDNN_CHECK(cudnnCreate(&state->handle));
    RESTKV_CUDNN_CHECK(cudnnSetStream(state->handle, stream_of(ctx)));
    slot = state;
  }
  return *static_cast<CudnnState*>(slot.get());
}

struct AttentionPlan {
  std::unique_ptr<Descriptor> plan;
  Tensor workspace;
  Tensor stats;  // [Hq, n] log-sum-exp of the scaled scores, for calls that do not ask for it
};

// One plan per shape, built in well under a second and kept. (cuDNN 9.19's dynamic shapes with a kernel cache build
// faster still, but every later shape then ran as the first one: measured, wrong results without an error.)
std::shared_ptr<AttentionPlan> make_plan(Context& ctx, const AttentionShape& s) {
  cudnnHandle_t handle = cudnn_of(ctx).handle;
  GraphBuilder builder;
  std::vector<Descriptor> tensors;
  describe_attention(builder, s, tensors);
  Descriptor graph = builder.graph(handle);

  Descriptor heuristics(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph)
      .set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, CUDNN_HEUR_MODE_A)
      .finalize();
  Descriptor engine(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
  int64_t found = 0;
  cudnnBackendDescriptor_t result = engine.get();
  RESTKV_CUDNN_CHECK(cudnnBackendGetAttribute(heuristics.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                              CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &found, &result));
  if (found == 0) fail_runtime("cuDNN {} has no attention kernel for {}", cudnnGetVersion(), s.key());

  auto plan = std::make_shared<AttentionPlan>();
  plan->plan = std::make_unique<Descriptor>(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  plan->plan->set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, handle)
      .set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, engine)
      .finalize();
  int64_t workspace_bytes = 0, count = 0;
  RESTKV_CUDNN_CHECK(cudnnBackendGetAttribute(plan->plan->get(), CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                              CUDNN_TYPE_INT64, 1, &count, &workspace_bytes));
  plan->workspace = ctx.empty(DType::u8, {std::max<int64_t>(workspace_bytes, 1)});
  return plan;
}

// Rows of the next call. None of a few rows alone: cuDNN may choose another kernel for it, whose sums run in another
// order, and how many rows are left depends on the layout.
int64_t rows_of_call(int64_t left) {
  constexpr int64_t kFewest = 1024;
  return left < kAttentionRows + kFewest ? left : kAttentionRows;
}

// args.q.rows rows from args.first_position on, of `keys` keys in memory.
void attend_rows(Context& ctx, const PrefillAttention& args, const KvView& kv, const HeadLayout& heads, int64_t keys) {
  const bool masked = args.first_position < keys;
  AttentionShape shape{heads.Hq_lc(),
                       heads.Hkv_lc(),
                       heads.d,
                       args.q.rows,
                       keys,
                       args.q.ld,
                       args.out.ld,
                       kv.row_stride,
                       args.lse != nullptr ? args.lse_ld : args.q.rows,
                       masked,
                       args.sliding_window > 0,
                       args.softcap > 0.0};
  std::shared_ptr<void>& slot = plan_slot(ctx, shape.key());
  if (!slot) slot = make_plan(ctx, shape);
  auto* plan = static_cast<AttentionPlan*>(slot.get());
  if (args.lse == nullptr && plan->stats.empty()) plan->stats = ctx.empty(DType::f32, {shape.Hq, shape.n});

  float scale = static_cast<float>(args.scale), minus_infinity = -INFINITY;
  int32_t shift = static_cast<int32_t>(args.first_position);
  float left = static_cast<float>(args.sliding_window - args.first_position);
  float cap = static_cast<float>(args.softcap), per_cap = shape.capped ? static_cast<float>(1.0 / args.softcap) : 0.0f;
  std::vector<int64_t> uids = {kQ, kK, kV, kO, kStats, kScale};
  std::vector<void*> pointers = {args.q.data,
                                 const_cast<void*>(kv.k),
                                 const_cast<void*>(kv.v),
                                 args.out.data,
                                 args.lse != nullptr ? args.lse : plan->stats.raw(),
                                 &scale};
  if (masked) {
    uids.insert(uids.end(), {kMinusInfinity, kShift});
    pointers.insert(pointers.end(), {&minus_infinity, &shift});
  }
  if (shape.window) {
    uids.push_back(kLeft);
    pointers.push_back(&left);
  }
  if (shape.capped) {
    uids.insert(uids.end(), {kCap, kPerCap});
    pointers.insert(pointers.end(), {&cap, &per_cap});
  }
  Descriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, uids)
      .set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, pointers)
      .set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, plan->workspace.raw())
      .finalize();
  RESTKV_CUDNN_CHECK(cudnnBackendExecute(cudnn_of(ctx).handle, plan->plan->get(), pack.get()));
}

// A sliding window sees few of the keys: the call begins at the tile of the first row's first key, so that it takes as
// long as the window is. Tiles keep their edges.
void attend_window(Context& ctx, PrefillAttention args, KvView kv, const HeadLayout& heads) {
  constexpr int64_t kTile = 128;  // of keys, and more than cuDNN's
  const int64_t begin = std::max<int64_t>(0, args.first_position + 1 - args.sliding_window) / kTile * kTile;
  kv.k = static_cast<const __nv_bfloat16*>(kv.k) + begin * kv.row_stride;
  kv.v = static_cast<const __nv_bfloat16*>(kv.v) + begin * kv.row_stride;
  args.first_position -= begin;
  attend_rows(ctx, args, kv, heads, args.first_position + args.q.rows);
}

}  // namespace

namespace gpu {

void attention_prefill(Context& ctx, const PrefillAttention& args, const KvView& kv, const HeadLayout& heads) {
  RESTKV_CHECK(args.q.dtype == DType::bf16 && args.out.dtype == DType::bf16 && kv.dtype == DType::bf16,
               "attention_prefill on a GPU: queries {}, keys {}; bf16 needed", name_of(args.q.dtype),
               name_of(kv.dtype));
  if (args.q.rows == 0) return;
  // All calls are described with all keys that lie in memory (the mask hides what comes after a row, and the kernel
  // does not visit it), so that they share one plan.
  const int64_t keys = kv.lengths[0];
  for (int64_t first = 0; first < args.q.rows;) {
    const int64_t rows = rows_of_call(args.q.rows - first);
    PrefillAttention part = args;
    part.q = args.q.block(first, rows, 0, args.q.cols);
    part.out = args.out.block(first, rows, 0, args.out.cols);
    part.first_position = args.first_position + first;
    if (args.lse != nullptr) part.lse = args.lse + first;
    if (part.sliding_window > 0 && part.first_position + rows <= part.sliding_window) part.sliding_window = 0;
    if (part.sliding_window > 0)
      attend_window(ctx, part, kv, heads);
    else
      attend_rows(ctx, part, kv, heads, keys);
    first += rows;
  }
}

}  // namespace gpu
}  // namespace restkv
