// The gradient of one feature: a sum over its occurrences.
//
//   dv_i = sum x (H (S - q) + gp_f + gS),  dw_i = sum x gl,  dx = gl w_i + <v_i, H (S - q) + gp_f + gS>
//
// with q = x v_i where a feature is crossed with all others, so that v_i leaves the sum:
// dv_i = sum x (H S + ...) - v_i sum x^2 H.
#pragma once

#include "pairwise_step.hpp"

namespace crossfm::CROSSFM_LEVEL {

constexpr int kOccurrencesAhead = 12;  // occurrences whose rows of S are asked for ahead
constexpr int kGroupsAhead = 12;       // features whose parameters are asked for ahead

struct Occurrences {
  const PairBatch& batch;
  const GroupView& groups;
  const PairTable& table;
  const PairGradients& given;

  static CROSSFM_INLINE int64_t id(uint64_t entry) { return static_cast<int64_t>(entry >> 32); }
  static CROSSFM_INLINE int64_t mark(uint64_t entry) { return static_cast<uint32_t>(entry); }
  CROSSFM_INLINE int64_t row(uint64_t entry) const {
    return groups.row_of ? groups.row_of[mark(entry)] : mark(entry);
  }
  CROSSFM_INLINE float x(uint64_t entry) const { return batch.values ? batch.values[mark(entry)] : 1.0f; }
  // Gradient of the pooled vector that an occurrence went into.
  CROSSFM_INLINE const float* of_pooled(uint64_t entry, int64_t row) const {
    const int64_t field = batch.field(mark(entry), batch.begin(row));
    return given.pooled + (row * batch.n_fields + field) * table.k;
  }
  CROSSFM_INLINE const float* pool(uint64_t entry) const {
    const int64_t pool = groups.pool_of ? groups.pool_of[mark(entry)] : -1;
    return pool < 0 ? nullptr : groups.pools + pool * table.k;
  }

  CROSSFM_INLINE void prefetch_vector(const float* p) const {
    for (int64_t f = 0; f < table.k; f += 16) prefetch_read(p + f);
  }

  // Asks for what an occurrence to come will read; called in the first block of factors only.
  CROSSFM_INLINE void prefetch_rows(const uint64_t* at) const {
    at += kOccurrencesAhead;
    if (at >= groups.entries + groups.nnz) return;
    const int64_t r = row(*at);
    if (given.crossed) prefetch_vector(given.S + r * table.k);
    if (given.pooled) prefetch_vector(of_pooled(*at, r));
  }

  // Values of 1, one gradient a row for the crossed term, no pools: what a plain FM asks for.
  template <int B>
  CROSSFM_INLINE Vec<B> simple(const uint64_t* first, const uint64_t* last, int64_t b) const {
    using V = Vec<B>;
    V sum = V::all(0);
    float pull = 0;
    const float* S = given.S + b;
    for (; first != last; ++first) {
      if (b == 0) prefetch_rows(first);
      const int64_t r = mark(*first);
      sum = sum + V::all(given.crossed[r]) * V::load(S + r * table.k);
      pull += given.crossed[r];
    }
    return sum - V::all(pull) * V::load(table.factors + id(last[-1]) * table.k + b);
  }

  template <int B>
  CROSSFM_INLINE Vec<B> general(const uint64_t* first, const uint64_t* last, int64_t b) const {
    using V = Vec<B>;
    const int64_t k = table.k;
    V sum = V::all(0), pull = V::all(0);
    for (; first != last; ++first) {
      if (b == 0) prefetch_rows(first);
      const int64_t r = row(*first);
      const V value = V::all(x(*first));
      if (given.crossed) {
        const V h = value * crossed<B>(r, b), S = V::load(given.S + r * k + b);
        if (const float* p = pool(*first)) {
          sum = sum + h * (S - V::load(p + b));
        } else {
          sum = sum + h * S;
          pull = pull + h * value;
        }
      }
      if (given.pooled) sum = sum + value * V::load(of_pooled(*first, r) + b);
      if (given.sum) sum = sum + value * V::load(given.sum + r * k + b);
    }
    return sum - pull * V::load(table.factors + id(last[-1]) * k + b);
  }

  CROSSFM_INLINE float weight(const uint64_t* first, const uint64_t* last) const {
    float sum = 0;
    for (; given.linear && first != last; ++first) sum += x(*first) * given.linear[row(*first)];
    return sum;
  }

  // Gradient of one occurrence's value.
  template <int K>
  CROSSFM_INLINE float value(uint64_t entry) const {
    const int64_t r = row(entry), k = table.k;
    const float* v = table.factors + id(entry) * k;
    float total = given.linear && table.weights ? given.linear[r] * table.weights[id(entry)] : 0.0f;
    each_block<K>(k, [&]<int B>(int64_t b) {
      using V = Vec<B>;
      const V own = V::load(v + b);
      V sum = V::all(0);
      if (given.crossed) {
        const float* p = pool(entry);
        sum = crossed<B>(r, b) * (V::load(given.S + r * k + b) - (p ? V::load(p + b) : V::all(x(entry)) * own));
      }
      if (given.pooled) sum = sum + V::load(of_pooled(entry, r) + b);
      if (given.sum) sum = sum + V::load(given.sum + r * k + b);
      total += (own * sum).sum();
    });
    return total;
  }

 private:
  template <int B>
  CROSSFM_INLINE Vec<B> crossed(int64_t r, int64_t b) const {
    return given.reduce_sum ? Vec<B>::all(given.crossed[r]) : Vec<B>::load(given.crossed + r * table.k + b);
  }
};

}  // namespace crossfm::CROSSFM_LEVEL
