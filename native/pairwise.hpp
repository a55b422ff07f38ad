// The pairwise operator on plain float32 tables [n_features][k]: what its kernels take and offer.
// Level-neutral: bind_fm.cpp picks one PairKernels table at import.
//
//   linear_r = sum_i w_i x_i,  S_r = sum_i x_i v_i,  crossed_r = 1/2 (S^2 - sum_q q^2)
//
// where q runs over the features, q_i = x_i v_i, or (across_fields) over the fields of the row,
// q_f = sum of its features' x_i v_i.
#pragma once

#include <cstdint>

namespace crossfm {

// The first thing wrong with a batch. Positions count ids, offsets or fields, whichever it names.
struct Problem {
  enum Kind : int { none, id, offset, field } kind = none;
  int64_t position = 0;
  explicit operator bool() const { return kind != none; }
};

// A batch of rows as tensors give it. Only lengths are checked when it is made: the forward pass
// and the grouping check ids, offsets and fields before they use them.
struct PairBatch {
  const void* ids = nullptr;
  const float* values = nullptr;     // null: all ones
  const int64_t* offsets = nullptr;  // null: row_length features in every row
  const void* fields = nullptr;      // null: not needed
  int64_t row_length = 0;
  int64_t n_rows = 0, nnz = 0;
  int64_t n_features = 0, n_fields = 0;
  bool wide_ids = false, wide_fields = false;  // int64, else int32
  bool fields_by_column = false;               // [row_length], else [nnz]

  int64_t begin(int64_t row) const { return offsets ? offsets[row] : row * row_length; }
  int64_t end(int64_t row) const { return offsets ? offsets[row + 1] : (row + 1) * row_length; }
  // Field of the feature at `position`, which lies in the row that starts at `begin`.
  int64_t field(int64_t position, int64_t begin) const {
    const int64_t at = fields_by_column ? position - begin : position;
    return wide_fields ? static_cast<const int64_t*>(fields)[at] : static_cast<const int32_t*>(fields)[at];
  }
};

struct PairTable {
  float* weights = nullptr;  // [n_features], or null
  float* factors = nullptr;  // [n_features][k]
  int64_t k = 0;
};

struct PairForward {
  bool across_fields = false;
  bool reduce_sum = true;
  float* linear = nullptr;   // [n_rows]
  float* crossed = nullptr;  // [n_rows], or [n_rows][k] without reduce_sum
  float* pooled = nullptr;   // [n_rows][n_fields][k], or null
  float* S = nullptr;        // [n_rows][k]
};

// Occurrences of features, sorted by id and, within an id, by position.
struct GroupView {
  const uint64_t* entries = nullptr;  // [nnz], id << 32 | mark
  const uint32_t* starts = nullptr;   // [count + 1], first entry of each distinct id
  const uint32_t* row_of = nullptr;   // row of a position; null: marks are rows, not positions
  const int32_t* pool_of = nullptr;   // pool of a position, -1 where a feature is its field's only one
  const float* pools = nullptr;       // [pools][k], sum of x v over the pool
  int64_t count = 0, nnz = 0;
};

// Gradients of the outputs; null where there is none.
struct PairGradients {
  const float* linear = nullptr;   // [n_rows]
  const float* crossed = nullptr;  // [n_rows], or [n_rows][k] without reduce_sum
  const float* pooled = nullptr;   // [n_rows][n_fields][k]
  const float* sum = nullptr;      // [n_rows][k], of S
  const float* S = nullptr;        // [n_rows][k], as the forward pass gave it
  bool reduce_sum = true;
};

enum class RowRule : int { sgd, adagrad, rowwise_adagrad, adam, ftrl };
constexpr int kRowRules = 5;

// A step on the rows of one table. States are laid out as the table is; rowwise_adagrad has one
// number a row.
//   adagrad  a          rowwise_adagrad  a          adam  m, v          ftrl  z, n
struct RowStep {
  RowRule rule = RowRule::sgd;
  float* states[2] = {nullptr, nullptr};
  float lr = 0, l2 = 0, eps = 0;
  float beta1 = 0, beta2 = 0;              // adam
  float gain1 = 1, gain2 = 1;              // adam: 1 - beta, from more digits than a float beta has
  float correction1 = 1, correction2 = 1;  // adam: 1 - beta^step
  float l1 = 0, beta = 0;                  // ftrl
};

// Where gradients go. With steps, tables and states are changed in place and no gradient of a
// table is written.
struct PairBackward {
  bool dense = false;
  int64_t* rows = nullptr;    // sparse: [count], rising
  float* weights = nullptr;   // [count], dense: [n_features], zeroed; or null
  float* factors = nullptr;   // [count][k], dense: [n_features][k], zeroed
  float* values = nullptr;    // [nnz], or null
  const RowStep* weight_step = nullptr;
  const RowStep* factor_step = nullptr;
};

// One instruction-set level's kernels.
struct PairKernels {
  Problem (*forward)(const PairBatch&, const PairTable&, const PairForward&, int threads);
  // Sums of x v over the pools of `pool_of`; `pools` is zeroed.
  void (*pool)(const PairBatch&, const PairTable&, const int32_t* pool_of, float* pools, int threads);
  // The batch has been checked by the grouping. Bit-equal for any number of threads.
  void (*backward)(const PairBatch&, const GroupView&, const PairTable&, const PairGradients&,
                   const PairBackward&, int threads);
  // A step on `count` distinct rows of a table [n][k], given their gradients [count][k].
  void (*update)(const int64_t* rows, int64_t count, const float* gradients, float* table, int64_t k,
                 const RowStep&, int threads);
};

#define CROSSFM_DECLARE(level) \
  namespace level { const PairKernels& pair_kernels(); }
CROSSFM_DECLARE(v2)
CROSSFM_DECLARE(v3)
CROSSFM_DECLARE(v4)
CROSSFM_DECLARE(base)
#undef CROSSFM_DECLARE

// Threads worth waking for `items` features: below this many each, waking takes longer than it saves.
inline int worth(int threads, int64_t items) {
  constexpr int64_t least = 4096;
  const int64_t most = items / least + 1;
  return threads < 1 ? 1 : threads < most ? threads : static_cast<int>(most);
}

}  // namespace crossfm
