// The scan of one instruction-set level: every item against a few queries at a time, products in
// registers; only what exceeds a query's k-th best so far leaves them.
#include "topk.hpp"

#include "simd.hpp"
#include "stored.hpp"

#include <new>

namespace crossfm::CROSSFM_LEVEL {
namespace {

// Queries and panels at a time: as many sums as the registers hold beside what they are made of. A
// query alone goes panel by panel, one stream through memory: two at once take twice the time.
constexpr int kQueries = kWidth == 16 ? 8 : kWidth == 8 ? 4 : 2;
constexpr int kPanels = kWidth == 16 ? 2 : 1;
constexpr int64_t kTile = 64;  // panels that stay in the cache while all queries pass over them

// A bit for each lane whose number exceeds the least.
CROSSFM_INLINE uint32_t above(const Vec<16>& v, float least) {
#if (defined(__GNUC__) || defined(__clang__)) && defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)v.c[0], _mm512_set1_ps(least), _CMP_GT_OQ);
#elif (defined(__GNUC__) || defined(__clang__)) && defined(__AVX__)
  const __m256 bar = _mm256_set1_ps(least);
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps((__m256)v.c[0], bar, _CMP_GT_OQ))) |
         static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps((__m256)v.c[1], bar, _CMP_GT_OQ))) << 8;
#else
  uint32_t bits = 0;
  constexpr int L = Vec<16>::L;
  for (int i = 0; i < Vec<16>::C; ++i)
    for (int l = 0; l < L; ++l) bits |= static_cast<uint32_t>(v.c[i][l] > least) << (i * L + l);
  return bits;
#endif
}

CROSSFM_NOINLINE void take(const Vec<16>& scores, uint32_t bits, int64_t panel, Best& best) {
  float lanes[16];
  scores.store(lanes);
  for (int l = 0; l < kLanes; ++l) {
    if (!(bits >> l & 1) || !(lanes[l] > best.least)) continue;
    best.keys[best.count++] = key_of(lanes[l], static_cast<uint32_t>(panel * kLanes + l));
    if (best.count == best.room) keep_best(best);
  }
}

// The items of a panel that are there and allowed.
CROSSFM_INLINE uint32_t lanes_of(const Items& items, int64_t panel) {
  const int64_t left = items.count - panel * kLanes;
  const uint32_t there = left >= kLanes ? 0xFFFFu : (1u << left) - 1;
  return items.allowed ? there & items.allowed[panel] : there;
}

// Q queries (packed [d][Q]) against P panels from `panel` on.
template <Storage S, int Q, int P>
CROSSFM_INLINE void pass(const Items& items, int64_t panel, const float* queries, Best* best) {
  const int64_t d = items.d, floats = Stored<S>::floats(d * kLanes);
  const float* x = static_cast<const float*>(items.panels) + panel * floats;
  Vec<16> sums[Q][P];
  for (int q = 0; q < Q; ++q)
    for (int p = 0; p < P; ++p) sums[q][p] = Vec<16>::all(0);
  for (int64_t j = 0; j < d; ++j) {
    Vec<16> numbers[P];
    for (int p = 0; p < P; ++p) numbers[p] = Stored<S>::template load<16>(x + p * floats, j * kLanes);
    for (int q = 0; q < Q; ++q) {
      const Vec<16> times = Vec<16>::all(queries[j * Q + q]);
      for (int p = 0; p < P; ++p) sums[q][p] = sums[q][p] + times * numbers[p];
    }
  }
  for (int q = 0; q < Q; ++q) {
    for (int p = 0; p < P; ++p) {
      const uint32_t bits = above(sums[q][p], best[q].least);
      if (bits) take(sums[q][p], bits & lanes_of(items, panel + p), panel + p, best[q]);
    }
  }
}

template <Storage S, int Q, int P>
CROSSFM_INLINE void pass_all(const Items& items, int64_t begin, int64_t end, const float* queries, Best* best) {
  int64_t panel = begin;
  for (; panel + P <= end; panel += P) pass<S, Q, P>(items, panel, queries, best);
  for (; panel < end; ++panel) pass<S, Q, 1>(items, panel, queries, best);
}

template <Storage S>
void scan_as(const Items& items, int64_t begin, int64_t end, const float* queries, int64_t n_queries, Best* best) {
  const int64_t d = items.d;
  const int64_t grouped = n_queries / kQueries * kQueries;
  constexpr bool unpacks = S != Storage::float32;  // once a tile, not once a query
  Buffer<float> packed(grouped * d), tile_of(unpacks && grouped ? kTile * d * kLanes : 0);
  if (!packed.raw || !tile_of.raw) throw std::bad_alloc();
  for (int64_t q = 0; q < grouped; ++q) {
    float* group = packed.data + q / kQueries * kQueries * d;
    for (int64_t j = 0; j < d; ++j) group[j * kQueries + q % kQueries] = queries[q * d + j];
  }
  for (int64_t tile = begin; tile < end; tile += kTile) {
    const int64_t last = tile + kTile < end ? tile + kTile : end;
    if (grouped) {
      Items near = items;
      if constexpr (unpacks) {
        const float* from = static_cast<const float*>(items.panels) + Stored<S>::floats(tile * d * kLanes);
        for (int64_t i = 0; i < (last - tile) * d; ++i)
          Stored<S>::template load<16>(from, i * kLanes).store(tile_of.data + i * kLanes);
        near.panels = tile_of.data - tile * d * kLanes;  // so that panels keep their numbers
      }
      for (int64_t q = 0; q < grouped; q += kQueries)
        pass_all<Storage::float32, kQueries, kPanels>(near, tile, last, packed.data + q * d, best + q);
    }
    for (int64_t q = grouped; q < n_queries; ++q)
      pass_all<S, 1, 1>(items, tile, last, queries + q * d, best + q);
  }
}

void scan(const Items& items, int64_t begin, int64_t end, const float* queries, int64_t n_queries, Best* best) {
  if (items.storage == Storage::bfloat16) scan_as<Storage::bfloat16>(items, begin, end, queries, n_queries, best);
  else scan_as<Storage::float32>(items, begin, end, queries, n_queries, best);
}

}  // namespace

const ScanKernels& scan_kernels() {
  static constexpr ScanKernels kernels{&scan};
  return kernels;
}

}  // namespace crossfm::CROSSFM_LEVEL
