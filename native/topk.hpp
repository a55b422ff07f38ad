// Top-k by inner product: what the scan over items takes and gives. Level-neutral.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels.hpp"

namespace crossfm {

// Items stand in panels of kLanes: d numbers of the first dimension of each, then of the second ...
constexpr int kLanes = 16;

struct Items {
  const void* panels = nullptr;       // [panels][d][kLanes], float32 or bfloat16
  Storage storage = Storage::float32;
  int64_t count = 0;
  int64_t d = 0;
  const uint16_t* allowed = nullptr;  // [panels], a bit an item; null: all
};

// The best items of one query so far, each one number that sorts by rising score and falling place.
struct Best {
  uint64_t* keys = nullptr;  // [room]
  int64_t count = 0, room = 0;
  int64_t k = 0;
  float least;  // what a further item must exceed; scores below every float at first
};

// Keep the k best, and set `least`. No template of the standard library is compiled by level.
void keep_best(Best& best);

// Rising with the score, and for equal ones falling with the place.
static inline uint64_t key_of(float score, uint32_t place) {
  uint32_t bits;
  std::memcpy(&bits, &score, sizeof bits);
  bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(bits) << 32 | (0xFFFFFFFFu - place);
}

static inline float score_of(uint64_t key) {
  uint32_t bits = static_cast<uint32_t>(key >> 32);
  bits = bits & 0x80000000u ? bits & 0x7FFFFFFFu : ~bits;
  float score;
  std::memcpy(&score, &bits, sizeof score);
  return score;
}

static inline int64_t place_of(uint64_t key) { return 0xFFFFFFFFu - static_cast<uint32_t>(key); }

struct ScanKernels {
  // Items of the panels begin..end against n_queries queries [n_queries][d].
  void (*scan)(const Items&, int64_t begin, int64_t end, const float* queries, int64_t n_queries, Best*);
};

#define CROSSFM_DECLARE_SCAN(level) \
  namespace level { \
  const ScanKernels& scan_kernels(); \
  }
CROSSFM_DECLARE_SCAN(v2)
CROSSFM_DECLARE_SCAN(v3)
CROSSFM_DECLARE_SCAN(v4)
CROSSFM_DECLARE_SCAN(base)
#undef CROSSFM_DECLARE_SCAN

}  // namespace crossfm
