// Decimal numbers to integers and to the nearest float32. Plain C++: no Python in here.
//
// Eight bytes are looked at in one step: a byte-wise exclusive or with '0' leaves 0 to 9 where a
// digit stands, and three multiplications join up to eight of them. Lengths vary from token to
// token, so a loop over bytes would be mispredicted at the end of nearly every one.
#pragma once

#include <bit>
#include <cfloat>
#include <cstdint>
#include <cstring>

namespace crossfm {

static_assert(std::endian::native == std::endian::little, "the first digit is the lowest byte");

// Bytes behind a number that the scanners may read, whatever they hold.
constexpr int64_t kSlack = 32;

enum class Scan { ok, malformed, out_of_range };

constexpr int kExactPower = 22;  // largest power of ten that a double holds exactly
inline constexpr double kPowers[kExactPower + 1] = {
    1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
inline constexpr uint64_t kTens[9] = {1,      10,      100,      1000,     10000,
                                      100000, 1000000, 10000000, 100000000};

inline bool is_digit(char c) { return static_cast<unsigned char>(c - '0') < 10; }

inline uint64_t eight_bytes(const char* at) {
  uint64_t word;
  std::memcpy(&word, at, sizeof word);
  return word;
}

// How many of the eight bytes, from the first on, are digits.
inline int leading_digits(uint64_t word) {
  const uint64_t shifted = word ^ 0x3030303030303030;
  // A byte above 9 gets its high bit set; what it carries into later bytes does not matter.
  const uint64_t others = ((shifted + 0x7676767676767676) | shifted) & 0x8080808080808080;
  return std::countr_zero(others) >> 3;
}

// The number that the first n of eight bytes spell, n from 0 to 8.
inline uint64_t digits_value(uint64_t word, int n) {
  const int half = 4 * (8 - n);  // two shifts: one of 64 bits would be undefined
  word = ((word & 0x0F0F0F0F0F0F0F0F) << half) << half;  // zeros in front
  word = word * 10 + (word >> 8);                        // pairs, in every other byte
  return (((word & 0x000000FF000000FF) * 0x000F424000000064 +
           ((word >> 16) & 0x000000FF000000FF) * 0x0000271000000001) >>
          32);
}

// A whole number of any length: what `scan_natural` leaves over.
Scan scan_long_natural(const char*& at, int64_t& out);

// Reads a whole number up to 2^63 - 1 and moves `at` behind it.
inline Scan scan_natural(const char*& at, int64_t& out) {
  const uint64_t word = eight_bytes(at);
  const int n = leading_digits(word);
  if (n == 0) return Scan::malformed;
  if (n == 8) {
    const char* next = at;  // copies, so that what is inlined stays in registers
    int64_t value = 0;
    const Scan scanned = scan_long_natural(next, value);
    at = next;
    out = value;
    return scanned;
  }
  out = static_cast<int64_t>(digits_value(word, n));
  at += n;
  return Scan::ok;
}

// Reads a decimal number, rounded correctly (to nearest, ties to even) to float32, and moves
// `at` behind it. Infinity, NaN and hexadecimal digits are malformed; what would round to
// infinity is out of range; what would round to zero is zero.
Scan scan_float(const char*& at, const char* end, float& out);

// Whether the nearest double, rounded once more, is the nearest float32 too: not where it fell on
// a midpoint of two float32, nor among the subnormal ones, whose midpoints lie elsewhere.
inline bool rounds_twice(double wide) {
  return wide >= static_cast<double>(FLT_MIN) &&
         (std::bit_cast<uint64_t>(wide) & 0x1FFFFFFF) != 0x10000000;
}

// The same for the usual forms, such as -12 and 0.0625, before a space or the end of a line.
// False: another form; `at` has not moved.
inline bool scan_short_float(const char*& at, float& out) {
  const char* next = at;
  const bool negative = *next == '-';
  next += negative;
  uint64_t word, mantissa;
  int whole = 1, places = 0;
  if (is_digit(next[0]) && next[1] == '.') {  // a guess that need not wait for the digits' count
    mantissa = static_cast<uint64_t>(next[0] - '0');
  } else {
    word = eight_bytes(next);
    whole = leading_digits(word);
    if (whole == 0 || whole == 8) return false;
    mantissa = digits_value(word, whole);
  }
  next += whole;
  if (*next == '.') {
    word = eight_bytes(++next);
    const uint64_t more = eight_bytes(next + 8);
    const int first = leading_digits(word);
    const int second = leading_digits(more) & -(first >> 3);  // behind eight digits only
    places = first + second;
    if (whole + places > 16) return false;  // 64 bits hold them all
    mantissa = (mantissa * kTens[first] + digits_value(word, first)) * kTens[second] +
               digits_value(more, second);
    next += places;
  }
  if (*next != ' ' && *next != '\n') return false;
  if (mantissa > uint64_t{1} << 53) return false;
  const double wide = static_cast<double>(mantissa) / kPowers[places];
  if (mantissa != 0 && !rounds_twice(wide)) return false;
  const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(wide));
  out = std::bit_cast<float>(bits ^ static_cast<uint32_t>(negative) << 31);
  at = next;
  return true;
}

}  // namespace crossfm
