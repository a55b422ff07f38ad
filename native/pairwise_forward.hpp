// The pairwise operator, row by row: sums over a row's features in blocks of factors.
#pragma once

#include "pairwise_step.hpp"

namespace crossfm::CROSSFM_LEVEL {

// One row of a batch as the forward pass reads it.
template <class Id>
struct RowView {
  const Id* ids;
  const float* values;      // null: all ones
  int64_t begin, end, nnz;  // positions
  int64_t ahead;            // positions between the vector at work and the one asked for

  CROSSFM_INLINE float x(int64_t j) const { return values ? values[j] : 1.0f; }
  // A position to come; near the batch's end the one at work again. Its id may be wrong, which
  // does a prefetch no harm.
  CROSSFM_INLINE uint64_t coming(int64_t j) const {
    return static_cast<uint64_t>(ids[j + ahead < nnz ? j + ahead : j]);
  }
};

// About as many lines in flight as the first-level cache holds besides the row at work: 64 vectors
// of 16 factors, fewer longer ones.
CROSSFM_INLINE int64_t vectors_ahead(int64_t k) {
  const int64_t ahead = 2048 / (k < 32 ? 32 : k);
  return ahead < 16 ? 16 : ahead;
}

template <int B, class Id>
CROSSFM_INLINE void prefetch_coming(const RowView<Id>& row, int64_t j, const float* factors, int64_t k) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(factors) + row.coming(j) * static_cast<uint64_t>(k) * sizeof(float);
  for (int f = 0; f < B; f += 16) prefetch_read(reinterpret_cast<const void*>(at + f * sizeof(float)));
}

template <class Id>
CROSSFM_INLINE float row_linear(const RowView<Id>& row, const float* weights) {
  float sums[4] = {0, 0, 0, 0};  // not one: each addition waits for the one before
  int64_t j = row.begin;
  const auto term = [&](int64_t at) {
    prefetch_read(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(weights) + row.coming(at) * sizeof(float)));
    return row.x(at) * weights[row.ids[at]];
  };
  for (; j + 3 < row.end; j += 4) {
    for (int i = 0; i < 4; ++i) sums[i] += term(j + i);
  }
  for (; j < row.end; ++j) sums[0] += term(j);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// Sums of x v and of (x v)^2 over a row, B factors from `factors` on.
template <int B, bool VALUES, class Id>
CROSSFM_INLINE void row_sums(const RowView<Id>& row, const float* factors, int64_t k, Vec<B>& s, Vec<B>& q) {
  using V = Vec<B>;
  const auto term = [&](int64_t j) {
    prefetch_coming<B>(row, j, factors, k);
    const V v = V::load(factors + static_cast<int64_t>(row.ids[j]) * k);
    if constexpr (VALUES) return V::all(row.values[j]) * v;
    else return v;
  };
  s = q = V::all(0);
  V s2 = s, q2 = q;  // two sums at a time: half the wait for each addition
  int64_t j = row.begin;
  for (; j + 1 < row.end; j += 2) {
    const V u = term(j), u2 = term(j + 1);
    s = s + u;
    q = q + u * u;
    s2 = s2 + u2;
    q2 = q2 + u2 * u2;
  }
  if (j < row.end) {
    const V u = term(j);
    s = s + u;
    q = q + u * u;
  }
  s = s + s2;
  q = q + q2;
}

// Which of a row's features share a field. One of these a thread; marks of earlier rows count as
// unseen, so that nothing is cleared between rows.
struct RowFields {
  struct Mark {
    int64_t row;
    int64_t pool;
  };
  Mark* marks = nullptr;       // [n_fields]
  int64_t* pool_of = nullptr;  // [longest row], pool of each feature: fresh(p) at a pool's first
  int64_t* field_of = nullptr; // [pools], field of each pool
  int64_t count = 0;           // pools

  static CROSSFM_INLINE int64_t fresh(int64_t pool) { return ~pool; }

  // False at a field out of range; `position` is then where it stands.
  CROSSFM_INLINE bool resolve(const PairBatch& batch, int64_t r, int64_t& position) {
    const int64_t begin = batch.begin(r), end = batch.end(r);
    count = 0;
    for (int64_t j = begin; j < end; ++j) {
      const int64_t f = batch.field(j, begin);
      if (static_cast<uint64_t>(f) >= static_cast<uint64_t>(batch.n_fields)) {
        position = batch.fields_by_column ? j - begin : j;
        return false;
      }
      Mark& mark = marks[f];
      if (mark.row == r + 1) {  // zeroed marks are of no row
        pool_of[j - begin] = mark.pool;
      } else {
        mark = {r + 1, count};
        field_of[count] = f;
        pool_of[j - begin] = fresh(count++);
      }
    }
    return true;
  }
};

// The same sums with features pooled by field. A pool's sum goes to pools + field * stride
// (by_field) or pools + pool * stride; q sums over pools, or over features unless across.
template <int B, class Id>
CROSSFM_INLINE void row_pools(const RowView<Id>& row, const float* factors, int64_t k, const RowFields& fields,
                              float* pools, int64_t stride, bool by_field, bool across, Vec<B>& s, Vec<B>& q) {
  using V = Vec<B>;
  s = q = V::all(0);
  const auto place = [&](int64_t pool) { return pools + (by_field ? fields.field_of[pool] : pool) * stride; };
  for (int64_t j = row.begin; j < row.end; ++j) {
    prefetch_coming<B>(row, j, factors, k);
    const V u = V::all(row.x(j)) * V::load(factors + static_cast<int64_t>(row.ids[j]) * k);
    s = s + u;
    if (!across) q = q + u * u;
    const int64_t pool = fields.pool_of[j - row.begin];
    if (pool < 0) {
      u.store(place(RowFields::fresh(pool)));
    } else {
      float* p = place(pool);
      (V::load(p) + u).store(p);
    }
  }
  for (int64_t pool = 0; across && pool < fields.count; ++pool) {
    const V p = V::load(place(pool));
    q = q + p * p;
  }
}

}  // namespace crossfm::CROSSFM_LEVEL
