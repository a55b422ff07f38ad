// The higher-order machine: sets of two, three and more features cross.
//
//   score = sum over orders s and numbers e of order s of E_s[e],
//   E_s the sum over all sets of s features of the product of their p = x v: A_s of Blondel et al.
//   2016, by E_s += p E_{s-1} for s = order .. 1, one feature (or pooled field) after the other.
//   d E_s / d p_j is E_{s-1} without j: e_s = E_s - p_j e_{s-1}, e_0 = 1.
// Each order has numbers of its own in a feature's row of factors; `picks` says which. All orders
// are computed for all numbers, so that one loop serves any length of them.
#include "drivers.hpp"

namespace crossfm::CROSSFM_LEVEL {
namespace {

template <int B>
struct HigherOrder {
  static constexpr Storage kStorage = Storage::float32;
  static constexpr bool kGeneral = true, kKeeps = true, kEarly = false, kRowwise = false;
  int k, order;
  int64_t longest;
  bool across_fields;
  const float* picks;  // [order - 1][k], 1 where a number is of order 2, 3, ..., else 0

  bool pools() const { return across_fields; }
  int64_t sums() const { return int64_t{order - 1} * k; }  // E_1 .. E_{order - 1}
  int64_t pooled() const { return longest * k; }
  int64_t extra() const { return 0; }

  template <bool FETCH>
  CROSSFM_INLINE float crossed(const Row& row, const Row& coming, int64_t shift, const float*, float* S,
                               float* pooled) const {
    using V = Vec<B>;
    float total = 0;
    for (int b = 0; b < k; b += B) {
      V E[kMostOrder + 1];
      E[0] = V::all(1);
      for (int s = 1; s <= order; ++s) E[s] = V::all(0);
      for (int64_t t = 0; t < row.m;) {
        const int32_t run = row.run[t];
        V p = V::all(0);
        for (; t < row.m && row.run[t] == run; ++t) {
          if constexpr (FETCH) fetch<B>(coming, t, shift + b);
          p = p + V::all(row.x[t]) * V::load(row.p[t] + shift + b);
        }
        for (int s = order; s > 0; --s) E[s] = E[s] + p * E[s - 1];
        p.store(pooled + int64_t{run} * k + b);
      }
      V terms = V::all(0);
      for (int s = 2; s <= order; ++s) terms = terms + V::load(picks + int64_t{s - 2} * k + b) * E[s];
      for (int s = 1; s < order; ++s) E[s].store(S + int64_t{s - 1} * k + b);
      total += terms.sum();
    }
    return total;
  }

  template <Optimizer O>
  CROSSFM_INLINE void update(const Row& row, const Row& coming, int64_t shift, const float* S, const float* pooled,
                             float*, float g, const Steps& steps) const {
    using V = Vec<B>;
    constexpr int N = Policy<O>::kStates;
    Rates rates = rates_of(steps, true, 0, 1);
    for (int64_t t = 0; t < row.m; ++t) {
      if (steps.varied) rates = rates_of(steps, true, row, t);
      const V gx = V::all(g * row.x[t]), decay = V::all(Policy<O>::decay(rates));
      for (int b = 0; b < k; b += B) {
        for (int i = 0; i <= N; ++i) fetch<B>(coming, t, shift + b + int64_t{i} * k);
        const V p = V::load(pooled + int64_t{row.run[t]} * k + b);
        V without = V::all(1), slope = V::all(0);
        for (int s = 1; s < order; ++s) {
          without = V::load(S + int64_t{s - 1} * k + b) - p * without;
          slope = slope + V::load(picks + int64_t{s - 1} * k + b) * without;
        }
        float* v_at = row.p[t] + shift + b;
        V v = V::load(v_at), state[N + 1];
        for (int i = 0; i < N; ++i) state[i] = V::load(v_at + int64_t{i + 1} * k);
        Policy<O>::template step<B>(v, state, gx * slope + decay * v, rates);
        v.store(v_at);
        for (int i = 0; i < N; ++i) state[i].store(v_at + int64_t{i + 1} * k);
      }
    }
  }

  template <Optimizer O>
  void update_weights(float*, const float*, const float*, float*, float, const Steps&, int, int) const {}
};

// Calls run with the interaction for a table or model of this shape: its `length` numbers an order.
template <class Shape, class Run>
void with_interaction(const Batch& batch, const Shape& shape, bool across_fields, Run run) {
  Buffer<float> picks(int64_t{shape.order - 1} * shape.k);
  if (!picks.raw) throw std::bad_alloc();
  for (int s = 0; s < shape.order - 1; ++s) {
    for (int e = 0; e < shape.length; ++e) picks.data[int64_t{s} * shape.k + s * shape.length + e] = 1;
  }
  const auto with = [&]<int B>() {
    run(HigherOrder<B>{shape.k, shape.order, batch.longest_row, across_fields, picks.data});
  };
  if (shape.k % 16 == 0) with.template operator()<16>();
  else if (shape.k % 8 == 0) with.template operator()<8>();
  else with.template operator()<4>();
}

double train_any(const Pass& pass, int64_t count, bool frozen, int threads) {
  double loss = 0;
  with_interaction(pass.batch, pass.table, pass.steps.across_fields,
                   [&](const auto& cross) { loss = train_with(pass, cross, count, frozen, threads); });
  return loss;
}

void score(const Batch& batch, int64_t count, const Scores& model, float* out, int threads) {
  with_interaction(batch, model, model.across_fields,
                   [&](const auto& cross) { score_as(batch, count, model, cross, out, threads); });
}

}  // namespace

const Kernels& higher_order_kernels() {
  static constexpr Kernels table = kernels_of<train_any, score>();
  return table;
}

}  // namespace crossfm::CROSSFM_LEVEL
