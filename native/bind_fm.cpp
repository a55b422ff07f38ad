// Training and scoring: arrays in, kernels of the chosen instruction-set level out.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <string>
#include <tuple>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif
#if defined(_MSC_VER) && defined(_M_X64)
#include <intrin.h>
#endif

#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "bind.hpp"
#include "kernels.hpp"
#include "pairwise.hpp"
#include "pool.hpp"
#include "ranking.hpp"
#include "sweep.hpp"
#include "topk.hpp"

namespace crossfm {
namespace {

struct Level {
  const char* name;
  const Kernels& (*kernels)(Model);
  const PairKernels* pairs;
  const SweepKernels* sweeps;
  const ScanKernels* scans;
  const RankingKernels* rankings;
};

#define CROSSFM_LEVEL_OF(name, level) \
  {name, &level::kernels, &level::pair_kernels(), &level::sweep_kernels(), &level::scan_kernels(), \
   &level::ranking_kernels()}

// Levels that are compiled in and that this chip runs, best first.
std::vector<Level> usable_levels() {
  std::vector<Level> levels;
#if defined(__GNUC__) && defined(__x86_64__)
  __builtin_cpu_init();
#ifdef CROSSFM_HAS_V4
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    levels.push_back(CROSSFM_LEVEL_OF("x86-64-v4", v4));
#endif
#ifdef CROSSFM_HAS_V3
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
    levels.push_back(CROSSFM_LEVEL_OF("x86-64-v3", v3));
#endif
#elif defined(_MSC_VER) && defined(_M_X64)
  int info[4];
  __cpuidex(info, 7, 0);
  const bool avx2 = info[1] & (1 << 5);
  const unsigned wanted = (1u << 16) | (1u << 17) | (1u << 28) | (1u << 30) | (1u << 31);
  const bool avx512 = (static_cast<unsigned>(info[1]) & wanted) == wanted;
  __cpuid(info, 1);
  const bool saved = (info[2] & (1 << 27)) && (info[2] & (1 << 12));
  const auto state = saved ? _xgetbv(0) : 0;
#ifdef CROSSFM_HAS_V4
  if (avx512 && (state & 0xE6) == 0xE6) levels.push_back(CROSSFM_LEVEL_OF("x86-64-v4", v4));
#endif
#ifdef CROSSFM_HAS_V3
  if (avx2 && (state & 6) == 6) levels.push_back(CROSSFM_LEVEL_OF("x86-64-v3", v3));
#endif
#endif
#ifdef CROSSFM_HAS_V2
  levels.push_back(CROSSFM_LEVEL_OF("x86-64-v2", v2));
#endif
#ifdef CROSSFM_HAS_BASE
  levels.push_back(CROSSFM_LEVEL_OF("base", base));
#endif
  return levels;
}

Level chosen;

// CROSSFM_ISA takes a level by its name or by the part after x86-64-.
Level choose() {
  const auto levels = usable_levels();
  const char* wanted = std::getenv("CROSSFM_ISA");
  if (!wanted || !*wanted) return levels.front();
  std::string names;
  for (const Level& level : levels) {
    if (std::string(level.name) == wanted || std::string("x86-64-") + wanted == level.name) return level;
    names += std::string(names.empty() ? "" : ", ") + level.name;
  }
  throw nb::import_error(("CROSSFM_ISA=" + std::string(wanted) + " is not to be had here; choose one of " + names).c_str());
}

using Ids = nb::ndarray<nb::ro, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Out = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class T>
const T* pointer(const std::optional<Array<T>>& array) { return array ? array->data() : nullptr; }

void expect(bool holds, const char* what) {
  if (!holds) throw nb::value_error(what);
}

// Rows as the kernels see them. Contents were checked by validate_rows; shapes are checked here.
struct BatchView : Batch {
  int64_t n_rows = 0;
  Ids ids_;
  std::optional<Array<float>> values_, targets_, weights_;
  std::optional<Array<int64_t>> offsets_;
  std::optional<Array<int32_t>> fields_, field_of_;

  BatchView(Ids ids, std::optional<Array<float>> values, std::optional<Array<int64_t>> offsets,
            std::optional<Array<int32_t>> fields, std::optional<Array<int32_t>> field_of,
            std::optional<Array<float>> targets, std::optional<Array<float>> weights, int64_t rows,
            int64_t longest, bool repeats)
      : n_rows(rows), ids_(ids), values_(values), targets_(targets), weights_(weights), offsets_(offsets),
        fields_(fields), field_of_(field_of) {
    const auto nnz = static_cast<int64_t>(ids.shape(0));
    const auto fits = [](const auto& array, int64_t size) {
      return !array || static_cast<int64_t>(array->shape(0)) == size;
    };
    wide = ids.dtype() == nb::dtype<int64_t>();
    expect(wide || ids.dtype() == nb::dtype<int32_t>(), "ids must be int32 or int64");
    expect(fits(values, nnz) && fits(fields, nnz), "values and fields must be as many as ids");
    expect(fits(offsets, rows + 1), "offsets must have n_rows + 1 entries");
    expect(fits(targets, rows) && fits(weights, rows), "targets and weights must have n_rows entries");
    expect(offsets || !rows || nnz % rows == 0, "ids do not divide into rows of equal length");
    this->ids = ids.data();
    this->values = pointer(values);
    this->offsets = pointer(offsets);
    this->fields = pointer(fields);
    this->field_of = pointer(field_of);
    this->targets = pointer(targets);
    this->weights = pointer(weights);
    row_length = !offsets && rows ? nnz / rows : 0;
    longest_row = longest;
    has_repeats = repeats;
  }
};

// Of what model the parameters are, and its sizes.
struct Shape {
  Model model = Model::plain;
  int n_fields = 0, length = 0, order = 2;
  int weight_rows = 0;

  Shape(int kind, int fields, int vector_length, int largest, int k, bool weighted)
      : model(static_cast<Model>(kind)), n_fields(fields), length(vector_length), order(largest) {
    expect(kind >= 0 && kind < kModels, "unknown model");
    expect(!by_field() || n_fields > 0, "a model of fields needs their number");
    expect(order >= 2 && order <= kMostOrder, "the order is out of range");
    const int vectors = model == Model::field_aware ? n_fields : model == Model::higher_order ? order - 1 : 0;
    expect(!vectors || (length > 0 && int64_t{length} * vectors <= k), "factors are too few for all vectors");
    if (model == Model::field_weighted) weight_rows = n_fields;
    if (model == Model::field_matrixed) weight_rows = n_fields * k;
    expect(weighted == (weight_rows > 0), "field weights go with the field-weighted and field-matrixed model");
  }
  bool by_field() const { return model != Model::plain && model != Model::higher_order; }
  int64_t weights() const { return int64_t{weight_rows} * fields_apart(weight_rows); }
};

// Rows that say no fields have one feature for each field at most.
void expect_places(const Batch& batch, const Shape& shape) {
  expect(!shape.by_field() || batch.fields || batch.field_of || batch.longest_row <= shape.n_fields,
         "a row has more features than there are fields");
}

struct TableView : Table {
  Out<float> factors_, linear_, bias_;
  Optimizer optimizer;
  std::optional<Out<float>> field_weights_;
  std::optional<Array<float>> scales_;
  Shape shape;
  // Factors of a feature, without the padding.
  int numbers() const { return shape.model == Model::field_aware ? n_fields * length : length; }
  TableView(Out<float> f, Out<float> l, Out<float> b, int64_t features, int padded, int n_outputs, int kind,
            int model_kind, int fields, int length_, int order_, std::optional<Out<float>> weights,
            std::optional<Array<float>> scaling, bool bfloat16)
      : factors_(f), linear_(l), bias_(b), optimizer(static_cast<Optimizer>(kind)), field_weights_(weights),
        scales_(scaling), shape(model_kind, fields, length_, order_, padded, weights.has_value()) {
    expect(kind >= 0 && kind < kOptimizers, "unknown optimizer");
    expect(padded > 0 && padded % 4 == 0 && n_outputs > 0, "factors must be padded to a multiple of 4");
    const int64_t per = int64_t{n_outputs} * (1 + states_of(optimizer));
    const int64_t narrow = int64_t{n_outputs} * (1 + linear_states_of(optimizer));
    storage = bfloat16 ? Storage::bfloat16 : Storage::float32;
    const bool simple = shape.model == Model::plain || shape.model == Model::field_aware;
    expect(!bfloat16 || (optimizer == Optimizer::adagrad && simple),
           "bfloat16 is for AdaGrad, and for plain and field-aware models");
    expect(optimizer != Optimizer::rowwise_adagrad || simple, "row-wise AdaGrad is for plain and field-aware models");
    expect(static_cast<int64_t>(f.shape(0)) >= features * per * padded / (bfloat16 ? 2 : 1) &&
           static_cast<int64_t>(l.shape(0)) >= features * narrow && static_cast<int64_t>(b.shape(0)) >= narrow,
           "the parameter arrays are too small");
    factors = f.data();
    linear = l.data();
    bias = b.data();
    n_features = features;
    k = padded;
    outputs = n_outputs;
    n_fields = fields;
    length = length_;
    order = order_;
    weight_rows = shape.weight_rows;
    if (weights) {
      expect(static_cast<int64_t>(weights->shape(0)) >= per * shape.weights(), "the field weights are too small");
      field_weights = weights->data();
    }
    expect(!scaling || static_cast<int64_t>(scaling->shape(0)) >= features, "the scales are too few");
    scales = pointer(scaling);
    expect(shape.model != Model::field_aware || padded % 16 == 0, "vectors of all fields are padded to a multiple of 16");
  }
};

struct StepsView : Steps {
  Array<float> l2_linear_, l2_factors_, rates_;
  StepsView(int kind, float parameter, bool across, float rate, float b, float b2, float eps, float l1l, float l1f,
            Array<float> l2l, Array<float> l2f, Array<float> relative, bool scaled, uint32_t seed_)
      : l2_linear_(l2l), l2_factors_(l2f), rates_(relative) {
    expect(kind >= 0 && kind < kLosses, "unknown loss");
    expect(l2l.shape(0) == l2f.shape(0) && l2l.shape(0) == relative.shape(0) && l2l.shape(0) > 0,
           "l2_linear, l2_factors and rates must be as long");
    loss = static_cast<Loss>(kind);
    loss_parameter = parameter;
    seed = seed_;
    across_fields = across;
    learning_rate = rate;
    beta = b;
    beta2 = b2;
    epsilon = eps;
    l1_linear = l1l;
    l1_factors = l1f;
    l2_linear = l2l.data();
    l2_factors = l2f.data();
    rates = relative.data();
    n_places = static_cast<int>(l2l.shape(0));
    per_field = n_places > 1;
    varied = per_field || scaled;
  }
};

double train(const BatchView& batch, std::optional<Array<int64_t>> order, const TableView& table, StepsView steps,
             std::optional<Array<int64_t>> hot_ids, int64_t rows_before,
             std::tuple<int64_t, int64_t, int64_t> blocks, int threads, bool deterministic) {
  expect(batch.targets, "training needs targets");
  const int64_t count = order ? static_cast<int64_t>(order->shape(0)) : batch.n_rows;
  if (!count) return 0;
  steps.optimizer = table.optimizer;
  steps.share = table.numbers() ? 1.0f / static_cast<float>(table.numbers()) : 0.0f;
  Blocks between;
  std::tie(between.least, between.most, between.growth) = blocks;
  between.rows_before = rows_before;
  expect(between.least > 0 && between.most >= between.least && between.growth > 0,
         "blocks are positive and may only grow");
  Hot hot;
  std::vector<int32_t> entries;
  std::vector<int64_t> ids;
  if (hot_ids && hot_ids->shape(0) && table.n_features <= Hot::kIds) {
    const auto count = static_cast<int64_t>(hot_ids->shape(0));
    expect(count <= Hot::kMost, "at most 65,536 features are hot");
    hot.bits = 6;
    while ((int64_t{1} << hot.bits) < 4 * count) ++hot.bits;
    entries.assign(size_t{1} << hot.bits, Hot::kNone);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t id = hot_ids->data()[i];
      expect(id >= 0 && id < table.n_features, "a hot feature is out of range");
      int32_t& entry = entries[Hot::home(id, hot.bits)];
      if (entry != Hot::kNone) continue;  // the hotter one of two has the place
      entry = Hot::entry(id, static_cast<int64_t>(ids.size()), hot.bits);
      ids.push_back(id);
    }
    hot.entries = entries.data();
    hot.ids = ids.data();
    hot.count = static_cast<int64_t>(ids.size());
  }
  expect_places(batch, table.shape);
  const Kernels& kernels = chosen.kernels(table.shape.model);
  threads = threads < 1 ? 1 : threads > 512 ? 512 : threads;
  nb::gil_scoped_release release;
  if (deterministic) {
    return kernels.train_blocks(batch, pointer(order), count, table, steps, between, threads);
  }
  return kernels.train(batch, pointer(order), count, table, steps, hot, between, threads);
}

// What a unit more of each field's penalty would do to the loss of these rows through one step,
// [2][n_fields], is added to `out`; returns their loss. Nothing is trained.
double pulls(const BatchView& batch, std::optional<Array<int64_t>> order, const TableView& table, StepsView steps,
             Out<double> out) {
  expect(batch.targets, "losses need targets");
  expect(table.optimizer == Optimizer::sgd || table.optimizer == Optimizer::adagrad,
         "steps of this optimizer do not follow the penalty's gradient");
  expect(static_cast<int>(out.shape(0)) == 2 * steps.n_places, "out must have two entries a field");
  const int64_t count = order ? static_cast<int64_t>(order->shape(0)) : batch.n_rows;
  if (!count) return 0;
  steps.optimizer = table.optimizer;
  steps.pulls = out.data();
  steps.varied = true;
  expect_places(batch, table.shape);
  const Kernels& kernels = chosen.kernels(table.shape.model);
  nb::gil_scoped_release release;
  return kernels.train(batch, pointer(order), count, table, steps, Hot{}, Blocks{}, 1);
}

// Scores with factors at any row distance, so that a table in training is scored where it lies.
void score(const BatchView& batch, Array<float> factors, int64_t factors_at, int64_t stride, Array<float> linear,
           int64_t linear_at, int64_t linear_stride, float bias, int k, bool across_fields, int64_t n_features,
           Out<float> out, int threads, int model_kind, int n_fields, int length, int order,
           std::optional<Array<float>> field_weights, int64_t field_weights_at, int storage) {
  const Shape shape(model_kind, n_fields, length, order, k, field_weights.has_value());
  expect_places(batch, shape);
  expect(!field_weights || (field_weights_at >= 0 && static_cast<int64_t>(field_weights->shape(0)) >=
                                                         field_weights_at + shape.weights()),
         "the field weights are too small");
  expect(static_cast<int64_t>(out.shape(0)) == batch.n_rows, "out must have n_rows entries");
  expect(storage >= 0 && storage < kStorages, "unknown storage");
  const auto stored = static_cast<Storage>(storage);
  const int64_t floats = stored == Storage::float32 ? k : stored == Storage::int8 ? k / 4 : k / 2;
  const int64_t narrow = stored == Storage::int8 ? 2 : 1;
  expect(k > 0 && k % 4 == 0 && stride >= floats && linear_stride >= narrow && factors_at >= 0 && linear_at >= 0,
         "factors must be padded to a multiple of 4");
  if (n_features) {
    expect(static_cast<int64_t>(factors.shape(0)) >= factors_at + (n_features - 1) * stride + floats &&
           static_cast<int64_t>(linear.shape(0)) >= linear_at + (n_features - 1) * linear_stride + narrow,
           "the parameter arrays are too small");
  }
  const Scores model{factors.data() + factors_at, stored, stride, linear.data() + linear_at, linear_stride, bias, k, across_fields, n_fields, length,
                     field_weights ? field_weights->data() + field_weights_at : nullptr, order};
  threads = threads < 1 ? 1 : threads > 512 ? 512 : threads;
  nb::gil_scoped_release release;
  chosen.kernels(shape.model).score(batch, batch.n_rows, model, out.data(), threads);
}

// Zeroed floats on a cache-line (large ones: huge-page) border.
nb::object allocate(int64_t count) {
  if (count < 0 || count > (int64_t{1} << 58)) throw std::bad_alloc();
  const size_t bytes = static_cast<size_t>(count) * sizeof(float);
  constexpr size_t huge = size_t{1} << 21;
#ifdef __linux__
  if (bytes >= 4 * huge) {
    const size_t whole = (bytes + huge - 1) / huge * huge;
    void* raw = mmap(nullptr, whole + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (raw == MAP_FAILED) throw std::bad_alloc();
    char* data = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(raw) + huge - 1) & ~(huge - 1));
    if (data != raw) munmap(raw, data - static_cast<char*>(raw));
    const size_t tail = static_cast<char*>(raw) + whole + huge - (data + whole);
    if (tail) munmap(data + whole, tail);
    madvise(data, whole, MADV_HUGEPAGE);
    struct Mapped { void* data; size_t bytes; };
    nb::capsule owner(new Mapped{data, whole}, [](void* p) noexcept {
      auto* mapped = static_cast<Mapped*>(p);
      munmap(mapped->data, mapped->bytes);
      delete mapped;
    });
    return nb::cast(nb::ndarray<nb::numpy, float, nb::ndim<1>>(data, {static_cast<size_t>(count)}, owner));
  }
#endif
  void* raw = std::calloc(1, bytes + 64);
  if (!raw) throw std::bad_alloc();
  float* data = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(raw) + 63) & ~uintptr_t{63});
  nb::capsule owner(raw, [](void* p) noexcept { std::free(p); });
  return nb::cast(nb::ndarray<nb::numpy, float, nb::ndim<1>>(data, {static_cast<size_t>(count)}, owner));
}

// Counter-based random numbers: the same (seed, counter) gives the same number on any thread.
uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// Two standard normal numbers of one counter (Box and Muller 1958).
void normal_pair(uint64_t seed, uint64_t counter, float* out) {
  const uint64_t bits = mix(mix(seed) ^ counter);
  const double u = (static_cast<double>(bits >> 32) + 0.5) * 0x1p-32;
  const double angle = static_cast<double>(bits & 0xFFFFFFFFull) * (6.283185307179586 * 0x1p-32);
  const double radius = std::sqrt(-2 * std::log(u));
  out[0] = static_cast<float>(radius * std::cos(angle));
  out[1] = static_cast<float>(radius * std::sin(angle));
}

// The upper half of a float, and the nearest of them.
float from_bfloat16(uint16_t half) {
  const uint32_t bits = uint32_t{half} << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
uint16_t to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

// A fresh optimizer state for the listed features, with factors ~ N(0, scale), or (scale < 0) with
// the factors and weights they have; `weights` false: the state of the weights stays. FTRL derives v from z, so z starts where v does.
void start_features(const TableView& table, Array<int64_t> ids, int n_factors, float scale, uint64_t seed,
                    float accumulator, const StepsView& steps, std::optional<Array<int32_t>> field_of, bool weights,
                    int threads) {
  expect(n_factors <= table.k, "more factors than the table has");
  struct Team {
    const TableView& table;
    const int64_t* ids;
    int64_t count;
    int n_factors;
    float scale;
    uint64_t seed;
    float accumulator;
    const Steps& steps;
    const int32_t* field_of;
    bool weights;
    int threads;

    void start(float* v, int k, const float* l2, float l1, int64_t id) const {
      if (table.optimizer == Optimizer::adagrad) {
        for (int f = 0; f < k; ++f) v[k + f] = accumulator;
      } else if (table.optimizer == Optimizer::ftrl) {
        const int at = steps.place(field_of ? field_of[id] : 0);
        const float scale = table.scales && steps.varied ? std::fabs(table.scales[id]) : 1.0f;
        const float curvature = steps.beta / (steps.learning_rate * steps.rates[at]) + l2[at] * scale;
        for (int f = 0; f < k; ++f) {
          v[k + f] = v[f] ? -v[f] * curvature - (v[f] > 0 ? l1 : -l1) : 0.0f;
          v[2 * k + f] = 0;
        }
      }
    }
  } team{table, ids.data(), static_cast<int64_t>(ids.shape(0)), n_factors, scale, seed, accumulator, steps,
         pointer(field_of), weights, threads < 1 ? 1 : threads > 512 ? 512 : threads};
  for (int64_t i = 0; i < team.count; ++i) {
    expect(team.ids[i] >= 0 && team.ids[i] < table.n_features, "a feature to start is out of range");
  }
  nb::gil_scoped_release release;
  parallel(team.threads, [](int t, void* context) {
    const Team& team = *static_cast<Team*>(context);
    const TableView& table = team.table;
    const int states = states_of(table.optimizer), linear_states = linear_states_of(table.optimizer), k = table.k;
    std::vector<float> numbers((1 + states) * k);
    const int64_t low = team.count * t / team.threads, high = team.count * (t + 1) / team.threads;
    for (int64_t i = low; i < high; ++i) {
      const int64_t id = team.ids[i];
      for (int c = 0; c < table.outputs; ++c) {
        const int64_t at = (id * table.outputs + c) * (1 + states) * k;
        const bool rounded = table.storage == Storage::bfloat16;
        auto* halves = reinterpret_cast<uint16_t*>(table.factors) + at;
        if (rounded) {
          for (int f = 0; f < (1 + states) * k; ++f) numbers[f] = from_bfloat16(halves[f]);
        }
        float* v = rounded ? numbers.data() : table.factors + at;
        float* w = table.linear + (id * table.outputs + c) * (1 + linear_states);
        for (int f = 0; f < team.n_factors && team.scale >= 0; f += 2) {
          float pair[2];
          normal_pair(team.seed, (static_cast<uint64_t>(id) * table.outputs + c) * 65536 + f, pair);
          v[f] = team.scale * pair[0];
          if (f + 1 < team.n_factors) v[f + 1] = team.scale * pair[1];
        }
        team.start(v, k, team.steps.l2_factors, team.steps.l1_factors, id);
        for (int f = 0; rounded && f < (1 + states) * k; ++f) halves[f] = to_bfloat16(numbers[f]);
        if (team.weights) team.start(w, 1, team.steps.l2_linear, team.steps.l1_linear, id);
        if (table.optimizer == Optimizer::rowwise_adagrad) {
          if (team.weights) w[1] = team.accumulator;
          w[kRowSum] = team.accumulator;
        }
      }
    }
  }, &team);
}

}  // namespace

const PairKernels& pair_kernels() { return *chosen.pairs; }
const SweepKernels& sweep_level() { return *chosen.sweeps; }
const ScanKernels& scan_level() { return *chosen.scans; }
const RankingKernels& ranking_level() { return *chosen.rankings; }

void bind_fm(nb::module_& m) {
  chosen = choose();
  m.attr("isa") = chosen.name;
  m.def("levels", [] {
    std::vector<std::string> names;
    for (const Level& level : usable_levels()) names.emplace_back(level.name);
    return names;
  }, "Instruction-set levels that are compiled in and that this chip runs, best first.");

  nb::class_<BatchView>(m, "Batch", "Validated rows, as the kernels read them.")
      .def(nb::init<Ids, std::optional<Array<float>>, std::optional<Array<int64_t>>, std::optional<Array<int32_t>>,
                    std::optional<Array<int32_t>>, std::optional<Array<float>>, std::optional<Array<float>>, int64_t,
                    int64_t, bool>(),
           nb::kw_only(), nb::arg("ids"), nb::arg("values").none(), nb::arg("offsets").none(),
           nb::arg("fields").none(), nb::arg("field_of").none(), nb::arg("targets").none(),
           nb::arg("weights").none(), nb::arg("n_rows"), nb::arg("longest_row"), nb::arg("has_repeats"))
      .def_ro("n_rows", &BatchView::n_rows);
  nb::class_<TableView>(m, "Table", "Parameters and optimizer state, feature-major.")
      .def(nb::init<Out<float>, Out<float>, Out<float>, int64_t, int, int, int, int, int, int, int,
                    std::optional<Out<float>>, std::optional<Array<float>>, bool>(),
           nb::kw_only(), nb::arg("factors"), nb::arg("linear"), nb::arg("bias"), nb::arg("n_features"),
           nb::arg("padded"), nb::arg("outputs"), nb::arg("optimizer"), nb::arg("model") = 0,
           nb::arg("n_fields") = 0, nb::arg("length") = 0, nb::arg("order") = 2,
           nb::arg("field_weights") = nb::none(), nb::arg("scales") = nb::none(), nb::arg("bfloat16") = false);
  nb::class_<StepsView>(m, "Steps", "What an update does: loss, interactions, step size, penalties.")
      .def(nb::init<int, float, bool, float, float, float, float, float, float, Array<float>, Array<float>,
                    Array<float>, bool, uint32_t>(),
           nb::kw_only(), nb::arg("loss"), nb::arg("loss_parameter"), nb::arg("across_fields"), nb::arg("learning_rate"),
           nb::arg("beta"), nb::arg("beta2"), nb::arg("epsilon"), nb::arg("l1_linear"),
           nb::arg("l1_factors"), nb::arg("l2_linear"), nb::arg("l2_factors"), nb::arg("rates"), nb::arg("scaled"),
           nb::arg("seed"));

  m.def("train", &train, nb::kw_only(), nb::arg("batch"), nb::arg("order").none(), nb::arg("table"),
        nb::arg("steps"), nb::arg("hot_ids").none(), nb::arg("rows_before"),
        nb::arg("blocks"),
        nb::arg("threads"), nb::arg("deterministic"),
        "Train on the rows of `order` (None: all) in that order; returns the weighted sum of losses.");
  m.def("pulls", &pulls, nb::kw_only(), nb::arg("batch"), nb::arg("order").none(), nb::arg("table"),
        nb::arg("steps"), nb::arg("out"),
        "Add to `out` what a unit more of each field's penalty would do to the loss of these rows.");
  m.def("score", &score, nb::kw_only(), nb::arg("batch"), nb::arg("factors"), nb::arg("factors_at"),
        nb::arg("stride"), nb::arg("linear"), nb::arg("linear_at"), nb::arg("linear_stride"), nb::arg("bias"),
        nb::arg("k"), nb::arg("across_fields"), nb::arg("n_features"), nb::arg("out"), nb::arg("threads"),
        nb::arg("model") = 0, nb::arg("n_fields") = 0, nb::arg("length") = 0, nb::arg("order") = 2,
        nb::arg("field_weights") = nb::none(), nb::arg("field_weights_at") = 0, nb::arg("storage") = 0,
        "Write the raw score of each row to `out`.");
  m.def("allocate", &allocate, nb::arg("count"), "Zeroed, aligned float32 array; large ones on huge pages.");
  m.def("start_features", &start_features, nb::kw_only(), nb::arg("table"), nb::arg("ids"),
        nb::arg("n_factors"), nb::arg("scale"), nb::arg("seed"), nb::arg("accumulator"), nb::arg("steps"),
        nb::arg("field_of").none(), nb::arg("weights"), nb::arg("threads"),
        "Give the listed features a fresh optimizer state, and random factors unless scale < 0.");
}

}  // namespace crossfm
