// The loss of one row and its gradient by the scores: the one place where the trainer knows losses.
// crossfm/losses.py has the same formulas in float64.
#pragma once

#include <cmath>

#include "kernels.hpp"
#include "simd.hpp"

namespace crossfm::CROSSFM_LEVEL {

// exp(z) goes on as its tangent from here on, so that its square still is a float32 number.
constexpr float kPoissonTop = 30;

// What squared and logistic, the usual ones, leave over. (A call: inlined it would take registers
// from them.) The derivative of a loss with a corner is 0 in the corner.
CROSSFM_NOINLINE inline double other_loss(Loss loss, const float* z, int outputs, float target, float weight,
                                          float parameter, float* g) {
  double value = 0;
  if (loss == Loss::softmax) {
    float top = z[0], total = 0;
    for (int c = 1; c < outputs; ++c) top = z[c] > top ? z[c] : top;
    for (int c = 0; c < outputs; ++c) total += g[c] = std::exp(z[c] - top);
    const int label = static_cast<int>(target);
    value = std::log(total) + top - z[label];
    for (int c = 0; c < outputs; ++c) g[c] = weight * (g[c] / total - (c == label ? 1.0f : 0.0f));
  } else if (loss == Loss::hinge) {  // of several outputs each is one class against the rest
    const int label = static_cast<int>(target);
    for (int c = 0; c < outputs; ++c) {
      const float sign = (outputs == 1 ? label == 1 : label == c) ? 1.0f : -1.0f;
      const float lack = 1.0f - sign * z[c];
      g[c] = lack > 0 ? -weight * sign : 0.0f;
      // Compared from the other side a NaN passes on: a diverged score must not look like no loss.
      value += lack < 0 ? 0.0f : lack;
    }
  } else if (loss == Loss::huber) {  // parameter: from which residual on it is linear
    const float residual = z[0] - target;
    const float slope = residual > parameter ? parameter : residual < -parameter ? -parameter : residual;
    g[0] = weight * slope;
    value = double{slope} * (double{residual} - 0.5 * slope);
  } else if (loss == Loss::poisson) {  // half the deviance: 0 where exp(z) is the target
    const float low = z[0] > kPoissonTop ? kPoissonTop : z[0];
    const double mean = std::exp(double{low});
    g[0] = weight * static_cast<float>(mean - target);
    value = mean * (1.0 + (double{z[0]} - low)) - double{target} * z[0];
    if (target > 0) value += target * (std::log(double{target}) - 1.0);
  } else {  // quantile; parameter: its level
    const float residual = target - z[0];
    g[0] = residual > 0 ? -weight * parameter : residual < 0 ? weight * (1.0f - parameter) : 0.0f;
    value = residual > 0 ? parameter * residual : (parameter - 1.0f) * residual;
  }
  return static_cast<float>(value);  // as for the logistic loss below
}

// Weighted loss of the scores z; g becomes its gradient.
CROSSFM_INLINE double loss_and_gradient(const Steps& steps, const float* z, int outputs, float target, float weight,
                                        float* g) {
  double value = 0;
  if (steps.loss == Loss::squared) {
    const float residual = z[0] - target;
    g[0] = weight * residual;
    value = 0.5 * double{residual} * residual;
  } else if (steps.loss == Loss::logistic) {
    const float e = std::exp(-std::fabs(z[0]));
    const float probability = (z[0] >= 0 ? 1.0f : e) / (1.0f + e);
    g[0] = weight * (probability - target);
    // The logarithm of a double is quicker than log1p. Each row's loss is a float: their sum in
    // double is exact then, wherever a pass is cut.
    value = static_cast<float>(std::log(1.0 + e)) + (z[0] > 0 ? z[0] : 0.0f) - z[0] * target;
  } else {
    value = other_loss(steps.loss, z, outputs, target, weight, steps.loss_parameter, g);
  }
  return weight * value;
}

}  // namespace crossfm::CROSSFM_LEVEL
