// The update of one row: policies (optimizer x interaction), applied in one pass over the
// parameters that the score has just read.
#pragma once

#include "score.hpp"

namespace crossfm::CROSSFM_LEVEL {

struct Rates {
  float learning_rate, beta, l1, l2;
};

template <Optimizer O>
struct Policy;

// Plain steps: v -= lr (g + l2 v).
template <>
struct Policy<Optimizer::sgd> {
  static constexpr int kStates = 0;
  template <int B>
  static CROSSFM_INLINE void step(Vec<B>& v, Vec<B>*, Vec<B> g, const Rates& r) {
    v = v - Vec<B>::all(r.learning_rate) * (g + Vec<B>::all(r.l2) * v);
  }
};

// Duchi et al. 2011: a += g^2, v -= lr g / sqrt(a).
template <>
struct Policy<Optimizer::adagrad> {
  static constexpr int kStates = 1;
  template <int B>
  static CROSSFM_INLINE void step(Vec<B>& v, Vec<B>* s, Vec<B> g, const Rates& r) {
    g = g + Vec<B>::all(r.l2) * v;
    s[0] = s[0] + g * g;
    Vec<B> root, refinement;
    rsqrt_parts(s[0], root, refinement);
    v = v - Vec<B>::all(0.5f * r.learning_rate) * g * root * refinement;
  }
};

// McMahan et al. 2013: z += g - (sqrt(n + g^2) - sqrt(n)) / lr v, n += g^2, and
// v = -shrink(z, l1) / ((beta + sqrt(n)) / lr + l2).
template <>
struct Policy<Optimizer::ftrl> {
  static constexpr int kStates = 2;
  template <int B>
  static CROSSFM_INLINE Vec<B> root(const Vec<B>& n) {
    return n * rsqrt(n + Vec<B>::all(1e-30f));
  }
  template <int B>
  static CROSSFM_INLINE Vec<B> solve(const Vec<B>& z, const Vec<B>& root_n, const Rates& r) {
    const float inverse = 1.0f / r.learning_rate;
    const auto denominator = Vec<B>::all(inverse) * (Vec<B>::all(r.beta) + root_n) + Vec<B>::all(r.l2);
    return Vec<B>::all(0) - shrink(z, r.l1) / denominator;
  }
  template <int B>
  static CROSSFM_INLINE void step(Vec<B>& v, Vec<B>* s, Vec<B> g, const Rates& r) {
    const Vec<B> before = root(s[1]);
    s[1] = s[1] + g * g;
    const Vec<B> after = root(s[1]);
    s[0] = s[0] + g - Vec<B>::all(1.0f / r.learning_rate) * (after - before) * v;
    v = solve(s[0], after, r);
  }
};

CROSSFM_INLINE Rates rates_of(const Steps& s, bool factors, int32_t field) {
  const float* l2 = factors ? s.l2_factors : s.l2_linear;
  return {s.learning_rate, s.beta, factors ? s.l1_factors : s.l1_linear, l2[s.per_field ? field : 0]};
}

// d score / d v_i = x_i (S - p), p the pooled vector of the feature's field (x_i v_i where the
// field is the feature alone).
template <int B, bool GENERAL, Optimizer O>
CROSSFM_INLINE void update_factors(const Row& row, int64_t shift, int k, const float* S, const float* pooled,
                           float g, const Steps& steps) {
  using V = Vec<B>;
  constexpr int N = Policy<O>::kStates;
  Rates rates = rates_of(steps, true, 0);
  for (int b = 0; b < k; b += B) {
    const V s = V::load(S + b), vg = V::all(g);
    for (int64_t t = 0; t < row.m; ++t) {
      float* p = row.p[t] + shift + b;
      V v = V::load(p), state[N + 1], gradient;
      for (int i = 0; i < N; ++i) state[i] = V::load(p + int64_t{i + 1} * k);
      if constexpr (GENERAL) {
        if (steps.per_field) rates = rates_of(steps, true, row.field[t]);
        gradient = V::all(g * row.x[t]) * (s - V::load(pooled + int64_t{row.run[t]} * k + b));
      } else {
        gradient = vg * (s - v);
      }
      Policy<O>::template step<B>(v, state, gradient, rates);
      v.store(p);
      for (int i = 0; i < N; ++i) state[i].store(p + int64_t{i + 1} * k);
    }
  }
}

// The linear weights of a row, gathered in w [m] by the score, updated as one vector, scattered.
// buffer: 3 x width floats.
template <bool GENERAL, Optimizer O>
CROSSFM_INLINE void update_linear(const Row& row, int64_t shift, int64_t width, float* w, float* buffer,
                          float g, const Steps& steps, bool repeats) {
  constexpr int N = Policy<O>::kStates;
  if (repeats || (GENERAL && steps.per_field)) {  // one by one: a later one sees the earlier
    for (int64_t t = 0; t < row.m; ++t) {
      float* p = row.w[t] + shift;
      Vec<4> v = Vec<4>::all(p[0]), state[N + 1], gradient = Vec<4>::all(g);
      for (int i = 0; i < N; ++i) state[i] = Vec<4>::all(p[i + 1]);
      if constexpr (GENERAL) gradient = gradient * Vec<4>::all(row.x[t]);
      Policy<O>::template step<4>(v, state, gradient, rates_of(steps, false, GENERAL ? row.field[t] : 0));
      p[0] = v.c[0][0];
      for (int i = 0; i < N; ++i) p[i + 1] = state[i].c[0][0];
    }
    return;
  }
  using V = Vec<kWidth>;
  const Rates rates = rates_of(steps, false, 0);
  for (int i = 0; i < N; ++i) {
    for (int64_t t = 0; t < row.m; ++t) buffer[i * width + t] = row.w[t][shift + 1 + i];
    for (int64_t t = row.m; t % kWidth; ++t) buffer[i * width + t] = 1.0f;
  }
  for (int64_t t = 0; t < row.m; t += kWidth) {
    V v = V::load(w + t), state[N + 1], gradient = V::all(g);
    for (int i = 0; i < N; ++i) state[i] = V::load(buffer + i * width + t);
    if constexpr (GENERAL) gradient = gradient * V::load(row.x + t);
    Policy<O>::template step<kWidth>(v, state, gradient, rates);
    v.store(w + t);
    for (int i = 0; i < N; ++i) state[i].store(buffer + i * width + t);
  }
  for (int64_t t = 0; t < row.m; ++t) {
    row.w[t][shift] = w[t];
    for (int i = 0; i < N; ++i) row.w[t][shift + 1 + i] = buffer[i * width + t];
  }
}

template <Optimizer O>
CROSSFM_INLINE void update_bias(float* bias, float g, const Steps& steps) {
  constexpr int N = Policy<O>::kStates;
  Vec<4> v = Vec<4>::all(bias[0]), state[N + 1];
  for (int i = 0; i < N; ++i) state[i] = Vec<4>::all(bias[i + 1]);
  Policy<O>::template step<4>(v, state, Vec<4>::all(g), Rates{steps.learning_rate, steps.beta, 0, 0});
  bias[0] = v.c[0][0];
  for (int i = 0; i < N; ++i) bias[i + 1] = state[i].c[0][0];
}

}  // namespace crossfm::CROSSFM_LEVEL
