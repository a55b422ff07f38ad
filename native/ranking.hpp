// Learning to rank: a factorization machine of queries and items, trained on pairs of a query and an
// item that is right for it, against items drawn for it. Level-neutral: bind_ranking.cpp picks one
// RankingKernels table.
//
// With S the sum of x v over a side's features and b_item the item's weights and its features'
// interactions among themselves, score = (what the query has alone) + b_item + <S_query, S_item>.
// Every loss here takes differences of scores of one query, so the first term has no gradient. With
// g_qc the loss's derivative by the score of candidate c for query q, sum_c g_qc = 0,
//   d/dv_t = x_t sum_c g_qc S_c                        for a feature t of the query,
//   d/dv_t = x_t (sum_q g_qc S_q + h_c (S_c - p_t)),   d/dw_t = x_t h_c,   h_c = sum_q g_qc
// for one of candidate c, p_t what its field (interactions "all": the feature) adds to S_c. A feature
// that several have takes one step with the sum.
#pragma once

#include <cstdint>

#include "kernels.hpp"
#include "random.hpp"

namespace crossfm {

enum class RankLoss : int { bpr, warp, softmax };
constexpr int kRankLosses = 3;

// What items are drawn from, and never for whom.
struct Negatives {
  int64_t n_items = 0;
  const int64_t* seen_offsets = nullptr;  // [n_users + 1]
  const int32_t* seen = nullptr;          // items that a user has seen, rising
  const double* share = nullptr;          // [n_items], chance of each; null: all alike
  const float* keep = nullptr;            // [n_items], of its cell in the alias table
  const int32_t* alias = nullptr;         // [n_items]
  const double* unseen_share = nullptr;   // [n_users], chance of all that a user has not seen

  int64_t n_seen(int64_t user) const { return seen_offsets[user + 1] - seen_offsets[user]; }
  double share_of(int64_t item) const { return share ? share[item] : 1.0 / static_cast<double>(n_items); }
};

// Whether a user has seen an item.
static inline bool has_seen(const Negatives& from, int64_t user, int64_t item) {
  int64_t low = from.seen_offsets[user], high = from.seen_offsets[user + 1];
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (from.seen[middle] < item) low = middle + 1;
    else high = middle;
  }
  return low < from.seen_offsets[user + 1] && from.seen[low] == item;
}

constexpr int kTries = 32;

// An item that the user has not seen, by the shares of such items; -1: there is none. `at` counts the
// words of the stream that were used. (Walker 1977's alias table, until an unseen item comes; a user
// who has seen nearly all has the others counted.)
static inline int64_t drawn_negative(const Negatives& from, int64_t user, const Stream& stream, uint64_t& at) {
  if (!(from.unseen_share[user] > 0)) return -1;
  for (int i = 0; i < kTries; ++i) {
    const uint64_t word = stream.word(at++);
    int64_t item = static_cast<int64_t>(((word >> 32) * static_cast<uint64_t>(from.n_items)) >> 32);
    if (from.keep && static_cast<double>(word & 0xFFFFFFFFull) * 0x1p-32 >= from.keep[item]) item = from.alias[item];
    if (!has_seen(from, user, item)) return item;
  }
  double left = stream.uniform(at++) * from.unseen_share[user];
  int64_t next = from.seen_offsets[user], last = -1;
  for (int64_t item = 0; item < from.n_items; ++item) {
    if (next < from.seen_offsets[user + 1] && from.seen[next] == item) {
      ++next;
      continue;
    }
    const double share = from.share_of(item);
    if (share > 0) last = item;
    left -= share;
    if (left < 0) break;
  }
  return last;
}

struct Ranking {
  Batch queries, items;                // ids int64, features of a field together
  int64_t n_queries = 0, n_items = 0, n_pairs = 0;
  const int32_t* field_of = nullptr;   // [n_features]; null: every feature by itself
  const int32_t* query_of = nullptr;   // [n_pairs]
  const int32_t* item_of = nullptr;    // [n_pairs]
  const int32_t* user_of = nullptr;    // [n_pairs], whose seen items the negatives keep off
  const float* weights = nullptr;      // [n_pairs]; null: all ones
  Negatives negatives;
  const float* rank_weights = nullptr; // [n_items + 1], WARP's of a rank: 1 + 1/2 + ... + 1/rank
};

struct RankSteps {
  RankLoss loss = RankLoss::bpr;
  int64_t in_batch = 0;    // softmax: pairs that are each other's negatives; 0: they are drawn
  int n_negatives = 1;     // softmax: drawn for each pair
  int max_trials = 1;      // WARP
  float learning_rate = 0, l2_linear = 0, l2_factors = 0;
  uint64_t seed = 0, epoch = 0;
};

struct RankingKernels {
  // One pass over the pairs order[0..count): AdaGrad on a Table. Returns the weighted sum of losses.
  double (*train)(const Ranking&, const int64_t* order, int64_t count, const Table&, const RankSteps&, int threads);
  // S [n][k] and b [n] of each row of a side, from factors and weights at any distance.
  void (*vectors)(const Batch&, int64_t count, const int32_t* field_of, const Scores&, float* S, float* b, int threads);
};

#define CROSSFM_DECLARE(level) \
  namespace level { const RankingKernels& ranking_kernels(); }
CROSSFM_DECLARE(v2)
CROSSFM_DECLARE(v3)
CROSSFM_DECLARE(v4)
CROSSFM_DECLARE(base)
#undef CROSSFM_DECLARE

}  // namespace crossfm
