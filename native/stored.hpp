// Factors in memory, and as the floats that all arithmetic is done in.
#pragma once

#include <cstdint>

#include "kernels.hpp"
#include "rows.hpp"
#include "simd.hpp"

namespace crossfm::CROSSFM_LEVEL {

// Integers of a vector's lanes, to and from floats: what the compiler turns into single
// instructions of the level, or into a loop.
template <class Narrow, int L>
struct Lanes {
#if defined(__GNUC__) || defined(__clang__)
  typedef Narrow type __attribute__((vector_size(L * sizeof(Narrow))));
#else
  struct type { Narrow a[L]; };
#endif
};

template <int L>
CROSSFM_INLINE typename Chunk<L>::type floats_of(const int8_t* p) {
  typename Lanes<int8_t, L>::type narrow;
  std::memcpy(&narrow, p, sizeof narrow);
#if (defined(__GNUC__) || defined(__clang__)) && defined(__AVX512F__)
  if constexpr (L == 16) return (typename Chunk<L>::type)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)narrow));
#endif
#if defined(__GNUC__) || defined(__clang__)
  return __builtin_convertvector(__builtin_convertvector(narrow, typename Lanes<int32_t, L>::type),
                                 typename Chunk<L>::type);
#else
  typename Chunk<L>::type wide;
  for (int l = 0; l < L; ++l) wide[l] = narrow.a[l];
  return wide;
#endif
}

// IEEE half precision. Its bits, shifted to a float's places, are 2^-112 of the number: exact for
// all that are finite, the smallest too.
template <int L>
CROSSFM_INLINE typename Chunk<L>::type floats_of_half(const uint16_t* p) {
  using T = typename Chunk<L>::type;
#if (defined(__GNUC__) || defined(__clang__)) && defined(__AVX512F__)
  if constexpr (L == 16) return (T)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#endif
#if (defined(__GNUC__) || defined(__clang__)) && defined(__F16C__)
  if constexpr (L == 8) return (T)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  if constexpr (L == 4) return (T)_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
#endif
  T wide;
#if defined(__GNUC__) || defined(__clang__)
  typename Lanes<uint16_t, L>::type narrow;
  std::memcpy(&narrow, p, sizeof narrow);
  using U = typename Lanes<uint32_t, L>::type;
  const U bits = __builtin_convertvector(narrow, U);
  const U size = (bits & 0x7FFFu) << 13, sign = (bits & 0x8000u) << 16;
  std::memcpy(&wide, &size, sizeof wide);
  wide = wide * fill<T>(0x1p112f);
  U scaled;
  std::memcpy(&scaled, &wide, sizeof wide);
  scaled |= sign;
  std::memcpy(&wide, &scaled, sizeof wide);
#else
  for (int l = 0; l < L; ++l) {
    const uint32_t size = (p[l] & 0x7FFFu) << 13, sign = (p[l] & 0x8000u) << 16;
    float x;
    std::memcpy(&x, &size, 4);
    x *= 0x1p112f;
    uint32_t scaled;
    std::memcpy(&scaled, &x, 4);
    scaled |= sign;
    std::memcpy(&x, &scaled, 4);
    wide[l] = x;
  }
#endif
  return wide;
}

// How the factors of one feature lie behind a row's pointer to them.
//   floats(n)        the floats that n numbers take
//   kLine            numbers in a cache line
//   load<B>(p, at)   B numbers from number `at` on, before their scale
template <Storage>
struct Stored;

template <>
struct Stored<Storage::float32> {
  static constexpr int kLine = 16;
  static constexpr int64_t floats(int64_t n) { return n; }
  template <int B>
  static CROSSFM_INLINE Vec<B> load(const float* p, int64_t at) { return Vec<B>::load(p + at); }
};

template <>
struct Stored<Storage::float16> {
  static constexpr int kLine = 32;
  static constexpr int64_t floats(int64_t n) { return n / 2; }
  template <int B>
  static CROSSFM_INLINE Vec<B> load(const float* p, int64_t at) {
    Vec<B> v;
    const auto* halves = reinterpret_cast<const uint16_t*>(p) + at;
    for (int i = 0; i < Vec<B>::C; ++i) v.c[i] = floats_of_half<Vec<B>::L>(halves + i * Vec<B>::L);
    return v;
  }
};

template <>
struct Stored<Storage::int8> {
  static constexpr int kLine = 64;
  static constexpr int64_t floats(int64_t n) { return n / 4; }
  template <int B>
  static CROSSFM_INLINE Vec<B> load(const float* p, int64_t at) {
    Vec<B> v;
    const auto* codes = reinterpret_cast<const int8_t*>(p) + at;
    for (int i = 0; i < Vec<B>::C; ++i) v.c[i] = floats_of<Vec<B>::L>(codes + i * Vec<B>::L);
    return v;
  }
};

// The upper half of a float: 8 bits of precision.
template <>
struct Stored<Storage::bfloat16> {
  static constexpr int kLine = 32;
  static constexpr int64_t floats(int64_t n) { return n / 2; }
  template <int B>
  static CROSSFM_INLINE Vec<B> load(const float* p, int64_t at) {
    Vec<B> v;
    constexpr int L = Vec<B>::L;
    const auto* halves = reinterpret_cast<const uint16_t*>(p) + at;
    for (int i = 0; i < Vec<B>::C; ++i) {
#if defined(__GNUC__) || defined(__clang__)
#if defined(__AVX512F__)
      if constexpr (L == 16) {
        const auto wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves + i * L)));
        v.c[i] = (typename Vec<B>::T)_mm512_slli_epi32(wide, 16);
        continue;
      }
#endif
      typename Lanes<uint16_t, L>::type narrow;
      std::memcpy(&narrow, halves + i * L, sizeof narrow);
      const auto bits = __builtin_convertvector(narrow, typename Lanes<uint32_t, L>::type) << 16;
      std::memcpy(&v.c[i], &bits, sizeof bits);
#else
      for (int l = 0; l < L; ++l) v.c[i][l] = wide(halves[i * L + l]);
#endif
    }
    return v;
  }
  static float wide(uint16_t half) {
    const uint32_t bits = uint32_t{half} << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
  }
  static uint16_t narrow(float x, uint32_t random) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return static_cast<uint16_t>((bits + random) >> 16);
  }
};

// 32 bits, each of which depends on all of x (Wellons' lowbias32).
CROSSFM_INLINE uint32_t scrambled(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7FEB352Du;
  x = (x ^ (x >> 15)) * 0x846CA68Bu;
  return x ^ (x >> 16);
}

// How new numbers of a row's features go to memory.
template <int B, Storage M>
struct Store {
  explicit CROSSFM_INLINE Store(uint32_t) {}
  template <bool UPPER>
  CROSSFM_INLINE void put(float* p, int64_t at, const Vec<B>& v, uint32_t) const { v.store(p + at); }
};

// bfloat16 rounds at random, so that the mean over many roundings is the number itself and steps far
// below a unit of the last place are not lost (Gupta et al. 2015): up where the part cut off and 16
// random bits make a whole. Those are the lower half of 32 bits a lane, or (UPPER) the upper one,
// drawn once a row and shifted for each feature.
template <int B>
struct Store<B, Storage::bfloat16> {
  static constexpr int L = Vec<B>::L;
  uint32_t draws[B];

  explicit CROSSFM_INLINE Store(uint32_t turn) {
    for (int l = 0; l < B; ++l) draws[l] = scrambled(turn + static_cast<uint32_t>(l) * 0x9E3779B9u);
  }

  template <bool UPPER>
  CROSSFM_INLINE void put(float* p, int64_t at, const Vec<B>& v, uint32_t shift) const {
    shift += static_cast<uint32_t>(static_cast<uint64_t>(at) / B) * 0x85EBCA6Bu;
    auto* halves = reinterpret_cast<uint16_t*>(p) + at;
    for (int i = 0; i < Vec<B>::C; ++i) {
#if defined(__GNUC__) || defined(__clang__)
      using U = typename Lanes<uint32_t, L>::type;
      U x, bits;
      std::memcpy(&x, draws + i * L, sizeof x);
      x = x + shift;
      std::memcpy(&bits, &v.c[i], sizeof bits);
      bits = (bits + (UPPER ? x >> 16 : x & 0xFFFFu)) >> 16;
#if defined(__AVX512F__)
      if constexpr (L == 16) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(halves + i * L), _mm512_cvtepi32_epi16((__m512i)bits));
        continue;
      }
#endif
      const auto narrow = __builtin_convertvector(bits, typename Lanes<uint16_t, L>::type);
      std::memcpy(halves + i * L, &narrow, sizeof narrow);
#else
      for (int l = 0; l < L; ++l) {
        const uint32_t x = draws[i * L + l] + shift;
        halves[i * L + l] = Stored<Storage::bfloat16>::narrow(v.c[i][l], UPPER ? x >> 16 : x & 0xFFFFu);
      }
#endif
    }
  }
};

// The shift of feature t of a row: of its place in the table and the row's turn, not of the thread
// that makes the update.
CROSSFM_INLINE uint32_t shift_of(const Row& row, int64_t t) {
  const auto place = reinterpret_cast<uintptr_t>(row.p[t]) - reinterpret_cast<uintptr_t>(row.base);
  const uint32_t x = (static_cast<uint32_t>(place / 8) ^ row.turn) * 0x7FEB352Du;
  return (x ^ (x >> 15)) * 0x846CA68Bu;  // so that no two features go up and down together
}

// B factors of feature t of a row, from number `at` on. The scale of int8 lies behind the linear
// weight.
template <int B, Storage S>
CROSSFM_INLINE Vec<B> factors_of(const Row& row, int64_t t, int64_t at) {
  const Vec<B> v = Stored<S>::template load<B>(row.p[t], at);
  if constexpr (S == Storage::int8) return Vec<B>::all(row.w[t][1]) * v;
  return v;
}

// Asks for B numbers of feature t of a row to come, from number `at` on. Called between the
// arithmetic of the row at work, so that the one hides the other's wait; where the row to come is
// shorter, it asks for its first feature again. (A prefetch of any address is harmless.)
template <int B, Storage S = Storage::float32>
CROSSFM_INLINE void fetch(const Row& coming, int64_t t, int64_t at) {
  const float* p = coming.p[t < coming.m ? t : 0] + Stored<S>::floats(at);
  for (int f = 0; f < B; f += Stored<S>::kLine) prefetch(p + Stored<S>::floats(f));
  if constexpr (S == Storage::float16 || S == Storage::int8) prefetch(p + Stored<S>::floats(B) - 1);  // at any address
}

// All factors of a row as floats, for interactions that read them from memory: `out` [m][k].
template <Storage S>
void unpack_as(const Row& row, int k, float* out) {
  for (int64_t t = 0; t < row.m; ++t) {
    for (int b = 0; b < k; b += 4) factors_of<4, S>(row, t, b).store(out + t * k + b);
  }
}

inline void unpack(Storage s, const Row& row, int k, float* out) {
  if (s == Storage::float16) unpack_as<Storage::float16>(row, k, out);
  else if (s == Storage::int8) unpack_as<Storage::int8>(row, k, out);
  else if (s == Storage::bfloat16) unpack_as<Storage::bfloat16>(row, k, out);
}

inline int64_t floats_of(Storage s, int64_t n) {
  return s == Storage::float16 || s == Storage::bfloat16 ? Stored<Storage::float16>::floats(n)
         : s == Storage::int8  ? Stored<Storage::int8>::floats(n) : n;
}

}  // namespace crossfm::CROSSFM_LEVEL
