// Optimizer steps on one row of a plain table, given its gradient.
#pragma once

#include "pairwise.hpp"
#include "simd.hpp"

namespace crossfm::CROSSFM_LEVEL {

// Cuts 0..k into blocks of 64, 32, ... 1 factors and calls run.operator()<B>(first) for each.
// K > 0: k is known to be K, so that no block has to be looked for.
template <int K, class Run>
CROSSFM_INLINE void each_block(int64_t k, Run run) {
  if constexpr (K > 0) {
    run.template operator()<K>(0);
  } else {
    int64_t b = 0;
    for (; b + 64 <= k; b += 64) run.template operator()<64>(b);
    if (k & 32) run.template operator()<32>(b), b += 32;
    if (k & 16) run.template operator()<16>(b), b += 16;
    if (k & 8) run.template operator()<8>(b), b += 8;
    if (k & 4) run.template operator()<4>(b), b += 4;
    if (k & 2) run.template operator()<2>(b), b += 2;
    if (k & 1) run.template operator()<1>(b);
  }
}

// Calls run.operator()<K>(): K = k where a block of that size exists, else 0.
template <class Run>
CROSSFM_INLINE void with_k(int64_t k, Run run) {
  if (k == 16) run.template operator()<16>();
  else if (k == 64) run.template operator()<64>();
  else run.template operator()<0>();
}

// One block of parameters p with its states s and gradient g (the penalty's part is in it, but for
// FTRL, whose closed form holds the penalty).
template <int B>
struct BlockStep {
  using V = Vec<B>;

  static CROSSFM_INLINE V sgd(V p, V g, const RowStep& step) { return p - V::all(step.lr) * g; }

  // Duchi et al. 2011.
  static CROSSFM_INLINE V adagrad(V p, V& a, V g, const RowStep& step) {
    a = a + g * g;
    return p - V::all(step.lr) * g / (root(a) + V::all(step.eps));
  }

  // Kingma and Ba 2015, on the rows of the batch only.
  static CROSSFM_INLINE V adam(V p, V& m, V& v, V g, const RowStep& step) {
    m = V::all(step.beta1) * m + V::all(step.gain1) * g;
    v = V::all(step.beta2) * v + V::all(step.gain2) * (g * g);
    const V spread = root(v / V::all(step.correction2)) + V::all(step.eps);
    return p - V::all(step.lr / step.correction1) * m / spread;
  }

  // McMahan et al. 2013.
  static CROSSFM_INLINE V ftrl(V p, V& z, V& n, V g, const RowStep& step) {
    const V before = root(n);
    n = n + g * g;
    const V after = root(n), inverse = V::all(1 / step.lr);
    z = z + g - inverse * (after - before) * p;
    return V::all(0) - shrink(z, step.l1) / (inverse * (V::all(step.beta) + after) + V::all(step.l2));
  }
};

// Lets p [k] step against g [k]; `row` is p's place in the table. g is overwritten.
template <int K>
CROSSFM_INLINE void step_row(const RowStep& step, int64_t row, float* p, float* g, int64_t k) {
  float* first = step.states[0] + (step.states[0] ? row * k : 0);
  float* second = step.states[1] + (step.states[1] ? row * k : 0);
  float rate = 0;
  if (step.rule == RowRule::rowwise_adagrad) {  // one accumulator: the mean square of the row
    float total = 0;
    each_block<K>(k, [&]<int B>(int64_t b) {
      const Vec<B> penalized = Vec<B>::load(g + b) + Vec<B>::all(step.l2) * Vec<B>::load(p + b);
      penalized.store(g + b);
      total += (penalized * penalized).sum();
    });
    float& a = step.states[0][row];
    a += total / static_cast<float>(k);
    rate = step.lr / (std::sqrt(a) + step.eps);
  }
  each_block<K>(k, [&]<int B>(int64_t b) {
    using V = Vec<B>;
    using Block = BlockStep<B>;
    const auto states = [&](float* at) { return V::load(at + b); };
    V v = V::load(p + b), d = V::load(g + b);
    const V penalized = d + V::all(step.l2) * v;
    switch (step.rule) {
      case RowRule::sgd: v = Block::sgd(v, penalized, step); break;
      case RowRule::rowwise_adagrad: v = v - V::all(rate) * d; break;
      case RowRule::adagrad: {
        V a = states(first);
        v = Block::adagrad(v, a, penalized, step);
        a.store(first + b);
        break;
      }
      case RowRule::adam: {
        V m = states(first), s = states(second);
        v = Block::adam(v, m, s, penalized, step);
        m.store(first + b), s.store(second + b);
        break;
      }
      case RowRule::ftrl: {
        V z = states(first), n = states(second);
        v = Block::ftrl(v, z, n, d, step);
        z.store(first + b), n.store(second + b);
        break;
      }
    }
    v.store(p + b);
  });
}

// Asks for what step_row will change of a row to come.
CROSSFM_INLINE void prefetch_floats(const float* p, int64_t count) {
  for (int64_t f = 0; f < count; f += 16) prefetch(p + f);
  prefetch(p + count - 1);
}

CROSSFM_INLINE void prefetch_step(const RowStep& step, int64_t row, const float* table, int64_t k) {
  prefetch_floats(table + row * k, k);
  const int64_t state = step.rule == RowRule::rowwise_adagrad ? 1 : k;
  for (const float* s : step.states) {
    if (s) prefetch_floats(s + row * state, state);
  }
}

}  // namespace crossfm::CROSSFM_LEVEL
