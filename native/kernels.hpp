// What the kernels take and offer. Level-neutral: bind_fm.cpp picks one Kernels table at import.
#pragma once

#include <cstdint>

namespace crossfm {

// A batch of rows, already validated: ids in range, offsets rising, fields known.
struct Batch {
  const void* ids = nullptr;
  bool wide = false;                   // ids are int64, else int32
  const float* values = nullptr;       // null: all ones
  const int64_t* offsets = nullptr;    // null: row_length features in every row
  int64_t row_length = 0;
  const int32_t* fields = nullptr;     // null: field_of[id]; without either, a feature's place in its row
  const int32_t* field_of = nullptr;
  const float* targets = nullptr;
  const float* weights = nullptr;      // null: all ones
  int64_t longest_row = 0;
  bool has_repeats = false;            // some row holds one id twice

  int64_t begin(int64_t row) const { return offsets ? offsets[row] : row * row_length; }
  int64_t end(int64_t row) const { return offsets ? offsets[row + 1] : (row + 1) * row_length; }
};

enum class Loss : int { squared, logistic, softmax, hinge, huber, poisson, quantile };
constexpr int kLosses = 7;
enum class Optimizer : int { sgd, adagrad, ftrl, adam, rowwise_adagrad };
constexpr int kOptimizers = 5;

// Beside them, kernels that change nothing: they add up what a step of each of the first two would
// be, were the penalty of a field greater by one.
constexpr Optimizer kPullSgd{kOptimizers}, kPullAdagrad{kOptimizers + 1};

// Numbers beside each factor, and beside each linear weight. Row-wise AdaGrad has one sum of squares
// for all factors of a feature, which stands beside its linear weight and that one's own:
// w, a_w, a_v, and one that fills a quarter of a cache line.
inline int states_of(Optimizer o) {
  return o == Optimizer::sgd || o == Optimizer::rowwise_adagrad ? 0 : o == Optimizer::adagrad ? 1 : 2;
}
inline int linear_states_of(Optimizer o) { return o == Optimizer::rowwise_adagrad ? 3 : states_of(o); }
constexpr int kRowSum = 2;  // place of a_v

// How the factors of a table lie in memory: k numbers of 4, 2 or 1 bytes, one feature behind the
// other. int8: each number times its feature's scale, which lies behind the linear weight.
// bfloat16 is for training, the others are for scores.
enum class Storage : int { float32, float16, int8, bfloat16 };
constexpr int kStorages = 4;

// Parameters and optimizer state, feature-major. With s = states_of(optimizer) and
// s' = linear_states_of(optimizer):
//   factors [n_features][outputs][1 + s][k]   v, then its state, adjacent in memory
//   linear  [n_features][outputs][1 + s']     w, then its state
//   bias    [outputs][1 + s']
// A field-aware model has for a feature one vector a field, side by side: [n_fields][length], which
// together count as its k factors. A field-weighted one has beside the bias, for all rows,
//   field_weights [outputs][1 + s][n_fields][fields_apart(n_fields)]   symmetric, zero on the diagonal
// and a field-matrixed one the same with k numbers for each field, [n_fields k][fields_apart(n_fields k)].
// A higher-order one has `length` numbers for each order from 2 on, side by side.
struct Table {
  float* factors = nullptr;  // float32, or bfloat16: then half as many floats
  float* linear = nullptr;
  float* bias = nullptr;
  Storage storage = Storage::float32;
  int64_t n_features = 0;
  int k = 0;        // padded number of factors
  int outputs = 1;  // classes under softmax and hinge
  int n_fields = 0;
  int length = 0;   // of a vector for one field, or of one order
  int order = 2;
  int weight_rows = 0;  // rows of field_weights
  float* field_weights = nullptr;
  // [n_features], for training; null: 1 for all. What a feature's L2 is multiplied by; below 0: by
  // its size, and the feature has no factors, which then stay as they are.
  const float* scales = nullptr;
};

// Floats from the weights of one field to those of the next.
inline int fields_apart(int n_fields) { return (n_fields + 15) / 16 * 16; }

struct Steps {
  Optimizer optimizer = Optimizer::adagrad;
  Loss loss = Loss::squared;
  float loss_parameter = 0;  // Huber: where it turns linear; quantile: the level
  bool across_fields = false;
  float learning_rate = 0;
  float beta = 1;  // FTRL; under Adam the decay of the mean gradient
  float beta2 = 0, epsilon = 0;  // Adam only
  float l1_linear = 0, l1_factors = 0;  // FTRL only
  const float* l2_linear = nullptr;  // [n_fields], or [1] for all fields
  const float* l2_factors = nullptr;
  const float* rates = nullptr;      // the same: what the learning rate is multiplied by
  bool per_field = false;
  bool varied = false;  // rates and penalties are a feature's own: per_field, or Table::scales with them
  uint32_t seed = 0;    // of the random bits that bfloat16 is rounded with
  float share = 1;      // row-wise AdaGrad: one of the factors of a feature
  // [2][n_fields], of weights and of factors, or null. Then a pass trains nothing, but adds here the
  // change of the loss per unit of a field's penalty: the sum of learning rate * gradient * parameter.
  double* pulls = nullptr;
  int n_places = 1;

  int place(int32_t field) const { return per_field ? field : 0; }
};

// How many rows go by between two moments at which threads see each other's work. Blocks grow
// with the rows trained so far: steps shrink, so parameters move more slowly.
struct Blocks {
  int64_t least = 1, most = 1, growth = 1;
  int64_t rows_before = 0;  // rows trained in earlier calls

  int64_t at(int64_t row) const {
    const int64_t block = (rows_before + row) / growth;
    return block < least ? least : block > most ? most : block;
  }
};

// Hot features: the few that most rows touch. Each thread trains a private copy of them and
// merges it with the table after every block of rows.
struct Hot {
  // Direct-mapped: a hot id's entry stands at home(id) and is rest(id) << (bits - 1) | slot, where
  // rest is what the home does not tell of an id below 2^32. One look-up in a table that stays in
  // the cache, where an array of one slot a feature would not.
  const int32_t* entries = nullptr;
  int bits = 0;                    // 2^bits entries
  const int64_t* ids = nullptr;    // [count], the id of each slot
  int64_t count = 0;               // at most 2^(bits - 1)

  static constexpr int32_t kNone = -1;
  static constexpr int64_t kMost = 1 << 16, kIds = int64_t{1} << 32;  // hot features; ids they may have
  static constexpr uint32_t kMixed = 0x9E3779B1u;  // odd: one to one
  static int32_t rest_mask(int bits) { return static_cast<int32_t>(0xFFFFFFFFu >> bits); }
  static int32_t slot_mask(int bits) { return (1 << (bits - 1)) - 1; }
  static uint32_t mixed(int64_t id) { return static_cast<uint32_t>(id) * kMixed; }
  static int32_t home(int64_t id, int bits) { return static_cast<int32_t>(mixed(id) >> (32 - bits)); }
  static int32_t rest(int64_t id, int bits) { return static_cast<int32_t>(mixed(id)) & rest_mask(bits); }
  static int32_t entry(int64_t id, int64_t slot, int bits) { return rest(id, bits) << (bits - 1) | static_cast<int32_t>(slot); }
  static bool is(int32_t entry, int64_t id, int bits) { return entry >> (bits - 1) == rest(id, bits); }
  static int64_t slot(int32_t entry, int bits) { return entry & slot_mask(bits); }
};

struct Scores {
  const float* factors = nullptr;  // as `storage` says
  Storage storage = Storage::float32;
  int64_t stride = 0;  // floats (4 bytes each) from one feature's factors to the next one's
  const float* linear = nullptr;
  int64_t linear_stride = 1;
  float bias = 0;
  int k = 0;
  bool across_fields = false;
  int n_fields = 0;
  int length = 0;
  const float* field_weights = nullptr;  // [weight_rows][fields_apart(weight_rows)]
  int order = 2;
};

// One instruction-set level's kernels of one model.
enum class Model : int { plain, field_aware, field_weighted, field_matrixed, higher_order };
constexpr int kModels = 5;
constexpr int kMostOrder = 8;

struct Kernels {
  // One pass over the rows order[0..count) (null: 0..count); returns the weighted sum of losses
  // seen before each row's update.
  double (*train)(const Batch&, const int64_t* order, int64_t count, const Table&, const Steps&,
                  const Hot&, const Blocks&, int threads);
  // The same, scores frozen within blocks of rows and updates split by feature: bit-equal for
  // any number of threads.
  double (*train_blocks)(const Batch&, const int64_t* order, int64_t count, const Table&,
                         const Steps&, const Blocks&, int threads);
  void (*score)(const Batch&, int64_t count, const Scores&, float* out, int threads);
};

#define CROSSFM_DECLARE(level) \
  namespace level { \
  const Kernels& plain_kernels(); \
  const Kernels& field_aware_kernels(); \
  const Kernels& field_weighted_kernels(); \
  const Kernels& field_matrixed_kernels(); \
  const Kernels& higher_order_kernels(); \
  inline const Kernels& kernels(Model m) { \
    switch (m) { \
      case Model::field_aware: return field_aware_kernels(); \
      case Model::field_weighted: return field_weighted_kernels(); \
      case Model::field_matrixed: return field_matrixed_kernels(); \
      case Model::higher_order: return higher_order_kernels(); \
      default: return plain_kernels(); \
    } \
  } \
  }
CROSSFM_DECLARE(v2)
CROSSFM_DECLARE(v3)
CROSSFM_DECLARE(v4)
CROSSFM_DECLARE(base)
#undef CROSSFM_DECLARE

}  // namespace crossfm
