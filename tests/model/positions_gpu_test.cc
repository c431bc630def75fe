// Positions in the cache on as many GPUs as mpirun started ranks, on every layout of them, in both decode modes:
// against CPU ranks and one GPU, graphs against single launches. Skips where there are fewer GPUs.
#include "model/decode_batch_device.h"
#include "model/weights/random_source.h"
#include "tests/model/decode_ranks.h"
#include "tests/model/gpu_ranks_test.h"
#include "tests/model/run_model.h"
#include "tests/tolerances.h"

namespace restkv::testing {
namespace {

constexpr int64_t kPrompt = 300, kSteps = 40;

CacheConfig cache_of(const std::string& policy, Positions positions) {
  CacheConfig cache;
  cache.policy = policy;
  cache.budget.tokens = 100;
  cache.window = 16;
  cache.positions = positions;
  return cache;
}

struct Steps {
  std::vector<std::vector<float>> logits;  // after each forced token
  uint64_t kept_hash = 0;
};

class PositionsGpu : public GpuRanksTest {
 protected:
  static std::unique_ptr<Transformer> make(Context& on, const ProcessGrid& grid, const CacheConfig& cache,
                                           DecodeMode mode) {
    const ModelConfig config = ranks_config(8, 4, 64);
    return std::make_unique<Transformer>(on, grid, config, RandomSource(config, 17, 1.5), cache,
                                         TransformerOptions{.decode = mode});
  }
  static Steps steps_of(Transformer& model) {
    PrefillOptions options;
    options.max_new_tokens = 8;  // storage grows and moves
    Sequence sequence = model.prefill(ranks_prompt(kPrompt), options);
    Steps steps;
    steps.kept_hash = sequence.report.kept_hash;
    for (int32_t token : ranks_prompt(kSteps, 7)) {
      model.decode_step(sequence, token);
      steps.logits.push_back(sequence.logits);
    }
    return steps;
  }
  static void compare(const Steps& got, const Steps& want, const char* name) {
    double sum = 0.0, worst = 0.0;
    for (size_t i = 0; i < want.logits.size(); ++i) {
      const double row = logits_difference(got.logits[i], want.logits[i]);
      EXPECT_LT(row, kLogitsBf16Row) << name << ", step " << i;
      sum += row;
      worst = std::max(worst, row);
    }
    const double mean = sum / static_cast<double>(want.logits.size());
    if (mpi_runtime().rank() == 0) printf("  %s: %.4f on average, %.4f at most\n", name, mean, worst);
    EXPECT_LT(mean, kLogitsBf16) << name;
  }
};

// Of policies by position the kept sets are the same on every device.
TEST_F(PositionsGpu, LogitsOfCpuRanksAndOfOneGpu) {
  ProcessGrid alone(make_self_communicator(), 1, 1);
  Context cpu({Device::cpu, 2});
  for (const char* policy : {"streaming_llm", "lacache", "full"})
    for (Granularity granularity : {Granularity::kv_head, Granularity::query_head}) {
      CacheConfig cache = cache_of(policy, Positions::cache);
      cache.granularity = granularity;
      const Steps on_cpu = steps_of(*make(cpu, alone, cache, DecodeMode::tensor)),
                  on_gpu = steps_of(*make(*ctx, alone, cache, DecodeMode::tensor));
      SCOPED_TRACE(policy);
      EXPECT_EQ(on_gpu.kept_hash, on_cpu.kept_hash);
      compare(on_gpu, on_cpu, fmt::format("{}, one GPU and the CPU", policy).c_str());
      for (auto& [layout, grid] : grids)
        for (DecodeMode mode : {DecodeMode::tensor, DecodeMode::sequence}) {
          SCOPED_TRACE(fmt::format("layout {}x{}, mode {}", layout.first, layout.second, static_cast<int>(mode)));
          const Steps got = steps_of(*make(*ctx, *grid, cache, mode));
          EXPECT_EQ(got.kept_hash, on_cpu.kept_hash);
          compare(got, on_gpu,
                  fmt::format("{}, {}x{}, {}", policy, layout.first, layout.second,
                              mode == DecodeMode::tensor ? "tensor" : "sequence")
                      .c_str());
        }
    }
}

// Without eviction slots are positions.
TEST_F(PositionsGpu, TheFullCacheHasOriginalPositions) {
  for (auto& [layout, grid] : grids)
    for (DecodeMode mode : {DecodeMode::tensor, DecodeMode::sequence}) {
      const Steps in_cache = steps_of(*make(*ctx, *grid, cache_of("full", Positions::cache), mode)),
                  original = steps_of(*make(*ctx, *grid, cache_of("full", Positions::original), mode));
      compare(in_cache, original, fmt::format("{}x{}", layout.first, layout.second).c_str());
    }
}

// Members of several lengths, some of which leave; restkv's heads have equally many rows, not the same ones.
TEST_F(PositionsGpu, GraphsEqualSingleLaunches) {
  for (auto& [layout, grid] : grids)
    for (DecodeMode mode : {DecodeMode::tensor, DecodeMode::sequence})
      for (const char* policy : {"streaming_llm", "restkv"}) {
        SCOPED_TRACE(fmt::format("{}, {}x{}, mode {}", policy, layout.first, layout.second, static_cast<int>(mode)));
        auto model = make(*ctx, *grid, cache_of(policy, Positions::cache), mode);
        std::vector<Sequence> a, b;
        for (int64_t i = 0; i < 3; ++i) {
          PrefillOptions options;
          options.max_new_tokens = 4;
          a.push_back(model->prefill(ranks_prompt(80 + 150 * i, 3), options));
          b.push_back(a.back().clone());
        }
        std::vector<DecodeBatch::Member> in_a, in_b;
        for (uint64_t i = 0; i < 3; ++i) {
          in_a.push_back({&a[i], {}, i});
          in_b.push_back({&b[i], {}, i});
        }
        DeviceDecodeBatch eager(*model, in_a), graph(*model, in_b);
        for (int step = 0; step < 30; ++step) {
          std::vector<int32_t> want(eager.tokens().begin(), eager.tokens().end()),
              got(graph.tokens().begin(), graph.tokens().end());
          ASSERT_EQ(got, want) << "step " << step;
          if (step == 20) {
            eager.leave(1);
            graph.leave(1);
            want.erase(want.begin() + 1);
          }
          eager.step_eagerly(want);
          graph.step(want);
          for (int64_t i = 0; i < eager.size(); ++i)
            ASSERT_EQ(graph.logits(i), eager.logits(i)) << "step " << step << ", member " << i;
        }
      }
}

// Several questions go on from copies of one evicted context: fed together with forced tokens, each comes to the answer
// that it comes to alone; and what is drawn first is drawn as after a whole prompt.
TEST_F(PositionsGpu, QuestionsFromCopiesOfOneContext) {
  constexpr int kAnswer = 10;
  const SamplingConfig sampling{1.2, 0, 1.0, 11};
  const std::vector<std::vector<int32_t>> questions = {ranks_prompt(5, 1), ranks_prompt(1, 2), ranks_prompt(12, 3)};
  for (auto& [layout, grid] : grids)
    for (DecodeMode mode : {DecodeMode::tensor, DecodeMode::sequence})
      for (const char* policy : {"restkv", "streaming_llm"}) {
        SCOPED_TRACE(fmt::format("{}, {}x{}, mode {}", policy, layout.first, layout.second, static_cast<int>(mode)));
        auto model = make(*ctx, *grid, cache_of(policy, Positions::automatic), mode);
        PrefillOptions options;
        options.max_new_tokens = 10;  // the longest question and its answer need more
        const Sequence context = model->prefill(ranks_prompt(kPrompt), options);
        std::vector<Sequence> copies;
        for (size_t i = 0; i < questions.size(); ++i) copies.push_back(context.clone());
        auto answers = [&](const std::vector<size_t>& members, std::vector<Sequence>& sequences) {
          std::vector<DecodeBatch::Member> in;
          std::vector<std::vector<int32_t>> answer(members.size());
          for (size_t m = 0; m < members.size(); ++m)
            in.push_back({&sequences[m], sampling, members[m], static_cast<int64_t>(questions[members[m]].size())});
          DeviceDecodeBatch batch(*model, in);
          for (size_t step = 0; step < 12 + kAnswer; ++step) {
            std::vector<int32_t> tokens;
            for (size_t m = 0; m < members.size(); ++m) {
              const std::vector<int32_t>& question = questions[members[m]];
              if (step < question.size()) {
                tokens.push_back(question[step]);
                continue;
              }
              const int32_t drawn = batch.tokens()[m];
              if (step == question.size()) {
                EXPECT_EQ(drawn, sample(batch.logits(static_cast<int64_t>(m)), sampling, members[m], 0))
                    << "the first draw of question " << members[m];
              }
              tokens.push_back(drawn);
              if (answer[m].size() < kAnswer) answer[m].push_back(drawn);
            }
            batch.step(tokens);
          }
          return answer;
        };
        const std::vector<std::vector<int32_t>> together = answers({0, 1, 2}, copies);
        for (size_t i = 0; i < questions.size(); ++i) {
          std::vector<Sequence> alone;
          alone.push_back(context.clone());
          EXPECT_EQ(answers({i}, alone)[0], together[i]) << "question " << i;
        }
        EXPECT_EQ(context.length, kPrompt);
      }
}

}  // namespace
}  // namespace restkv::testing
