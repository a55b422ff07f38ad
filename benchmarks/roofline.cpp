// The bytes that an FM's training or scoring must move, moved and nothing else: the bound that
// benchmarks.roofline holds the kernels against. Plain C interface; compiled when it is needed.
#include <cstdint>
#include <cstring>

namespace {

typedef float Line __attribute__((vector_size(64)));  // one cache line

// A register's worth in and, where asked, out again; the compiler may not leave either away.
template <bool WRITE>
inline void move_line(float* p) {
  Line v;
  std::memcpy(&v, p, sizeof v);
  asm volatile("" : "+x"(v));
  if (WRITE) std::memcpy(p, &v, sizeof v);
}

template <bool WRITE>
inline void move_word(float* p) {
  float v = *p;
  asm volatile("" : "+x"(v));
  if (WRITE) *p = v;
}

template <bool WRITE>
void visit(int64_t count, const int64_t* order, int64_t m, const int32_t* ids, float* factors,
           int64_t stride, float* linear, int64_t linear_stride, int64_t ahead) {
  const auto row = [&](int64_t i) { return ids + (order ? order[i] : i) * m; };
  for (int64_t i = 0; i < count; ++i) {
    if (i + 4 * ahead < count) {
      const char* next = reinterpret_cast<const char*>(row(i + 4 * ahead));
      for (int64_t b = 0; b < m * 4 + 63; b += 64) __builtin_prefetch(next + b, 0, 3);
    }
    const int32_t* here = row(i);
    const int32_t* coming = row(i + ahead < count ? i + ahead : i);
    for (int64_t t = 0; t < m; ++t) {
      const float* p = factors + coming[t] * stride;
      for (int64_t f = 0; f < stride; f += 16) __builtin_prefetch(p + f, WRITE, 3);
      __builtin_prefetch(linear + coming[t] * linear_stride, WRITE, 3);
      float* v = factors + here[t] * stride;
      for (int64_t f = 0; f < stride; f += 16) move_line<WRITE>(v + f);
      float* w = linear + here[t] * linear_stride;
      for (int64_t f = 0; f < linear_stride; ++f) move_word<WRITE>(w + f);
    }
  }
}

}  // namespace

extern "C" void crossfm_move(int64_t count, const int64_t* order, int64_t m, const int32_t* ids,
                             float* factors, int64_t stride, float* linear, int64_t linear_stride,
                             int64_t ahead, int write) {
  if (write) visit<true>(count, order, m, ids, factors, stride, linear, linear_stride, ahead);
  else visit<false>(count, order, m, ids, factors, stride, linear, linear_stride, ahead);
}
