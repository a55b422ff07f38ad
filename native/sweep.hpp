// One sweep of coordinate-wise solvers (Gibbs sampling, alternating least squares, variational
// Bayes) over the parameters of a factorization machine. Level-neutral: bind_sweep.cpp picks one
// SweepKernels table.
//
// The model is linear in each parameter theta given the others, y = g + theta h, with h = x for a
// weight and h = x (q - own) for a factor, where q is the row's sum of v x and `own` what the
// feature's field adds to it (interactions within fields: what the feature itself adds). Given the
// residual e, all that the conditional of theta needs is the sums of h^2 and h e over its rows.
//
// Features come in members. In a *field* each row has at most one feature: features share no row,
// so given the rest they are independent, and a member is swept in two streaming passes over the
// rows: sums by id, then, after all are drawn, residuals. A *block* is a table of its own whose
// row `unit_of[r]` belongs to row r: the rows of a unit share what the block's features do to
// them, so sums over them (of 1, c, c^2, e, c e, with c = q less the block's own part) are made
// once, and the block's columns are then swept on its own rows (Rendle, VLDB 2013).
//
// Variational Bayes holds a mean m and a variance s of each parameter. The residual then is that of
// the means, and the conditionals' sums take the variances of what is multiplied: with
// t = sum of s x^2 and p = sum over fields of (its part of t)(its part of q), h^2 becomes
// h^2 + x^2 (t - t_own) and h e becomes h e - x [(t - t_own) q - (p - p_own)].
#pragma once

#include <cstdint>

namespace crossfm {

constexpr int kMostChunks = 16;  // parts of the rows, which threads share out

enum class Method : int { gibbs, als, vb };

// What a unit of a block, its rows taken together, knows while its columns are swept.
struct Unit {
  double rows, c, cc, e, ce;  // weighted sums over its rows of 1, c, c^2, e, c e
  double q;                   // the block's part of q
  double shift;               // the rows' e falls by shift + (change of q) c
  double own;                 // what the field at work adds to q
};

// The same of variances: sums of the other members' t, t c and p; the block's parts of t and p;
// what the field at work adds to t.
struct UnitSpread {
  double ct, ctc, cp, t, p, own;
};

struct Member {
  bool is_block = false;
  int64_t first = 0;                // its first feature
  int64_t features = 0;
  int64_t units = 0;                // a field: its features; a block: its rows
  const int32_t* unit_of = nullptr; // [n_rows]
  const float* values = nullptr;    // [n_rows], a field's x; null: all ones
  // Runs of rows of one unit after another, where they are long; else null.
  const int64_t* runs = nullptr;      // [n_runs + 1], first rows
  const int32_t* run_units = nullptr;  // [n_runs]
  int64_t n_runs = 0;
  // A block's columns, by feature.
  const int64_t* columns = nullptr;      // [features + 1]
  const int32_t* column_units = nullptr;  // [nnz]
  const float* column_values = nullptr;   // [nnz]; null: all ones
  const int32_t* column_fields = nullptr; // [features], rising; null: each feature by itself
  // Working memory.
  float* before = nullptr;  // [units], v (a field) or q (a block) before this sweep of the factor
  float* change = nullptr;  // [units], what was added to it
  float* shift = nullptr;   // [units], a block's
  Unit* table = nullptr;    // [units], a block's
  // Variational Bayes: a block's t and p before, and what was added to t and p [units].
  float *before_t = nullptr, *before_p = nullptr, *change_t = nullptr, *change_p = nullptr;
  UnitSpread* spreads = nullptr;  // [units], a block's
  // Sums of each chunk of rows, over the units it touches: `width` numbers a unit.
  double* const* sums = nullptr;   // [chunks]
  const int64_t* low = nullptr;    // [chunks], first unit
  const int64_t* high = nullptr;   // [chunks], behind the last one

  int width(bool vb) const { return !is_block ? 2 : vb ? 7 : 4; }
};

struct Priors {
  const double* mean;       // [1 + k][n_groups]
  const double* precision;  // [1 + k][n_groups]
};

struct Sweep {
  Method method = Method::gibbs;
  int64_t n_rows = 0, n_features = 0, n_groups = 1;
  int k = 0;
  const Member* members = nullptr;
  int n_members = 0;
  const int64_t* chunks = nullptr;  // [n_chunks + 1], rows
  int n_chunks = 0;
  const float* row_weights = nullptr;  // [n_rows]; null: all ones
  float* residual = nullptr;           // [n_rows], target less score
  float* q = nullptr;                  // [n_rows], working memory
  float* h = nullptr;                  // [n_rows], of the field at work, where runs are short
  float *t = nullptr, *p = nullptr;    // [n_rows], the same, for variational Bayes
  float* weights = nullptr;            // [n_features]
  float* factors = nullptr;            // [k][n_features]
  float* weights_var = nullptr;        // [n_features], variational Bayes
  float* factors_var = nullptr;        // [k][n_features]
  const int32_t* group_of = nullptr;   // [n_features]
  Priors priors{};
  double noise = 1;                    // precision of a row of weight 1
  uint64_t seed = 0, iteration = 0;
  bool with_weights = true;            // sweep the weights too
};

struct SweepKernels {
  void (*sweep)(const Sweep&, int threads);
  // residual[r] = target[r] - bias - score of row r.
  void (*residuals)(const Sweep&, const float* targets, double bias, int threads);
  // Weighted sums of the residual and of its square, into out[0] and out[1].
  void (*moments)(const Sweep&, double* out, int threads);
  // Variational Bayes: the variance of each row's score, the bias's left out.
  void (*variances)(const Sweep&, float* out, int threads);
};

#define CROSSFM_DECLARE(level) \
  namespace level { const SweepKernels& sweep_kernels(); }
CROSSFM_DECLARE(v2)
CROSSFM_DECLARE(v3)
CROSSFM_DECLARE(v4)
CROSSFM_DECLARE(base)
#undef CROSSFM_DECLARE

}  // namespace crossfm
