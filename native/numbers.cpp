#include "numbers.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>

namespace crossfm {
namespace {

constexpr int kMantissaDigits = 19;  // that always fit in 64 bits
constexpr int kCompareDigits = 200;  // a midpoint of two float32 has fewer

// A natural number of at most 2,048 bits: enough for both sides of the comparison below.
class Natural {
 public:
  explicit Natural(uint64_t value) {
    words_[0] = static_cast<uint32_t>(value);
    words_[1] = static_cast<uint32_t>(value >> 32);
    size_ = 2;
  }
  void multiply_add(uint32_t factor, uint32_t plus) {
    uint64_t carry = plus;
    for (int i = 0; i < size_; ++i) {
      carry += static_cast<uint64_t>(words_[i]) * factor;
      words_[i] = static_cast<uint32_t>(carry);
      carry >>= 32;
    }
    if (carry && size_ < kWords) words_[size_++] = static_cast<uint32_t>(carry);
  }
  void times_power(uint32_t base, int64_t exponent) {
    for (; exponent > 0; --exponent) multiply_add(base, 0);
  }
  int compare(const Natural& other) const {
    for (int i = kWords - 1; i >= 0; --i) {
      if (words_[i] != other.words_[i]) return words_[i] < other.words_[i] ? -1 : 1;
    }
    return 0;
  }

 private:
  static constexpr int kWords = 64;
  uint32_t words_[kWords] = {};
  int size_ = 0;
};

// Sign of (the decimal number in [at, end), times 10^exponent) - midpoint.
int compare_exactly(const char* at, const char* end, int64_t exponent, double midpoint) {
  Natural decimal(0);
  int taken = 0;
  bool after_point = false, more = false;
  for (; at < end; ++at) {
    if (*at == '.') {
      after_point = true;
    } else if (taken == kCompareDigits) {
      more |= *at != '0';
      exponent += !after_point;
    } else {
      decimal.multiply_add(10, static_cast<uint32_t>(*at - '0'));
      taken += taken > 0 || *at != '0';
      exponent -= after_point;
    }
  }
  if (more) {  // strictly between two decimals of this length, as no midpoint is
    decimal.multiply_add(10, 1);
    --exponent;
  }
  int binary = 0;
  const double fraction = std::frexp(midpoint, &binary);
  Natural other(static_cast<uint64_t>(std::ldexp(fraction, 53)));
  binary -= 53;
  (exponent > 0 ? decimal : other).times_power(10, std::abs(exponent));
  (binary > 0 ? other : decimal).times_power(2, std::abs(binary));
  return decimal.compare(other);
}

// The number near a boundary between two float32, or with many digits, or tiny, or huge.
// mantissa * 10^exponent approximates it to 19 digits; magnitude is the decimal position of
// its first digit; digits and explicit_exponent are its text.
float round_slowly(uint64_t mantissa, int64_t exponent, int64_t magnitude, const char* digits,
                   const char* digits_end, int64_t explicit_exponent) {
  if (magnitude > 39) return std::numeric_limits<float>::infinity();
  if (magnitude < -45) return 0.0f;
  double near = static_cast<double>(mantissa);
  for (int64_t left = std::abs(exponent); left > 0; left -= kExactPower) {
    const double power = kPowers[std::min<int64_t>(left, kExactPower)];
    near = exponent < 0 ? near / power : near * power;
  }
  float low = near >= static_cast<double>(FLT_MAX) ? FLT_MAX : static_cast<float>(near);
  if (static_cast<double>(low) > near) low = std::nextafter(low, 0.0f);
  const double high = low == FLT_MAX ? std::ldexp(1.0, 128)
                                     : static_cast<double>(std::nextafter(low, FLT_MAX));
  const double midpoint = 0.5 * (static_cast<double>(low) + high);  // exact
  const double far = near - midpoint;
  int sign = far > 0 ? 1 : -1;
  if (std::fabs(far) <= 1e-14 * near) {  // `near` is right to a few parts in 10^16
    sign = compare_exactly(digits, digits_end, explicit_exponent, midpoint);
  }
  if (sign == 0) {  // a tie: to even
    uint32_t bits;
    std::memcpy(&bits, &low, sizeof bits);
    sign = bits & 1 ? 1 : -1;
  }
  if (sign < 0) return low;
  return low == FLT_MAX ? std::numeric_limits<float>::infinity() : static_cast<float>(high);
}

}  // namespace

Scan scan_float(const char*& at, const char* end, float& out) {
  bool negative = false;
  if (at < end && (*at == '-' || *at == '+')) negative = *at++ == '-';
  const char* digits = at;
  uint64_t mantissa = 0;
  int64_t exponent = 0, n_digits = 0;
  int significant = 0;  // digits in the mantissa, leading zeros not counted
  for (; at < end && is_digit(*at); ++at, ++n_digits) {
    if (significant < kMantissaDigits) {
      mantissa = mantissa * 10 + static_cast<uint64_t>(*at - '0');
      significant += mantissa != 0;
    } else {
      ++exponent;
    }
  }
  if (at < end && *at == '.') {
    for (++at; at < end && is_digit(*at); ++at, ++n_digits) {
      if (significant < kMantissaDigits) {
        mantissa = mantissa * 10 + static_cast<uint64_t>(*at - '0');
        significant += mantissa != 0;
        --exponent;
      }
    }
  }
  if (n_digits == 0) return Scan::malformed;
  const char* digits_end = at;
  int64_t explicit_exponent = 0;
  if (at < end && (*at == 'e' || *at == 'E')) {
    ++at;
    bool below = false;
    if (at < end && (*at == '-' || *at == '+')) below = *at++ == '-';
    if (at == end || !is_digit(*at)) return Scan::malformed;
    for (; at < end && is_digit(*at); ++at) {
      // Past this limit the number is zero or infinite, however many digits stand before it.
      if (explicit_exponent < (int64_t{1} << 52)) {
        explicit_exponent = explicit_exponent * 10 + (*at - '0');
      }
    }
    if (below) explicit_exponent = -explicit_exponent;
    exponent += explicit_exponent;
  }
  float value;
  const bool short_enough = mantissa <= (uint64_t{1} << 53) && significant < kMantissaDigits;
  if (mantissa == 0) {
    value = 0.0f;
  } else {
    bool settled = false;
    if (short_enough && exponent >= -kExactPower && exponent <= kExactPower) {
      const double exact = static_cast<double>(mantissa);
      const double wide = exponent < 0 ? exact / kPowers[-exponent] : exact * kPowers[exponent];
      settled = rounds_twice(wide);
      value = static_cast<float>(wide);
    }
    if (!settled) {
      value = round_slowly(mantissa, exponent, exponent + significant, digits, digits_end,
                           explicit_exponent);
    }
  }
  if (value > FLT_MAX) return Scan::out_of_range;
  out = negative ? -value : value;
  return Scan::ok;
}

Scan scan_long_natural(const char*& at, int64_t& out) {
  constexpr uint64_t most = std::numeric_limits<int64_t>::max();
  const char* start = at;
  uint64_t value = 0;
  for (; is_digit(*at); ++at) {
    const uint64_t digit = static_cast<uint64_t>(*at - '0');
    if (value >= most / 10 && (value > most / 10 || digit > most % 10)) return Scan::out_of_range;
    value = value * 10 + digit;
  }
  out = static_cast<int64_t>(value);
  return at > start ? Scan::ok : Scan::malformed;
}

}  // namespace crossfm
