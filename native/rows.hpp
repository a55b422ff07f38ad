// A row resolved to pointers: where each of its features' parameters lie, asked for ahead of use.
#pragma once

#include <cstdint>
#include <cstdlib>

#include "kernels.hpp"
#include "simd.hpp"

namespace crossfm::CROSSFM_LEVEL {

constexpr int kAhead = 2;  // rows prefetched ahead of the one at work
constexpr int kGroup = 4;  // linear weights updated as one vector

// Zeroed, cache-line aligned memory for plain types. Null when there is none left.
template <class T>
struct Buffer {
  T* data = nullptr;
  void* raw = nullptr;
  explicit Buffer(int64_t count) {
    raw = std::calloc(1, static_cast<size_t>(count) * sizeof(T) + 64);
    data = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(raw) + 63) & ~uintptr_t{63});
  }
  ~Buffer() { std::free(raw); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
};

struct Row {
  int64_t index = 0;            // row of the batch
  int64_t m = 0;                // features that have factors; they come first
  int64_t n = 0;                // features
  float** p = nullptr;          // factors of each of the m
  float** w = nullptr;          // linear weight of each, then `spare` up to a whole kGroup
  float* x = nullptr;           // value of each
  float* scale = nullptr;       // what its penalty is multiplied by
  float* rate = nullptr;        // row-wise AdaGrad: sum of squares of its gradient, then what its step is multiplied by
  int32_t* run = nullptr;       // which pooled vector it belongs to; room for look-ups where none is asked for
  int32_t* field = nullptr;     // its field; where rows bring none, its place
  float* spare = nullptr;       // a linear weight of no feature
  const float* base = nullptr;  // factors of the table's first feature
  uint32_t turn = 0;            // random number of the update
};

// Where parameters lie, and the private copies of the hot ones.
struct Places {
  float* factors;
  float* linear;
  int64_t stride, linear_stride;  // floats a feature
  const int32_t* hot = nullptr;  // Hot::entries
  int hot_bits = 0;
  float* hot_factors = nullptr;
  float* hot_linear = nullptr;
  const float* scales = nullptr;   // Table::scales
  uint32_t owner = 0, owners = 1;  // keep only features of this owner
};

// Which of `owners` threads updates a feature: a fixed hash of its id.
CROSSFM_INLINE uint32_t owner_of(uint64_t id, uint32_t owners) {
  return static_cast<uint32_t>(((id * 0x9E3779B97F4A7C15ull) >> 32) * owners >> 32);
}

enum class Sharing { none, hot, owned };

// Where a feature's factors and its linear weight lie; `entry` is what Hot has at its place.
// Without a branch: whether a feature is hot, nothing could foretell.
template <Sharing SHARING>
CROSSFM_INLINE void point(const Places& at, int64_t id, int32_t entry, float*& p, float*& w) {
  if constexpr (SHARING == Sharing::hot) {
    const bool hot = Hot::is(entry, id, at.hot_bits);
    const int64_t place = hot ? Hot::slot(entry, at.hot_bits) : id;
    p = (hot ? at.hot_factors : at.factors) + place * at.stride;
    w = (hot ? at.hot_linear : at.linear) + place * at.linear_stride;
  } else {
    p = at.factors + id * at.stride;
    w = at.linear + id * at.linear_stride;
  }
}

#if defined(__AVX512DQ__) && defined(__AVX512VL__)
// point<Sharing::hot> of eight features at a time; compilers make half of it of the plain loop.
template <class Id>
CROSSFM_INLINE void point_hot(const Places& at, const Id* ids, int64_t n, const int32_t* entries, float** p, float** w) {
  const auto all = [](const float* address) { return _mm512_set1_epi64(reinterpret_cast<int64_t>(address)); };
  const __m512i factors = all(at.factors), hot_factors = all(at.hot_factors), stride = _mm512_set1_epi64(at.stride * 4);
  const __m512i linear = all(at.linear), hot_linear = all(at.hot_linear);
  const __m512i linear_stride = _mm512_set1_epi64(at.linear_stride * 4);
  const __m256i mixed = _mm256_set1_epi32(static_cast<int>(Hot::kMixed));
  const __m256i rest = _mm256_set1_epi32(Hot::rest_mask(at.hot_bits)), slots = _mm256_set1_epi32(Hot::slot_mask(at.hot_bits));
  const __m128i tail = _mm_cvtsi32_si128(at.hot_bits - 1);
  for (int64_t t = 0; t < n; t += 8) {
    const __mmask8 some = static_cast<__mmask8>(n - t < 8 ? (1 << (n - t)) - 1 : 0xFF);
    __m512i place;
    __m256i id;
    if constexpr (sizeof(Id) == 4) {
      id = _mm256_maskz_loadu_epi32(some, ids + t);
      place = _mm512_cvtepi32_epi64(id);
    } else {
      place = _mm512_maskz_loadu_epi64(some, ids + t);
      id = _mm512_cvtepi64_epi32(place);
    }
    const __m256i entry = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(entries + t));
    const __m256i of_id = _mm256_and_si256(_mm256_mullo_epi32(id, mixed), rest);
    const __mmask8 hot = _mm256_cmpeq_epi32_mask(_mm256_sra_epi32(entry, tail), of_id);
    place = _mm512_mask_cvtepi32_epi64(place, hot, _mm256_and_si256(entry, slots));
    _mm512_storeu_si512(p + t, _mm512_add_epi64(_mm512_mask_blend_epi64(hot, factors, hot_factors),
                                                _mm512_mullo_epi64(place, stride)));
    _mm512_storeu_si512(w + t, _mm512_add_epi64(_mm512_mask_blend_epi64(hot, linear, hot_linear),
                                                _mm512_mullo_epi64(place, linear_stride)));
  }
}
#endif

// The same for n features. `entries` is room for n of them, and all room a multiple of eight.
template <Sharing SHARING, class Id>
CROSSFM_INLINE void point_all(const Places& all, const Id* ids, int64_t n, int32_t* entries, float** p, float** w) {
  const Places at = all;  // for all that is known, p and w might point into it
  if constexpr (SHARING == Sharing::hot) {
    for (int64_t t = 0; t < n; ++t) entries[t] = at.hot[Hot::home(ids[t], at.hot_bits)];
#if defined(__AVX512DQ__) && defined(__AVX512VL__)
    point_hot(at, ids, n, entries, p, w);
    return;
#endif
  }
  for (int64_t t = 0; t < n; ++t) point<SHARING>(at, ids[t], entries[t], p[t], w[t]);
}

template <bool GENERAL, Sharing SHARING, bool SCALED, class Id>
inline void resolve_ids(const Batch& batch, const Places& at, int64_t r, bool pool_fields, Row& row) {
  const Id* ids = static_cast<const Id*>(batch.ids);
  const int64_t begin = batch.begin(r), end = batch.end(r);
  int64_t m = 0, bare = end - begin;  // features without factors are put down from the end
  int32_t run = -1, last = -1;
  row.index = r;
  row.base = at.factors;
  if constexpr (!GENERAL && !SCALED && SHARING != Sharing::owned) {
    row.m = row.n = m = end - begin;
    point_all<SHARING>(at, ids + begin, m, row.run, row.p, row.w);
    for (; m % kGroup; ++m) row.w[m] = row.spare;
    return;
  }
  for (int64_t j = begin; j < end; ++j) {
    const int64_t id = ids[j];
    bool crosses = true;
    if constexpr (SCALED) crosses = at.scales[id] >= 0;
    int32_t field = 0;
    if constexpr (GENERAL) {
      field = batch.fields ? batch.fields[j] : batch.field_of ? batch.field_of[id] : static_cast<int32_t>(j - begin);
      if (crosses) {
        run += !pool_fields || field != last;
        last = field;
      }
    }
    if constexpr (SHARING == Sharing::owned) {
      if (owner_of(id, at.owners) != at.owner) continue;
    }
    const int64_t t = crosses ? m++ : --bare;
    if constexpr (GENERAL) {
      row.run[t] = run;
      row.field[t] = field;
      row.x[t] = batch.values ? batch.values[j] : 1.0f;
    }
    if constexpr (SCALED) row.scale[t] = crosses ? at.scales[id] : -at.scales[id];
    int32_t entry = Hot::kNone;
    if constexpr (SHARING == Sharing::hot) entry = at.hot[Hot::home(id, at.hot_bits)];
    point<SHARING>(at, id, entry, row.p[t], row.w[t]);
  }
  row.m = m;
  if constexpr (SCALED) {
    for (; bare < end - begin; ++bare, ++m) {  // next to the others; features of other owners left gaps
      row.w[m] = row.w[bare];
      row.scale[m] = row.scale[bare];
      if constexpr (GENERAL) row.x[m] = row.x[bare], row.field[m] = row.field[bare];
    }
  }
  row.n = m;
  for (; m % kGroup; ++m) row.w[m] = row.spare;
}

template <bool GENERAL>
CROSSFM_INLINE void resolve(const Batch& batch, const Places& at, int64_t r, bool pool_fields, Row& row) {
  const auto with = [&]<Sharing SHARING, bool SCALED>() {
    if (batch.wide) resolve_ids<GENERAL, SHARING, SCALED, int64_t>(batch, at, r, pool_fields, row);
    else resolve_ids<GENERAL, SHARING, SCALED, int32_t>(batch, at, r, pool_fields, row);
  };
  const auto shared = [&]<bool SCALED>() {
    if (at.hot) with.template operator()<Sharing::hot, SCALED>();
    else if (at.owners > 1) with.template operator()<Sharing::owned, SCALED>();
    else with.template operator()<Sharing::none, SCALED>();
  };
  if (at.scales) shared.template operator()<true>();
  else shared.template operator()<false>();
}

CROSSFM_INLINE void fetch_linear(const Row& coming, int64_t t) { prefetch(coming.w[t < coming.n ? t : 0]); }

// Asks for all of a row but its first m factors and n weights, `floats` of each feature.
CROSSFM_INLINE void fetch_rest(const Row& coming, int64_t m, int64_t n, int64_t floats) {
  for (; m < coming.m; ++m) {
    prefetch(coming.w[m]);
    for (int64_t f = 0; f < floats; f += 16) prefetch(coming.p[m] + f);
    prefetch(coming.p[m] + floats - 1);
  }
  for (n = n > coming.m ? n : coming.m; n < coming.n; ++n) prefetch(coming.w[n]);
}

// Asks for what resolve will read of a row: in shuffled order no hardware guesses it.
CROSSFM_INLINE void prefetch_row(const Batch& batch, int64_t r) {
  const int64_t begin = batch.begin(r), end = batch.end(r), size = batch.wide ? 8 : 4;
  const char* ids = static_cast<const char*>(batch.ids);
  for (int64_t b = begin * size; b < end * size + 63 && b < begin * size + 512; b += 64) prefetch(ids + b);
  if (batch.values) {
    const char* values = reinterpret_cast<const char*>(batch.values);
    for (int64_t b = begin * 4; b < end * 4 + 63 && b < begin * 4 + 512; b += 64) prefetch(values + b);
  }
  if (batch.targets) prefetch(batch.targets + r);
}

// Asks for the scales of a row whose ids are there.
CROSSFM_INLINE void prefetch_scales(const Batch& batch, const float* scales, int64_t r) {
  const int64_t begin = batch.begin(r), end = batch.end(r);
  for (int64_t j = begin; j < end; ++j) {
    prefetch(scales + (batch.wide ? static_cast<const int64_t*>(batch.ids)[j] : static_cast<const int32_t*>(batch.ids)[j]));
  }
}

// The memory of kAhead + 1 resolved rows.
struct Ring {
  int64_t width;
  Buffer<float*> pointers;
  Buffer<float> values;
  Buffer<int32_t> labels;
  Buffer<float> spare;
  Row rows[kAhead + 1];
  Ring(int64_t longest, int64_t linear_stride)
      : width((longest + 15) / 16 * 16 + 16),
        pointers(2 * width * (kAhead + 1)),
        values(3 * width * (kAhead + 1)),
        labels(2 * width * (kAhead + 1)),
        spare(linear_stride) {
    if (!ok()) return;
    for (int i = 0; i <= kAhead; ++i) {
      rows[i].p = pointers.data + 2 * i * width;
      rows[i].w = rows[i].p + width;
      rows[i].x = values.data + 3 * i * width;
      rows[i].scale = rows[i].x + width;
      rows[i].rate = rows[i].scale + width;
      rows[i].run = labels.data + 2 * i * width;
      rows[i].field = rows[i].run + width;
      for (int64_t t = 0; t < width; ++t) {
        rows[i].field[t] = static_cast<int32_t>(t);
        rows[i].scale[t] = 1;
      }
      rows[i].spare = spare.data;
    }
  }
  bool ok() const { return pointers.raw && values.raw && labels.raw && spare.raw; }
  Row& operator[](int64_t i) { return rows[i % (kAhead + 1)]; }
};

}  // namespace crossfm::CROSSFM_LEVEL
