// The field-weighted machine: pooled vectors of fields, and a weight for each two of them.
//
//   score = 1/2 sum_f <p_f, S_f>,  S_f = sum_g r_fg p_g,  p_f the sum of x_i v_i over field f;
//   d score / d v_i = x_i S_f(i),  d score / d r_fg = <p_f, p_g>.
// The weights are kept as a whole symmetric matrix, both halves of which step alike.
#include "drivers.hpp"

namespace crossfm::CROSSFM_LEVEL {
namespace {

constexpr int kFieldBlock = 16;  // weights of a field stepped as one vector

template <int B, bool GENERAL>
struct FieldWeighted {
  static constexpr Storage kStorage = Storage::float32;
  static constexpr bool kGeneral = GENERAL, kKeeps = true, kEarly = false, kRowwise = false;
  int k, n_fields;

  bool pools() const { return false; }
  int64_t sums() const { return int64_t{n_fields} * k; }    // S
  int64_t pooled() const { return int64_t{n_fields} * k; }  // p
  int64_t extra() const { return int64_t{k} * fields_apart(n_fields); }

  // S of `count` fields from f on, and the sum of <p_f, S_f>.
  template <int COUNT>
  CROSSFM_INLINE float weigh(const float* weights, const float* p, int f, float* S) const {
    using V = Vec<B>;
    const int apart = fields_apart(n_fields);
    float total = 0;
    for (int b = 0; b < k; b += B) {
      V s[COUNT];
      for (int i = 0; i < COUNT; ++i) s[i] = V::all(0);
      for (int g = 0; g < n_fields; ++g) {
        const V v = V::load(p + int64_t{g} * k + b);
        for (int i = 0; i < COUNT; ++i) s[i] = s[i] + V::all(weights[int64_t{f + i} * apart + g]) * v;
      }
      V products = V::all(0);
      for (int i = 0; i < COUNT; ++i) {
        products = products + s[i] * V::load(p + int64_t{f + i} * k + b);
        s[i].store(S + int64_t{f + i} * k + b);
      }
      total += products.sum();
    }
    return total;
  }

  template <bool FETCH>
  CROSSFM_INLINE float crossed(const Row& row, const Row& coming, int64_t shift, const float* weights, float* S,
                               float* p) const {
    using V = Vec<B>;
    for (int64_t e = GENERAL ? 0 : row.m * k; e < int64_t{n_fields} * k; ++e) p[e] = 0;
    for (int64_t t = 0; t < row.m; ++t) {
      float* pool = p + int64_t{row.field[t]} * k;
      for (int b = 0; b < k; b += B) {
        if constexpr (FETCH) fetch<B>(coming, t, shift + b);
        const V v = V::load(row.p[t] + shift + b);
        if constexpr (GENERAL) (V::load(pool + b) + V::all(row.x[t]) * v).store(pool + b);
        else v.store(pool + b);
      }
    }
    float total = 0;
    int f = 0;
    for (; f + 4 <= n_fields; f += 4) total += weigh<4>(weights, p, f, S);
    for (; f < n_fields; ++f) total += weigh<1>(weights, p, f, S);
    return 0.5f * total;
  }

  template <Optimizer O>
  CROSSFM_INLINE void update(const Row& row, const Row& coming, int64_t shift, const float* S, const float*, float*,
                             float g, const Steps& steps) const {
    using V = Vec<B>;
    constexpr int N = Policy<O>::kStates;
    Rates rates = rates_of(steps, true, 0, 1);
    for (int64_t t = 0; t < row.m; ++t) {
      if (GENERAL && steps.varied) rates = rates_of(steps, true, row, t);
      const V gx = V::all(GENERAL ? g * row.x[t] : g), decay = V::all(Policy<O>::decay(rates));
      for (int b = 0; b < k; b += B) {
        for (int i = 0; i <= N; ++i) fetch<B>(coming, t, shift + b + int64_t{i} * k);
        float* v_at = row.p[t] + shift + b;
        V v = V::load(v_at), state[N + 1];
        for (int i = 0; i < N; ++i) state[i] = V::load(v_at + int64_t{i + 1} * k);
        Policy<O>::template step<B>(v, state, gx * V::load(S + int64_t{row.field[t]} * k + b) + decay * v, rates);
        v.store(v_at);
        for (int i = 0; i < N; ++i) state[i].store(v_at + int64_t{i + 1} * k);
      }
    }
  }

  template <Optimizer O>
  CROSSFM_INLINE void update_weights(float* weights, const float*, const float* p, float* turned, float g,
                                     const Steps& steps, int first, int step) const {
    using V = Vec<kFieldBlock>;
    constexpr int N = Policy<O>::kStates;
    const int apart = fields_apart(n_fields);
    const int64_t size = int64_t{n_fields} * apart;
    const Rates rates{steps.learning_rate, steps.beta, 0, 0, steps.beta2, steps.epsilon};
    for (int f = 0; f < n_fields; ++f) {
      for (int e = 0; e < k; ++e) turned[int64_t{e} * apart + f] = p[int64_t{f} * k + e];
    }
    for (int f = first; f < n_fields; f += step) {
      for (int b = 0; b < apart; b += kFieldBlock) {
        V products = V::all(0);
        for (int e = 0; e < k; ++e) {
          products = products + V::all(p[int64_t{f} * k + e]) * V::load(turned + int64_t{e} * apart + b);
        }
        if (f >= b && f < b + kFieldBlock) {  // a field does not meet itself
          float each[kFieldBlock];
          products.store(each);
          each[f - b] = 0;
          products = V::load(each);
        }
        float* r_at = weights + int64_t{f} * apart + b;
        V r = V::load(r_at), state[N + 1];
        for (int i = 0; i < N; ++i) state[i] = V::load(r_at + (i + 1) * size);
        Policy<O>::template step<kFieldBlock>(r, state, V::all(g) * products, rates);
        r.store(r_at);
        for (int i = 0; i < N; ++i) state[i].store(r_at + (i + 1) * size);
      }
    }
  }
};

// Calls run with the interaction for these rows.
template <class Shape, class Run>
void with_interaction(const Batch& batch, const Shape& shape, bool special, Run run) {
  const bool general = special || batch.values || batch.fields || batch.field_of;
  const auto with = [&]<int B>() {
    if (general) run(FieldWeighted<B, true>{shape.k, shape.n_fields});
    else run(FieldWeighted<B, false>{shape.k, shape.n_fields});
  };
  if (shape.k % 16 == 0) with.template operator()<16>();
  else if (shape.k % 8 == 0) with.template operator()<8>();
  else with.template operator()<4>();
}

double train_any(const Pass& pass, int64_t count, bool frozen, int threads) {
  double loss = 0;
  with_interaction(pass.batch, pass.table, frozen || pass.table.scales || pass.steps.pulls,
                   [&](const auto& cross) { loss = train_with(pass, cross, count, frozen, threads); });
  return loss;
}

void score(const Batch& batch, int64_t count, const Scores& model, float* out, int threads) {
  with_interaction(batch, model, false,
                   [&](const auto& cross) { score_as(batch, count, model, cross, out, threads); });
}

}  // namespace

const Kernels& field_weighted_kernels() {
  static constexpr Kernels table = kernels_of<train_any, score>();
  return table;
}

}  // namespace crossfm::CROSSFM_LEVEL
