// Every tolerance of the tests, by what is compared and in which arithmetic.
#pragma once

namespace restkv::testing {

/// Logits against a float32 reference, relative to the largest magnitude in the row.
inline constexpr double kLogitsF32 = 1e-4;
/// The same with bf16 weights and activations: mean over all golden checkpoints; mean over the rows of one model; any
/// single row. Hugging Face's own bf16 forward is up to 2.8e-2 on average of a model's rows, and 7.4e-2 in a row, away
/// from its f32 one on tests/data/models (tests/data/measure_bf16.py).
inline constexpr double kLogitsBf16All = 2e-2;
inline constexpr double kLogitsBf16 = 2.5e-2;
inline constexpr double kLogitsBf16Row = 6e-2;
/// Eviction scores against the published code, relative to the largest score.
inline constexpr double kScoresF32 = 1e-4;
/// The same where single rows give one position all but 1e-5 of the attention: in float32 the rest 1 - a is then known
/// to a percent or so.
inline constexpr double kScoresNearOneF32 = 5e-2;
/// The same with bf16 keys and values.
inline constexpr double kScoresBf16 = 1e-3;
/// Window logits, attention weights and outputs of a GPU against the CPU, relative to the largest of their row.
inline constexpr double kStatisticsGpu = 1e-5;
// Column sums on tensor cores, each relative to itself: a weight's relative error is the logit's absolute one.
inline constexpr double kColumnSumsGpu = 5e-5;
/// Eviction scores of a GPU against the CPU's or the published code, in float32 and from the same bf16 values: sums run
/// in another order there.
inline constexpr double kScoresGpuF32 = 1e-3;
inline constexpr double kScoresGpuBf16 = 3e-3;
/// One op in float32 against double precision, relative to the largest magnitude of the result.
inline constexpr double kOpF32 = 2e-6;
/// One op with bf16 operands against f32, norm of the difference over norm of the result.
inline constexpr double kOpBf16 = 5e-3;
/// Long dot products of the same bf16 values in f32, in another order or on tensor cores: norm of the difference over
/// norm of the result.
inline constexpr double kDotF32 = 2e-5;
/// Log-sum-exp of attention scores from bf16 queries and keys, in f32, absolute.
inline constexpr double kLogSumExp = 5e-5;
/// Perplexity against an independent implementation, relative.
inline constexpr double kPerplexity = 1e-2;
/// Kept sets under tensor parallelism, where sums are rounded in another order: least Jaccard index.
inline constexpr double kJaccardTensor = 0.99;
/// Kept sets with bf16 activations against f32 on a trained model: least Jaccard index.
inline constexpr double kJaccardBf16 = 0.99;
/// The same when no more than a third is kept.
inline constexpr double kJaccardBf16Third = 0.98;
/// The same with random weights, whose scores lie closer together.
inline constexpr double kJaccardBf16Random = 0.9;
/// The same after dozens of evictions while decoding, each from what the one before it left.
inline constexpr double kJaccardBf16Repeated = 0.8;

}  // namespace restkv::testing
