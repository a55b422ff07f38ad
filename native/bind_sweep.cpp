// Sweeps of coordinate-wise solvers: a design given once, then parameters and residuals swept.
#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "bind.hpp"
#include "random.hpp"
#include "pool.hpp"
#include "sweep.hpp"

namespace crossfm {
namespace {

template <class T>
using Out = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Out2 = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Numbers2 = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T>
using Maybe = std::optional<Array<T>>;

constexpr int64_t kLeastChunk = 4096;   // rows
constexpr int64_t kLongRun = 8;         // rows of one unit after another, from which on they go together

void expect(bool holds, const char* what) {
  if (!holds) throw nb::value_error(what);
}

template <class T>
int64_t count(const Array<T>& array) { return static_cast<int64_t>(array.shape(0)); }

template <class T>
const T* pointer(const Maybe<T>& array) { return array ? array->data() : nullptr; }

// The arrays of a member, kept alive, and its working memory.
struct Kept {
  Array<int32_t> unit_of;
  Maybe<float> values, column_values;
  Maybe<int64_t> columns;
  Maybe<int32_t> column_units, column_fields;
  std::vector<int64_t> runs, low, high;
  std::vector<int32_t> run_units;
  std::vector<float> before, change, shift, before_t, before_p, change_t, change_p;
  std::vector<Unit> table;
  std::vector<UnitSpread> spreads;
  std::vector<std::vector<double>> sums;
  std::vector<double*> sums_at;
};

class Sweeper {
 public:
  Sweeper(const Sweeper&) = delete;
  Sweeper(int64_t n_rows, Array<int32_t> group_of, int64_t n_groups, Maybe<float> row_weights, bool vb)
      : group_of_(group_of), row_weights_(row_weights), vb_(vb) {
    s_.n_rows = n_rows;
    s_.n_features = count(group_of);
    s_.n_groups = n_groups;
    s_.group_of = group_of.data();
    expect(!row_weights || count(*row_weights) == n_rows, "row_weights must be as many as rows");
    for (int64_t i = 0; i < s_.n_features; ++i) {
      expect(group_of.data()[i] >= 0 && group_of.data()[i] < n_groups, "a group is out of range");
    }
    s_.row_weights = pointer(row_weights);
    int64_t chunks = n_rows / kLeastChunk;
    chunks = chunks < 1 ? 1 : chunks > kMostChunks ? kMostChunks : chunks;
    for (int64_t c = 0; c <= chunks; ++c) chunks_.push_back(n_rows * c / chunks);
    s_.chunks = chunks_.data();
    s_.n_chunks = static_cast<int>(chunks);
    q_.resize(n_rows), h_.resize(n_rows);
    s_.q = q_.data(), s_.h = h_.data();
    if (vb) {
      t_.resize(n_rows), p_.resize(n_rows);
      s_.t = t_.data(), s_.p = p_.data();
    }
  }

  void add_field(int64_t features, Array<int32_t> unit_of, Maybe<float> values) {
    Member m;
    m.features = m.units = features;
    auto kept = std::make_unique<Kept>(Kept{unit_of, values, {}, {}, {}, {}});
    expect(!values || count(*values) == s_.n_rows, "values must be as many as rows");
    m.values = pointer(values);
    add(m, std::move(kept));
  }

  void add_block(int64_t units, Array<int32_t> unit_of, Array<int64_t> columns, Array<int32_t> column_units,
                 Maybe<float> column_values, Maybe<int32_t> column_fields) {
    Member m;
    m.is_block = true;
    m.features = count(columns) - 1;
    m.units = units;
    const int64_t nnz = count(column_units);
    expect(m.features >= 0 && columns.data()[0] == 0 && columns.data()[m.features] == nnz,
           "columns must run from 0 to the number of their entries");
    for (int64_t i = 0; i < m.features; ++i) expect(columns.data()[i] <= columns.data()[i + 1], "columns must rise");
    for (int64_t j = 0; j < nnz; ++j) {
      expect(column_units.data()[j] >= 0 && column_units.data()[j] < units, "a unit is out of range");
    }
    expect(!column_values || count(*column_values) == nnz, "column_values must be as many as column_units");
    expect(!column_fields || count(*column_fields) == m.features, "column_fields must be as many as columns");
    auto kept = std::make_unique<Kept>(Kept{unit_of, {}, column_values, columns, column_units, column_fields});
    m.columns = columns.data();
    m.column_units = column_units.data();
    m.column_values = pointer(column_values);
    m.column_fields = pointer(column_fields);
    add(m, std::move(kept));
  }

  void sweep(Out<float> residual, Out<float> weights, Out2<float> factors, std::optional<Out<float>> weights_var,
             std::optional<Out2<float>> factors_var, Numbers2 mean, Numbers2 precision, double noise, int method,
             uint64_t seed, uint64_t iteration, bool with_weights, int threads) {
    Sweep s = at(residual, weights, factors, weights_var, factors_var);
    for (const Numbers2& prior : {mean, precision}) {
      expect(static_cast<int64_t>(prior.shape(0)) == s.k + 1 && static_cast<int64_t>(prior.shape(1)) == s.n_groups,
             "priors must have the shape [1 + k, n_groups]");
    }
    s.priors = {mean.data(), precision.data()};
    s.noise = noise;
    s.method = static_cast<Method>(method);
    expect((s.method == Method::vb) == vb_ && (!vb_ || weights_var), "variances go with variational Bayes");
    s.seed = seed;
    s.iteration = iteration;
    s.with_weights = with_weights;
    nb::gil_scoped_release release;
    sweep_level().sweep(s, threads);
  }

  void residuals(Array<float> targets, double bias, Out<float> residual, Out<float> weights, Out2<float> factors,
                 int threads) {
    const Sweep s = at(residual, weights, factors, {}, {});
    expect(count(targets) == s.n_rows, "targets must be as many as rows");
    nb::gil_scoped_release release;
    sweep_level().residuals(s, targets.data(), bias, threads);
  }

  nb::tuple moments(Out<float> residual, int threads) const {
    Sweep s = s_;
    expect(static_cast<int64_t>(residual.shape(0)) == s.n_rows, "residual must be as many as rows");
    s.residual = residual.data();
    double out[2];
    {
      nb::gil_scoped_release release;
      sweep_level().moments(s, out, threads);
    }
    return nb::make_tuple(out[0], out[1]);
  }

  void variances(Out<float> out, Out<float> weights, Out2<float> factors, Out<float> weights_var,
                 Out2<float> factors_var, int threads) {
    expect(vb_, "variances go with variational Bayes");
    const Sweep s = at(out, weights, factors, weights_var, factors_var);
    nb::gil_scoped_release release;
    sweep_level().variances(s, out.data(), threads);
  }

  int64_t n_features() const { return next_; }

 private:
  void add(Member m, std::unique_ptr<Kept> kept) {
    const int64_t n = s_.n_rows;
    expect(count(kept->unit_of) == n, "unit_of must be as many as rows");
    m.first = next_;
    expect(m.first + m.features <= s_.n_features, "members have more features than there are groups");
    m.unit_of = kept->unit_of.data();
    for (int64_t r = 0; r < n; ++r) {
      expect(m.unit_of[r] >= 0 && m.unit_of[r] < m.units, "a unit is out of range");
      m.n_runs += r == 0 || m.unit_of[r - 1] != m.unit_of[r];
    }
    if (n && n >= kLongRun * m.n_runs) {
      for (int64_t r = 0; r < n; ++r) {
        if (r && m.unit_of[r - 1] == m.unit_of[r]) continue;
        kept->runs.push_back(r);
        kept->run_units.push_back(m.unit_of[r]);
      }
      kept->runs.push_back(n);
      m.runs = kept->runs.data();
      m.run_units = kept->run_units.data();
    }
    const auto room = [&](std::vector<float>& v) { v.assign(m.units, 0.0f); return v.data(); };
    m.before = room(kept->before);
    m.change = room(kept->change);
    if (vb_) {
      m.before_t = room(kept->before_t), m.before_p = room(kept->before_p);
      m.change_t = room(kept->change_t), m.change_p = room(kept->change_p);
    }
    if (m.is_block) {
      m.shift = room(kept->shift);
      kept->table.assign(m.units, Unit{});
      m.table = kept->table.data();
      for (int64_t r = 0; r < n; ++r) m.table[m.unit_of[r]].rows += s_.row_weights ? s_.row_weights[r] : 1.0;
      if (vb_) {
        kept->spreads.assign(m.units, UnitSpread{});
        m.spreads = kept->spreads.data();
      }
    }
    for (int c = 0; c < s_.n_chunks; ++c) {
      int64_t low = m.units, high = 0;
      for (int64_t r = chunks_[c]; r < chunks_[c + 1]; ++r) {
        low = m.unit_of[r] < low ? m.unit_of[r] : low;
        high = m.unit_of[r] >= high ? m.unit_of[r] + 1 : high;
      }
      if (low > high) low = high;
      kept->low.push_back(low);
      kept->high.push_back(high);
      kept->sums.emplace_back(static_cast<size_t>(m.width(vb_) * (high - low)), 0.0);
      kept->sums_at.push_back(kept->sums.back().data());
    }
    m.sums = kept->sums_at.data();
    m.low = kept->low.data();
    m.high = kept->high.data();
    next_ += m.features;
    members_.push_back(m);
    kept_.push_back(std::move(kept));
  }

  Sweep at(Out<float>& residual, Out<float>& weights, Out2<float>& factors,
           const std::optional<Out<float>>& weights_var, const std::optional<Out2<float>>& factors_var) const {
    Sweep s = s_;
    expect(next_ == s.n_features, "members must have as many features as there are groups");
    expect(static_cast<int64_t>(residual.shape(0)) == s.n_rows, "residual must be as many as rows");
    const auto fits = [&](const auto& w, const auto& v) {
      return static_cast<int64_t>(w.shape(0)) == s.n_features && static_cast<int64_t>(v.shape(1)) == s.n_features;
    };
    expect(fits(weights, factors), "weights and factors must have n_features columns");
    s.k = static_cast<int>(factors.shape(0));
    s.residual = residual.data();
    s.weights = weights.data();
    s.factors = factors.data();
    if (weights_var && factors_var) {
      expect(fits(*weights_var, *factors_var) && factors_var->shape(0) == factors.shape(0),
             "variances must have the shapes of weights and factors");
      s.weights_var = weights_var->data();
      s.factors_var = factors_var->data();
    }
    s.members = members_.data();
    s.n_members = static_cast<int>(members_.size());
    return s;
  }

  Sweep s_;
  Array<int32_t> group_of_;
  Maybe<float> row_weights_;
  bool vb_;
  int64_t next_ = 0;
  std::vector<int64_t> chunks_;
  std::vector<float> q_, h_, t_, p_;
  std::vector<Member> members_;
  std::vector<std::unique_ptr<Kept>> kept_;
};

struct Latents {
  const float *low, *high;
  float *latent, *residual;
  int64_t n;
  Stream stream;
  int threads;
};

// Latent normal variables around the scores, each within its limits; residuals follow.
void draw_latents(Array<float> low, Array<float> high, Out<float> latent, Out<float> residual, uint64_t seed,
                  uint64_t iteration, int threads) {
  const int64_t n = count(low);
  expect(count(high) == n && static_cast<int64_t>(latent.shape(0)) == n && static_cast<int64_t>(residual.shape(0)) == n,
         "limits, latent and residual must be as many as rows");
  Latents work{low.data(), high.data(), latent.data(), residual.data(), n, Stream::of(seed, iteration, 1), threads};
  nb::gil_scoped_release release;
  parallel(threads, [](int thread, void* context) {
    const Latents& at = *static_cast<Latents*>(context);
    for (int64_t r = at.n * thread / at.threads; r < at.n * (thread + 1) / at.threads; ++r) {
      const double score = static_cast<double>(at.latent[r]) - at.residual[r];
      const double next = truncated_normal(score, at.low[r], at.high[r], at.stream.uniform(static_cast<uint64_t>(r)));
      at.latent[r] = static_cast<float>(next);
      at.residual[r] = static_cast<float>(next - score);
    }
  }, &work);
}

// Standard normal numbers first, first + 1, ... of a stream.
void normals(uint64_t seed, uint64_t a, uint64_t b, int64_t first, Out<double> out) {
  const Stream stream = Stream::of(seed, a, b);
  for (size_t i = 0; i < out.shape(0); ++i) out.data()[i] = normal(stream, static_cast<uint64_t>(first) + i, ziggurat());
}

}  // namespace

void bind_sweep(nb::module_& m) {
  nb::class_<Sweeper>(m, "Sweeper", "A design of fields and relation blocks, and sweeps over its features.")
      .def(nb::init<int64_t, Array<int32_t>, int64_t, Maybe<float>, bool>(), nb::kw_only(), nb::arg("n_rows"),
           nb::arg("group_of"), nb::arg("n_groups"), nb::arg("row_weights").none(), nb::arg("vb"))
      .def("add_field", &Sweeper::add_field, nb::kw_only(), nb::arg("features"), nb::arg("unit_of"),
           nb::arg("values").none(), "The next features: a field of at most one feature a row.")
      .def("add_block", &Sweeper::add_block, nb::kw_only(), nb::arg("units"), nb::arg("unit_of"),
           nb::arg("columns"), nb::arg("column_units"), nb::arg("column_values").none(),
           nb::arg("column_fields").none(), "The next features: a table whose row unit_of[r] belongs to row r.")
      .def("sweep", &Sweeper::sweep, nb::kw_only(), nb::arg("residual"), nb::arg("weights"), nb::arg("factors"),
           nb::arg("weights_var").none(), nb::arg("factors_var").none(), nb::arg("mean"), nb::arg("precision"),
           nb::arg("noise"), nb::arg("method"), nb::arg("seed"), nb::arg("iteration"), nb::arg("with_weights"),
           nb::arg("threads"), "Go through all parameters once (method 0: Gibbs, 1: ALS, 2: variational Bayes).")
      .def("residuals", &Sweeper::residuals, nb::kw_only(), nb::arg("targets"), nb::arg("bias"),
           nb::arg("residual"), nb::arg("weights"), nb::arg("factors"), nb::arg("threads"),
           "Write targets less scores, from nothing but the parameters.")
      .def("moments", &Sweeper::moments, nb::kw_only(), nb::arg("residual"), nb::arg("threads"),
           "Weighted sums of the residual and of its square.")
      .def("variances", &Sweeper::variances, nb::kw_only(), nb::arg("out"), nb::arg("weights"), nb::arg("factors"),
           nb::arg("weights_var"), nb::arg("factors_var"), nb::arg("threads"),
           "Write the variance of each row's score under variational Bayes, the bias's left out.");
  m.def("draw_latents", &draw_latents, nb::kw_only(), nb::arg("low"), nb::arg("high"), nb::arg("latent"),
        nb::arg("residual"), nb::arg("seed"), nb::arg("iteration"), nb::arg("threads"),
        "Draw latent normal variables within their limits, and bring the residuals along.");
  m.def("normals", &normals, nb::kw_only(), nb::arg("seed"), nb::arg("a"), nb::arg("b"), nb::arg("first"),
        nb::arg("out"), "Standard normal numbers of a counter-based stream.");
}

}  // namespace crossfm
