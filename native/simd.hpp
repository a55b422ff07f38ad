// Vec<B>: B floats held in registers of the level's width. One thin type, so that the kernels
// stay plain arithmetic. Loads and stores take any address.
#pragma once

#include <cmath>
#include <cstring>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

// Vectors must not pass through memory at a call.
#if defined(__GNUC__) || defined(__clang__)
#define CROSSFM_INLINE inline __attribute__((always_inline))
#define CROSSFM_NOINLINE __attribute__((noinline))
#else
#define CROSSFM_INLINE __forceinline
#define CROSSFM_NOINLINE __declspec(noinline)
#endif

namespace crossfm::CROSSFM_LEVEL {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

#if defined(__GNUC__) || defined(__clang__)
template <int N>
struct Chunk {
  typedef float type __attribute__((vector_size(N * sizeof(float))));
};
#else
template <int N>
struct Chunk {
  struct type {
    float a[N];
    friend type operator+(type x, const type& y) { for (int i = 0; i < N; ++i) x.a[i] += y.a[i]; return x; }
    friend type operator-(type x, const type& y) { for (int i = 0; i < N; ++i) x.a[i] -= y.a[i]; return x; }
    friend type operator*(type x, const type& y) { for (int i = 0; i < N; ++i) x.a[i] *= y.a[i]; return x; }
    friend type operator/(type x, const type& y) { for (int i = 0; i < N; ++i) x.a[i] /= y.a[i]; return x; }
    float& operator[](int i) { return a[i]; }
    float operator[](int i) const { return a[i]; }
  };
};
#endif

// x in every lane.
template <class T>
CROSSFM_INLINE T fill(float x) {
#if defined(__GNUC__) || defined(__clang__)
  return x - T{};
#else
  T r;
  for (float& lane : r.a) lane = x;
  return r;
#endif
}

template <int B>
struct Vec {
  static constexpr int L = B < kWidth ? B : kWidth;
  static constexpr int C = B / L;
  using T = typename Chunk<L>::type;
  T c[C];

  static CROSSFM_INLINE Vec load(const float* p) {
    Vec r;
    for (int i = 0; i < C; ++i) std::memcpy(&r.c[i], p + i * L, sizeof(T));
    return r;
  }
  CROSSFM_INLINE void store(float* p) const {
    for (int i = 0; i < C; ++i) std::memcpy(p + i * L, &c[i], sizeof(T));
  }
  static CROSSFM_INLINE Vec all(float x) {
    Vec r;
    for (int i = 0; i < C; ++i) r.c[i] = fill<T>(x);
    return r;
  }
  friend CROSSFM_INLINE Vec operator+(Vec a, const Vec& b) { for (int i = 0; i < C; ++i) a.c[i] = a.c[i] + b.c[i]; return a; }
  friend CROSSFM_INLINE Vec operator-(Vec a, const Vec& b) { for (int i = 0; i < C; ++i) a.c[i] = a.c[i] - b.c[i]; return a; }
  friend CROSSFM_INLINE Vec operator*(Vec a, const Vec& b) { for (int i = 0; i < C; ++i) a.c[i] = a.c[i] * b.c[i]; return a; }
  friend CROSSFM_INLINE Vec operator/(Vec a, const Vec& b) { for (int i = 0; i < C; ++i) a.c[i] = a.c[i] / b.c[i]; return a; }

  CROSSFM_INLINE float sum() const {
    T t = c[0];
    for (int i = 1; i < C; ++i) t = t + c[i];
    float s = 0;
    for (int l = 0; l < L; ++l) s += t[l];
    return s;
  }
};

// Four vectors of four lanes as one of sixteen, and back; in registers.
CROSSFM_INLINE Vec<16> joined(const Vec<4>* parts) {
  Vec<16> r;
#if (defined(__GNUC__) || defined(__clang__)) && defined(__AVX512F__)
  __m512 all = _mm512_castps128_ps512((__m128)parts[0].c[0]);
  all = _mm512_insertf32x4(all, (__m128)parts[1].c[0], 1);
  all = _mm512_insertf32x4(all, (__m128)parts[2].c[0], 2);
  r.c[0] = (Vec<16>::T)_mm512_insertf32x4(all, (__m128)parts[3].c[0], 3);
#elif (defined(__GNUC__) || defined(__clang__)) && defined(__AVX__)
  for (int i = 0; i < 2; ++i) {
    const __m256 low = _mm256_castps128_ps256((__m128)parts[2 * i].c[0]);
    r.c[i] = (Vec<16>::T)_mm256_insertf128_ps(low, (__m128)parts[2 * i + 1].c[0], 1);
  }
#else
  std::memcpy(&r, parts, sizeof r);
#endif
  return r;
}

CROSSFM_INLINE void split(const Vec<16>& v, Vec<4>* parts) {
#if (defined(__GNUC__) || defined(__clang__)) && defined(__AVX512F__)
  parts[0].c[0] = (Vec<4>::T)_mm512_castps512_ps128((__m512)v.c[0]);
  parts[1].c[0] = (Vec<4>::T)_mm512_extractf32x4_ps((__m512)v.c[0], 1);
  parts[2].c[0] = (Vec<4>::T)_mm512_extractf32x4_ps((__m512)v.c[0], 2);
  parts[3].c[0] = (Vec<4>::T)_mm512_extractf32x4_ps((__m512)v.c[0], 3);
#elif (defined(__GNUC__) || defined(__clang__)) && defined(__AVX__)
  for (int i = 0; i < 2; ++i) {
    parts[2 * i].c[0] = (Vec<4>::T)_mm256_castps256_ps128((__m256)v.c[i]);
    parts[2 * i + 1].c[0] = (Vec<4>::T)_mm256_extractf128_ps((__m256)v.c[i], 1);
  }
#else
  std::memcpy(parts, &v, sizeof v);
#endif
}

// The sum of the parts of N numbers that a vector is made of.
template <int N, int B>
CROSSFM_INLINE Vec<N> folded(const Vec<B>& v) {
  if constexpr (B == N) {
    return v;
  } else if constexpr (B % 32 == 0) {
    Vec<B / 2> low, high;
    constexpr int half = Vec<B>::C / 2;
    for (int i = 0; i < half; ++i) low.c[i] = v.c[i], high.c[i] = v.c[half + i];
    return folded<N>(low + high);
  } else if constexpr (B == 16) {
    Vec<4> parts[4];
    split(v, parts);
    Vec<N> r;
    if constexpr (N == 4) {
      r = (parts[0] + parts[1]) + (parts[2] + parts[3]);
    } else {
      const Vec<4> sums[2] = {parts[0] + parts[2], parts[1] + parts[3]};
      std::memcpy(&r, sums, sizeof r);
    }
    return r;
  } else {  // 8 to 4
    Vec<4> parts[2];
    std::memcpy(parts, &v, sizeof v);
    return parts[0] + parts[1];
  }
}

// The sums of four vectors.
CROSSFM_INLINE Vec<4> sums_of(const Vec<4>* v) {
  Vec<4> r;
#if (defined(__GNUC__) || defined(__clang__)) && defined(__SSE3__)
  const auto of = [&](int i) { return (__m128)v[i].c[0]; };
  r.c[0] = (Vec<4>::T)_mm_hadd_ps(_mm_hadd_ps(of(0), of(1)), _mm_hadd_ps(of(2), of(3)));
#else
  for (int i = 0; i < 4; ++i) r.c[0][i] = v[i].sum();
#endif
  return r;
}

// The parts of 1 / sqrt(a) = 1/2 r e for a > 0: r the chip's estimate (refined once on NEON, whose
// estimate has 8 bits), e = 3 - a r^2 Newton's step. Relative error below 3e-7.
template <int B>
CROSSFM_INLINE void rsqrt_parts(const Vec<B>& a, Vec<B>& r, Vec<B>& e) {
  using T = typename Vec<B>::T;
  [[maybe_unused]] constexpr int L = Vec<B>::L;
  for (int i = 0; i < Vec<B>::C; ++i) {
    const T x = a.c[i];
    T& y = r.c[i];
#if (defined(__GNUC__) || defined(__clang__)) && defined(__AVX512F__)
    if constexpr (L == 16) y = (T)_mm512_maskz_rsqrt14_ps(0xFFFF, (__m512)x);
    if constexpr (L == 8) y = (T)_mm256_rsqrt14_ps((__m256)x);
    if constexpr (L == 4) y = (T)_mm_rsqrt14_ps((__m128)x);
#elif (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#if defined(__AVX__)
    if constexpr (L == 8) y = (T)_mm256_rsqrt_ps((__m256)x);
#endif
    if constexpr (L == 4) y = (T)_mm_rsqrt_ps((__m128)x);
#elif (defined(__GNUC__) || defined(__clang__)) && defined(__ARM_NEON)
    y = (T)vrsqrteq_f32((float32x4_t)x);
    y = fill<T>(0.5f) * y * (fill<T>(3.0f) - (x * y) * y);
#else
    for (int l = 0; l < L; ++l) y[l] = 1.0f / std::sqrt(x[l]);
#endif
    e.c[i] = fill<T>(3.0f) - (x * y) * y;
  }
}

template <int B>
CROSSFM_INLINE Vec<B> rsqrt(const Vec<B>& a) {
  Vec<B> r, e;
  rsqrt_parts(a, r, e);
  return Vec<B>::all(0.5f) * r * e;
}

// Correctly rounded square roots.
template <int B>
CROSSFM_INLINE Vec<B> root(Vec<B> a) {
  [[maybe_unused]] constexpr int L = Vec<B>::L;
  using T = typename Vec<B>::T;
  for (int i = 0; i < Vec<B>::C; ++i) {
    T& x = a.c[i];
#if (defined(__GNUC__) || defined(__clang__)) && defined(__AVX512F__)
    if constexpr (L == 16) { x = (T)_mm512_maskz_sqrt_ps(0xFFFF, (__m512)x); continue; }
#endif
#if (defined(__GNUC__) || defined(__clang__)) && defined(__AVX__)
    if constexpr (L == 8) { x = (T)_mm256_sqrt_ps((__m256)x); continue; }
#endif
#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
    if constexpr (L == 4) { x = (T)_mm_sqrt_ps((__m128)x); continue; }
#endif
    for (int l = 0; l < L; ++l) x[l] = std::sqrt(x[l]);
  }
  return a;
}

// Lane by lane: z moved towards 0 by l1, and 0 where |z| <= l1.
template <int B>
CROSSFM_INLINE Vec<B> shrink(Vec<B> z, float l1) {
  for (int i = 0; i < Vec<B>::C; ++i) {
    typename Vec<B>::T& x = z.c[i];
#if defined(__GNUC__) || defined(__clang__)
    const typename Vec<B>::T low = x + l1, high = x - l1, zero = {};
    x = (high > zero ? high : zero) + (low < zero ? low : zero);
#else
    for (int l = 0; l < Vec<B>::L; ++l) x[l] = x[l] > l1 ? x[l] - l1 : x[l] < -l1 ? x[l] + l1 : 0.0f;
#endif
  }
  return z;
}

CROSSFM_INLINE void prefetch(const void* p) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(p, 1, 3);
#elif defined(_M_X64)
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
#else
  (void)p;
#endif
}

// Into the second level of the cache: for rows whose lines would push each other out of the first.
CROSSFM_INLINE void prefetch_far(const void* p) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(p, 1, 2);
#elif defined(_M_X64)
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
#else
  (void)p;
#endif
}

// For lines that will only be read: other cores keep theirs.
CROSSFM_INLINE void prefetch_read(const void* p) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(p, 0, 3);
#else
  prefetch(p);
#endif
}

}  // namespace crossfm::CROSSFM_LEVEL
