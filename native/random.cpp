#include "random.hpp"

#include <cmath>
#include <limits>

namespace crossfm {
namespace {

Ziggurat make_ziggurat() {
  // Start of the tail and area of a layer for 256 layers (Marsaglia and Tsang 2000).
  constexpr double kTail = 3.6541528853610088, kArea = 4.92867323399e-3;
  Ziggurat z;
  z.tail = kTail;
  const auto density = [](double x) { return std::exp(-0.5 * x * x); };
  z.edge[0] = kArea / density(kTail);  // the lowest layer holds the tail: a wider box
  z.edge[1] = kTail;
  z.height[0] = 0;
  z.height[1] = density(kTail);
  for (int i = 2; i < Ziggurat::kLayers; ++i) {
    z.edge[i] = std::sqrt(-2 * std::log(kArea / z.edge[i - 1] + z.height[i - 1]));
    z.height[i] = density(z.edge[i]);
  }
  z.edge[Ziggurat::kLayers] = 0;
  z.height[Ziggurat::kLayers] = 1;
  return z;
}

}  // namespace

const Ziggurat& ziggurat() {
  static const Ziggurat tables = make_ziggurat();
  return tables;
}

double normal_rest(uint64_t word) {
  const Ziggurat& z = ziggurat();
  const Stream more{mix(word ^ kGolden)};
  for (uint64_t i = 0;;) {
    const int layer = static_cast<int>(word & 255);
    const double u = static_cast<double>(static_cast<int64_t>(word) >> 11) * 0x1p-52;
    const double x = u * z.edge[layer];
    if (std::abs(x) < z.edge[layer + 1]) return x;
    if (layer == 0) {  // the tail: Marsaglia's way from two exponentials
      for (;;) {
        const double a = -std::log(more.uniform(i)) / z.tail, b = -std::log(more.uniform(i + 1));
        i += 2;
        if (b + b > a * a) return u < 0 ? -z.tail - a : z.tail + a;
      }
    }
    const double y = z.height[layer] + more.uniform(i++) * (z.height[layer + 1] - z.height[layer]);
    if (y < std::exp(-0.5 * x * x)) return x;
    word = more.word(i++);
  }
}

double normal_cdf(double x) { return 0.5 * std::erfc(-x * 0.70710678118654752440); }

// The rational start of Abramowitz and Stegun 26.2.23, made exact by Halley's method.
double normal_quantile(double p) {
  if (p > 0.5) return -normal_quantile(1 - p);
  if (p <= 0) return -std::numeric_limits<double>::infinity();
  const double t = std::sqrt(-2 * std::log(p));
  double x = -(t - (2.515517 + t * (0.802853 + t * 0.010328)) /
                       (1 + t * (1.432788 + t * (0.189269 + t * 0.001308))));
  for (int i = 0; i < 2; ++i) {
    // Relative to the tail itself, so that nothing underflows before p does.
    const double density = 0.39894228040143267794 * std::exp(-0.5 * x * x);
    const double step = (normal_cdf(x) - p) / density;
    x -= step / (1 + 0.5 * x * step);
  }
  return x;
}

double truncated_normal(double mean, double low, double high, double u) {
  double a = low - mean, b = high - mean;
  const bool turned = a > 0;  // work in the lower tail, where probabilities keep their digits
  if (turned) {
    const double t = a;
    a = -b;
    b = -t;
  }
  double x;
  if (b < -37) {
    // Beyond what a double holds the tail is an exponential with rate |b|.
    const double rate = -b, width = b - a;
    const double mass = width * rate < 700 ? -std::expm1(-width * rate) : 1.0;
    x = b + std::log1p(-u * mass) / rate;
  } else {
    const double pa = normal_cdf(a), pb = normal_cdf(b);
    x = normal_quantile(pa + u * (pb - pa));
    if (x < a) x = a;
    if (x > b) x = b;
  }
  return mean + (turned ? -x : x);
}

}  // namespace crossfm
