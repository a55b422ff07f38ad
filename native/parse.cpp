#include "parse.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>

namespace crossfm {
namespace {

constexpr int kExactPower = 22;  // largest power of ten that a double holds exactly
constexpr double kPowers[kExactPower + 1] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                             1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                             1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
constexpr int kMantissaDigits = 19;  // that always fit in 64 bits
constexpr int kCompareDigits = 200;  // a midpoint of two float32 has fewer
constexpr size_t kShown = 40;        // bytes of a token in an error

inline bool is_digit(char c) { return static_cast<unsigned char>(c - '0') < 10; }
inline bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r' && c != '\n'); }
inline bool ends_token(const char* at, const char* end) {
  return at == end || is_space(*at) || *at == '#';
}

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

inline Scan scan_integer(const char*& at, const char* end, int64_t& out) {
  constexpr uint64_t most = std::numeric_limits<int64_t>::max();
  const char* start = at;
  uint64_t value = 0;
  for (; at < end && is_digit(*at); ++at) {
    const uint64_t digit = static_cast<uint64_t>(*at - '0');
    if (value >= most / 10 && (value > most / 10 || digit > most % 10)) return Scan::out_of_range;
    value = value * 10 + digit;
  }
  out = static_cast<int64_t>(value);
  return at > start ? Scan::ok : Scan::malformed;
}

class Parser {
 public:
  Parser(const TextOptions& options, ParsedText& out, TextError& error)
      : options_(options), out_(out), error_(error) {}

  bool run(const char* at, const char* end) {
    reserve(at, end);
    out_.offsets.push_back(0);
    for (; at < end; ++out_.n_lines) {
      const void* found = std::memchr(at, '\n', static_cast<size_t>(end - at));
      const char* stop = found ? static_cast<const char*>(found) : end;
      if (!line(at, stop)) return false;
      at = stop + (found != nullptr);
    }
    return true;
  }

 private:
  // Every feature has a colon and takes at least four bytes.
  void reserve(const char* at, const char* end) {
    const auto most = (end - at) / (options_.with_fields ? 6 : 4) + 1;
    const auto colons = std::count(at, end, ':') / (options_.with_fields ? 2 : 1);
    const auto rows = std::min(std::count(at, end, '\n'), (end - at) / 2) + 1;
    out_.ids.reserve(static_cast<size_t>(std::min(most, colons)));
    if (options_.with_fields) out_.fields.reserve(static_cast<size_t>(std::min(most, colons)));
    out_.offsets.reserve(static_cast<size_t>(rows) + 1);
    out_.targets.reserve(static_cast<size_t>(rows));
  }

  bool line(const char* start, const char* end) {
    const char* at = skip(start, end);
    if (at == end || *at == '#') return true;
    line_start_ = start;
    line_end_ = end;
    const char* token = at;
    float target;
    const Scan scanned = scan_float(at, end, target);
    if (scanned == Scan::out_of_range) return fail(token, "a label within the range of float32");
    if (scanned != Scan::ok || !ends_token(at, end)) return fail(token, "a number as the label");
    at = skip(at, end);
    if (!qid(at)) return false;
    for (at = skip(at, end); at < end && *at != '#'; at = skip(at, end)) {
      if (!feature(at)) return false;
    }
    const int64_t nnz = out_.nnz(), length = nnz - out_.offsets.back();
    if (out_.targets.empty()) out_.row_length = length;
    if (out_.row_length != length) out_.row_length = -1;
    out_.offsets.push_back(nnz);
    out_.targets.push_back(target);
    return true;
  }

  static const char* skip(const char* at, const char* end) {
    while (at < end && is_space(*at)) ++at;
    return at;
  }

  bool qid(const char*& at) {
    const char* token = at;
    const bool here = line_end_ - at >= 4 && std::memcmp(at, "qid:", 4) == 0;
    if (here != (out_.qids.size() > 0) && out_.targets.size() > 0) {
      return fail(token, here ? "no qid, as on the lines before" : "qid:n, as on the lines before");
    }
    if (!here) return true;
    at += 4;
    int64_t number;
    if (scan_integer(at, line_end_, number) != Scan::ok || !ends_token(at, line_end_)) {
      return fail(token, "qid:n with a whole number n");
    }
    out_.qids.push_back(number);
    return true;
  }

  bool feature(const char*& at) {
    const char* token = at;
    const char* form = options_.with_fields ? "field:id:value" : "id:value";
    int64_t field = 0, id = 0;
    float value;
    if (options_.with_fields) {
      const Scan scanned = scan_integer(at, line_end_, field);
      if (scanned == Scan::out_of_range ||
          (scanned == Scan::ok && field > std::numeric_limits<int32_t>::max())) {
        return fail(token, "a field of at most 2147483647");
      }
      if (scanned != Scan::ok || at == line_end_ || *at++ != ':') return fail(token, form);
    }
    Scan scanned = scan_integer(at, line_end_, id);
    if (scanned == Scan::out_of_range) return fail(token, "an id of at most 9223372036854775807");
    if (scanned != Scan::ok || at == line_end_ || *at++ != ':') return fail(token, form);
    scanned = scan_float(at, line_end_, value);
    if (scanned == Scan::out_of_range) return fail(token, "a value within the range of float32");
    if (scanned != Scan::ok || !ends_token(at, line_end_)) {
      return fail(token, std::string(form) + " with a finite value");
    }
    id -= options_.first_id;
    if (id < 0) return fail(token, "ids that begin at " + std::to_string(options_.first_id));
    if (options_.n_features >= 0 && id >= options_.n_features) {
      return fail(token, "an id of at most " +
                             std::to_string(options_.n_features - 1 + options_.first_id) +
                             " (n_features=" + std::to_string(options_.n_features) + ")");
    }
    if (value != 1.0f && !out_.has_values) {
      out_.has_values = true;
      out_.values.reserve(std::max(out_.ids.capacity(), out_.wide_ids.capacity()));
      out_.values.assign(static_cast<size_t>(out_.nnz()), 1.0f);
    }
    if (out_.has_values) out_.values.push_back(value);
    if (options_.with_fields) out_.fields.push_back(static_cast<int32_t>(field));
    if (!out_.wide && id > std::numeric_limits<int32_t>::max()) {
      out_.wide = true;
      out_.wide_ids.reserve(out_.ids.capacity());
      out_.wide_ids.assign(out_.ids.begin(), out_.ids.end());
      std::vector<int32_t>().swap(out_.ids);
    }
    if (out_.wide) {
      out_.wide_ids.push_back(id);
    } else {
      out_.ids.push_back(static_cast<int32_t>(id));
    }
    return true;
  }

  bool fail(const char* token, std::string expected) {
    const char* stop = token;
    while (stop < line_end_ && !is_space(*stop) && *stop != '#') ++stop;
    error_.line = options_.first_line + out_.n_lines;
    error_.column = token - line_start_ + 1;
    error_.found.assign(token, std::min(static_cast<size_t>(stop - token), kShown));
    error_.expected = std::move(expected);
    return false;
  }

  const TextOptions& options_;
  ParsedText& out_;
  TextError& error_;
  const char* line_start_ = nullptr;
  const char* line_end_ = nullptr;
};

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
      uint64_t bits;
      std::memcpy(&bits, &wide, sizeof bits);
      // `wide` is the nearest double. Rounding it once more is right, except where it fell on a
      // midpoint of two float32, and among the subnormal ones, whose midpoints lie elsewhere.
      settled = wide >= static_cast<double>(FLT_MIN) && (bits & 0x1FFFFFFF) != 0x10000000;
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

bool parse_text(const char* begin, const char* end, const TextOptions& options, ParsedText& out,
                TextError& error) {
  return Parser(options, out, error).run(begin, end);
}

}  // namespace crossfm
