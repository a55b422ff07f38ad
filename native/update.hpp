// The update of one row: policies (optimizer x interaction), applied in one pass over the
// parameters that the score has just read.
#pragma once

#include <cmath>

#include "score.hpp"

namespace crossfm::CROSSFM_LEVEL {

struct Rates {
  float learning_rate, beta, l1, l2;
  float beta2 = 0, epsilon = 0;
  float scale = 1;  // in l2
  double* pull = nullptr;
};

// A policy is given the gradient with the penalty's part in it: decay(rates) v.
template <Optimizer O>
struct Policy;

// Plain steps: v -= lr g.
template <>
struct Policy<Optimizer::sgd> {
  static constexpr int kStates = 0;
  static CROSSFM_INLINE float decay(const Rates& r) { return r.l2; }
  template <int B>
  static CROSSFM_INLINE void step(Vec<B>& v, Vec<B>*, Vec<B> g, const Rates& r) {
    v = v - Vec<B>::all(r.learning_rate) * g;
  }
};

// One sum of squares for all factors of a feature: a += mean of g^2, v -= lr g / sqrt(a). The loss's
// gradient alone counts. update_linear has divided the learning rate; what is left is a plain step.
template <>
struct Policy<Optimizer::rowwise_adagrad> : Policy<Optimizer::sgd> {};

// How parameters step that have a sum of their own: weights and biases.
template <Optimizer O>
inline constexpr Optimizer kSingle = O == Optimizer::rowwise_adagrad ? Optimizer::adagrad : O;

// Duchi et al. 2011: a += g^2, v -= lr g / sqrt(a).
template <>
struct Policy<Optimizer::adagrad> {
  static constexpr int kStates = 1;
  static CROSSFM_INLINE float decay(const Rates& r) { return r.l2; }
  template <int B>
  static CROSSFM_INLINE void step(Vec<B>& v, Vec<B>* s, Vec<B> g, const Rates& r) {
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
  static CROSSFM_INLINE float decay(const Rates&) { return 0; }  // solve has it
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

// Kingma and Ba 2015, without the features that a row does not hold: m += (1 - beta) (g - m),
// a += (1 - beta2) (g^2 - a), v -= lr m / (sqrt(a) + epsilon), with the rates of `corrected`.
template <>
struct Policy<Optimizer::adam> {
  static constexpr int kStates = 2;
  static CROSSFM_INLINE float decay(const Rates& r) { return r.l2; }
  template <int B>
  static CROSSFM_INLINE void step(Vec<B>& v, Vec<B>* s, Vec<B> g, const Rates& r) {
    s[0] = s[0] + Vec<B>::all(1 - r.beta) * (g - s[0]);
    s[1] = s[1] + Vec<B>::all(1 - r.beta2) * (g * g - s[1]);
    v = v - Vec<B>::all(r.learning_rate) * s[0] / (root(s[1]) + Vec<B>::all(r.epsilon));
  }
};

// theta' = theta - lr (g + l2 theta), so that the loss of a row with gradient g of its own changes
// with l2 by -lr g theta (Rendle, WSDM 2012).
template <>
struct Policy<kPullSgd> {
  static constexpr int kStates = 0;
  static CROSSFM_INLINE float decay(const Rates&) { return 0; }
  template <int B>
  static CROSSFM_INLINE void step(Vec<B>& v, Vec<B>*, Vec<B> g, const Rates& r) {
    *r.pull -= double{r.learning_rate} * r.scale * (v * g).sum();
  }
};

template <>
struct Policy<kPullAdagrad> {
  static constexpr int kStates = 1;
  static CROSSFM_INLINE float decay(const Rates&) { return 0; }
  template <int B>
  static CROSSFM_INLINE void step(Vec<B>& v, Vec<B>* s, Vec<B> g, const Rates& r) {
    *r.pull -= double{r.learning_rate} * r.scale * (v * g * rsqrt(s[0] + Vec<B>::all(1e-30f))).sum();
  }
};

// Adam's averages start at zero; in the t-th row ever, 1 from the first on, they are that much too
// small. The correction goes into the step size, once a row.
CROSSFM_INLINE Steps corrected(const Steps& s, int64_t t) {
  Steps now = s;
  const double first = 1 - std::pow(double{s.beta}, double(t)), second = std::sqrt(1 - std::pow(double{s.beta2}, double(t)));
  now.learning_rate = static_cast<float>(s.learning_rate * second / first);
  now.epsilon = static_cast<float>(s.epsilon * second);
  return now;
}

CROSSFM_INLINE Rates rates_of(const Steps& s, bool factors, int32_t field, float scale) {
  const float* l2 = factors ? s.l2_factors : s.l2_linear;
  const int at = s.place(field);
  return {s.learning_rate * s.rates[at], s.beta, factors ? s.l1_factors : s.l1_linear, l2[at] * scale, s.beta2, s.epsilon, scale,
          s.pulls ? s.pulls + (factors ? s.n_places : 0) + at : nullptr};
}

// Those of feature t of a row; where they do not vary, of all.
CROSSFM_INLINE Rates rates_of(const Steps& s, bool factors, const Row& row, int64_t t) {
  return s.varied ? rates_of(s, factors, row.field[t], row.scale[t]) : rates_of(s, factors, 0, 1);
}

// The same for factors, feature after feature. Row-wise AdaGrad's learning rates are those that
// update_linear has found.
template <Optimizer O, bool GENERAL>
class FactorRates {
 public:
  CROSSFM_INLINE FactorRates(const Steps& steps, const Row& row)
      : steps_(steps), row_(row), now_(rates_of(steps, true, 0, 1)), rate_(now_.learning_rate) {}
  CROSSFM_INLINE const Rates& at(int64_t t) {
    if constexpr (GENERAL) {
      if (steps_.varied) now_ = rates_of(steps_, true, row_, t), rate_ = now_.learning_rate;
    }
    if constexpr (O == Optimizer::rowwise_adagrad) now_.learning_rate = rate_ * row_.rate[t];
    return now_;
  }

 private:
  const Steps& steps_;
  const Row& row_;
  Rates now_;
  float rate_;
};

// Into the row's rates, for row-wise AdaGrad: the sum of squares of d score / d v_i over the factors.
template <int B, bool GENERAL>
CROSSFM_INLINE void squares_of_factors(const Row& row, int64_t shift, int k, const float* S, const float* pooled) {
  using V = Vec<B>;
  const auto square = [&](int64_t t) {
    V sum = V::all(0);
    for (int b = 0; b < k; b += B) {
      V p;
      if constexpr (GENERAL) p = V::load(pooled + int64_t{row.run[t]} * k + b);
      else p = V::load(row.p[t] + shift + b);
      const V apart = V::load(S + b) - p;
      sum = sum + apart * apart;
    }
    return folded<4>(sum);
  };
  for (int64_t t = 0; t < row.m; t += 4) {
    const int64_t last = row.m - 1;
    const auto at = [&](int64_t i) { return square(t + i < last ? t + i : last); };
    const Vec<4> parts[4] = {at(0), at(1), at(2), at(3)};
    sums_of(parts).store(row.rate + t);
  }
  for (int64_t t = 0; GENERAL && t < row.m; ++t) row.rate[t] *= row.x[t] * row.x[t];
}

// d score / d v_i = x_i (S - p), p the pooled vector of the feature's field (x_i v_i where the
// field is the feature alone).
template <int B, bool GENERAL, Optimizer O, Storage M = Storage::float32>
CROSSFM_INLINE void update_factors(Row row, Row coming, int64_t shift, int k, const float* S,
                                   const float* pooled, float g, const Steps& steps) {
  using V = Vec<B>;
  constexpr int N = Policy<O>::kStates;
  FactorRates<O, GENERAL> all_rates(steps, row);
  const float decay = Policy<O>::decay(all_rates.at(0));
  const Store<B, M> store(row.turn);
  if (!GENERAL && row.m == 1) g = 0;  // S - p is 0 then, to the bit
  for (int b = 0; b < k; b += B) {
    const V s = V::load(S + b), gs = V::all(g) * s, pull = V::all(decay - g);
    for (int64_t t = 0; t < row.m; ++t) {
      for (int i = 0; i <= N; ++i) fetch<B, M>(coming, t, shift + b + int64_t{i} * k);
      float* p = row.p[t];
      const int64_t at = shift + b;
      V v = Stored<M>::template load<B>(p, at), state[N + 1], gradient;
      for (int i = 0; i < N; ++i) state[i] = Stored<M>::template load<B>(p, at + int64_t{i + 1} * k);
      const Rates& rates = all_rates.at(t);
      if constexpr (GENERAL) {
        gradient = V::all(g * row.x[t]) * (s - V::load(pooled + int64_t{row.run[t]} * k + b)) +
                   V::all(Policy<O>::decay(rates)) * v;
      } else {
        gradient = gs + pull * v;  // g (s - v) + decay v
      }
      Policy<O>::template step<B>(v, state, gradient, rates);
      const uint32_t feature = shift_of(row, t);
      store.template put<false>(p, at, v, feature);
      for (int i = 0; i < N; ++i) store.template put<true>(p, at + int64_t{i + 1} * k, state[i], feature);
    }
  }
}

// The linear weights of a row, several at a time where no feature is there twice and all have the
// same rates. Under row-wise AdaGrad the sums of the features' factors as well, which lie beside: of
// squares in the row's rates, rates are made.
template <bool GENERAL, Optimizer O>
CROSSFM_INLINE void update_linear(Row row, Row coming, int64_t shift, float g, const Steps& steps,
                                  bool repeats) {
  using V = Vec<kGroup>;
  constexpr int N = Policy<kSingle<O>>::kStates;
  constexpr bool ROWWISE = O == Optimizer::rowwise_adagrad;
  const auto update = [&](int64_t t, int lanes) {
    V v = V::all(0), state[N + 1], x = V::all(1), sum = V::all(1), squares = V::all(0);
    for (int i = 0; i < N; ++i) state[i] = V::all(1);
    for (int l = 0; l < lanes; ++l) {
      fetch_linear(coming, t + l);
      const float* p = row.w[t + l] + shift;
      v.c[0][l] = p[0];
      for (int i = 0; i < N; ++i) state[i].c[0][l] = p[i + 1];
      if constexpr (GENERAL) x.c[0][l] = row.x[t + l];
      if constexpr (ROWWISE) sum.c[0][l] = p[kRowSum], squares.c[0][l] = row.rate[t + l];
    }
    if constexpr (ROWWISE) {
      sum = sum + V::all(g * g * steps.share) * squares;
      const V rate = rsqrt(sum);
      for (int l = 0; l < lanes; ++l) row.w[t + l][shift + kRowSum] = sum.c[0][l], row.rate[t + l] = rate.c[0][l];
    }
    const Rates rates = GENERAL ? rates_of(steps, false, row, t) : rates_of(steps, false, 0, 1);
    Policy<kSingle<O>>::template step<kGroup>(v, state, V::all(g) * x + V::all(Policy<O>::decay(rates)) * v, rates);
    for (int l = 0; l < lanes; ++l) {
      float* p = row.w[t + l] + shift;
      p[0] = v.c[0][l];
      for (int i = 0; i < N; ++i) p[i + 1] = state[i].c[0][l];
    }
  };
  if (repeats || (GENERAL && steps.varied)) {
    for (int64_t t = 0; t < row.n; ++t) update(t, 1);
  } else {
    for (int64_t t = 0; t < row.n; t += kGroup) update(t, kGroup);
  }
}

template <Optimizer O>
CROSSFM_INLINE void update_bias(float* bias, float g, const Steps& steps) {
  constexpr int N = Policy<kSingle<O>>::kStates;
  Vec<4> v = Vec<4>::all(bias[0]), state[N + 1];
  for (int i = 0; i < N; ++i) state[i] = Vec<4>::all(bias[i + 1]);
  Policy<kSingle<O>>::template step<4>(v, state, Vec<4>::all(g), Rates{steps.learning_rate, steps.beta, 0, 0, steps.beta2, steps.epsilon});
  bias[0] = v.c[0][0];
  for (int i = 0; i < N; ++i) bias[i + 1] = state[i].c[0][0];
}

}  // namespace crossfm::CROSSFM_LEVEL
