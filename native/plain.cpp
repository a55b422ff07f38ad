// The plain factorization machine: features cross with one vector each.
#include "drivers.hpp"

namespace crossfm::CROSSFM_LEVEL {
namespace {

template <int B, bool GENERAL, Storage M = Storage::float32>
struct Plain {
  static constexpr Storage kStorage = M;
  static constexpr bool kGeneral = GENERAL, kKeeps = false, kEarly = false;
  static constexpr bool kRowwise = M == Storage::float32;
  int k;
  int64_t longest;
  bool across_fields;

  bool pools() const { return across_fields; }
  int64_t sums() const { return k; }
  int64_t pooled() const { return GENERAL ? longest * k : 0; }
  int64_t extra() const { return 0; }

  template <bool FETCH>
  CROSSFM_INLINE float crossed(const Row& row, const Row& coming, int64_t shift, const float*, float* S,
                               float* pooled) const {
    return crossfm::CROSSFM_LEVEL::crossed<B, GENERAL, FETCH, M>(row, coming, shift, k, S, GENERAL ? pooled : nullptr);
  }
  CROSSFM_INLINE void squares(const Row& row, int64_t shift, const float* S, const float* pooled, float*) const {
    squares_of_factors<B, GENERAL>(row, shift, k, S, pooled);
  }
  template <Optimizer O>
  CROSSFM_INLINE void update(const Row& row, const Row& coming, int64_t shift, const float* S, const float* pooled,
                             float*, float g, const Steps& steps) const {
    update_factors<B, GENERAL, O, M>(row, coming, shift, k, S, pooled, g, steps);
  }
  template <Optimizer O>
  void update_weights(float*, const float*, const float*, float*, float, const Steps&, int, int) const {}
};

// Blocks of at most 16 for storage that is seldom wanted with more: fewer kernels.
template <class Run>
void with_narrow_block(int k, Run run) {
  if (k % 16 == 0) run.template operator()<16>();
  else if (k % 8 == 0) run.template operator()<8>();
  else run.template operator()<4>();
}

double train_any(const Pass& pass, int64_t count, bool frozen, int threads) {
  const int k = pass.table.k;
  const int64_t longest = pass.batch.longest_row;
  const bool across = pass.steps.across_fields;
  const bool general = frozen || pass.batch.values || across || pass.steps.varied;
  double loss = 0;
  if (pass.table.storage == Storage::bfloat16) {
    with_narrow_block(k, [&]<int B>() {
      if (general) loss = train_with(pass, Plain<B, true, Storage::bfloat16>{k, longest, across}, count, frozen, threads);
      else loss = train_with(pass, Plain<B, false, Storage::bfloat16>{k, longest, across}, count, frozen, threads);
    });
    return loss;
  }
  with_block(k, [&]<int B>() {
    if (general) loss = train_with(pass, Plain<B, true>{k, longest, across}, count, frozen, threads);
    else loss = train_with(pass, Plain<B, false>{k, longest, across}, count, frozen, threads);
  });
  return loss;
}

void score(const Batch& batch, int64_t count, const Scores& model, float* out, int threads) {
  const auto with = [&]<int B, Storage M>() {
    if (batch.values || model.across_fields)
      score_as(batch, count, model, Plain<B, true, M>{model.k, batch.longest_row, model.across_fields}, out, threads);
    else
      score_as(batch, count, model, Plain<B, false, M>{model.k, batch.longest_row, model.across_fields}, out, threads);
  };
  with_block(model.k, [&]<int B>() {
    if (model.storage == Storage::float16) with.template operator()<B, Storage::float16>();
    else if (model.storage == Storage::int8) with.template operator()<B, Storage::int8>();
    else with.template operator()<B, Storage::float32>();
  });
}

}  // namespace

const Kernels& plain_kernels() {
  static constexpr Kernels table = kernels_of<train_any, score>();
  return table;
}

}  // namespace crossfm::CROSSFM_LEVEL
