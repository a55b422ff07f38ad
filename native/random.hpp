// Counter-based random numbers: word i of a stream is a function of (key, i) alone, so that a
// result does not depend on which thread asks for it, or when. A stream is SplitMix64 (Steele, Lea
// and Flood, OOPSLA 2014) read at any place; normals are by the ziggurat of Marsaglia and Tsang
// (2000) with 256 layers.
#pragma once

#include <cstdint>

namespace crossfm {

constexpr uint64_t kGolden = 0x9E3779B97F4A7C15ull;

static inline uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

struct Stream {
  uint64_t key;

  // What a stream is for: a seed and up to three numbers that tell it from others.
  static Stream of(uint64_t seed, uint64_t a, uint64_t b = 0, uint64_t c = 0) {
    uint64_t key = mix(seed + kGolden);
    key = mix(key ^ mix(a + kGolden));
    key = mix(key ^ mix(b + kGolden));
    return {mix(key ^ mix(c + kGolden))};
  }
  uint64_t word(uint64_t i) const { return mix(key + (i + 1) * kGolden); }
  // Uniform in (0, 1), never an end of it.
  double uniform(uint64_t i) const { return (static_cast<double>(word(i) >> 12) + 0.5) * 0x1p-52; }
};

// Layers of equal area under exp(-x^2 / 2): edge[i] falls from the tail's start to 0.
struct Ziggurat {
  static constexpr int kLayers = 256;
  double edge[kLayers + 1], height[kLayers + 1];
  double tail;
};
const Ziggurat& ziggurat();

// The rare way out of the ziggurat: layers' corners and the tail.
double normal_rest(uint64_t word);

// Standard normal number i of a stream.
static inline double normal(const Stream& stream, uint64_t i, const Ziggurat& z) {
  const uint64_t word = stream.word(i);
  const int layer = static_cast<int>(word & 255);
  // 53 bits and a sign, apart from the layer's bits.
  const double u = static_cast<double>(static_cast<int64_t>(word) >> 11) * 0x1p-52;  // [-1, 1)
  const double x = u * z.edge[layer];
  if (x < z.edge[layer + 1] && -x < z.edge[layer + 1]) return x;
  return normal_rest(word);
}

// Standard normal distribution function and its inverse, to double precision in the lower tail.
double normal_cdf(double x);
double normal_quantile(double p);

// A standard normal number shifted to `mean`, given that it lies in (low, high), from one uniform.
double truncated_normal(double mean, double low, double high, double u);

}  // namespace crossfm
