// The score of one row: bias + linear + 1/2 (|S|^2 - sum |p|^2), S = sum of the pooled p.
#pragma once

#include "stored.hpp"

namespace crossfm::CROSSFM_LEVEL {

// Sums over factors in blocks of B, the block's sums in registers.
//   GENERAL: values and pooling; else every x is 1 and every feature its own field.
//   FETCH: asks for the coming row's on the way.
//   M: how factors lie in memory.
//   S [k] and pooled [runs][k] are kept for the update; both may be null when only scoring.
template <int B, bool GENERAL, bool FETCH, Storage M = Storage::float32>
CROSSFM_INLINE float crossed(Row row, Row coming, int64_t shift, int k, float* S, float* pooled) {
  using V = Vec<B>;
  float total = 0;
  for (int b = 0; b < k; b += B) {
    V s = V::all(0), q = V::all(0);
    if constexpr (!GENERAL) {
      V s2 = V::all(0), q2 = V::all(0);  // two sums at a time: half the wait for each addition
      int64_t t = 0;
      for (; t + 1 < row.m; t += 2) {
        if constexpr (FETCH) fetch<B, M>(coming, t, shift + b), fetch<B, M>(coming, t + 1, shift + b);
        const V v = factors_of<B, M>(row, t, shift + b), v2 = factors_of<B, M>(row, t + 1, shift + b);
        s = s + v;
        q = q + v * v;
        s2 = s2 + v2;
        q2 = q2 + v2 * v2;
      }
      if (t < row.m) {
        if constexpr (FETCH) fetch<B, M>(coming, t, shift + b);
        const V v = factors_of<B, M>(row, t, shift + b);
        s = s + v;
        q = q + v * v;
      }
      s = s + s2;
      q = q + q2;
    } else {
      for (int64_t t = 0; t < row.m;) {
        const int32_t run = row.run[t];
        V p = V::all(0);
        for (; t < row.m && row.run[t] == run; ++t) {
          if constexpr (FETCH) fetch<B, M>(coming, t, shift + b);
          p = p + V::all(row.x[t]) * factors_of<B, M>(row, t, shift + b);
        }
        s = s + p;
        q = q + p * p;
        if (pooled) p.store(pooled + int64_t{run} * k + b);
      }
    }
    if (S) s.store(S + b);
    total += (s * s - q).sum();
  }
  return 0.5f * total;
}

template <bool GENERAL, bool FETCH>
CROSSFM_INLINE float linear(Row row, Row coming, int64_t shift) {
  const auto term = [&](int64_t t) {
    if constexpr (FETCH) fetch_linear(coming, t);
    return GENERAL ? row.x[t] * row.w[t][shift] : row.w[t][shift];
  };
  float sums[4] = {0, 0, 0, 0};  // not one: each addition waits for the one before
  int64_t t = 0;
  for (; t + 3 < row.n; t += 4) {
    for (int i = 0; i < 4; ++i) sums[i] += term(t + i);
  }
  for (; t < row.n; ++t) sums[0] += term(t);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// Calls run.operator()<B>() with the widest block B that divides k.
template <class Run>
CROSSFM_INLINE void with_block(int k, Run run) {
  if (k % 64 == 0) run.template operator()<64>();
  else if (k % 32 == 0) run.template operator()<32>();
  else if (k % 16 == 0) run.template operator()<16>();
  else if (k % 8 == 0) run.template operator()<8>();
  else run.template operator()<4>();
}

}  // namespace crossfm::CROSSFM_LEVEL
