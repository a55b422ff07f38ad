// The pairwise operator: tensors' memory in, kernels of the chosen instruction-set level out.
// Contents (ids, offsets, fields) are checked in the kernels; a first wrong one comes back as
// ("id" | "offset" | "field", position). Shapes are checked here.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>

#include "bind.hpp"
#include "groups.hpp"
#include "pairwise.hpp"

namespace crossfm {
namespace {

using AnyInts = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
template <class T>
using In = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
template <class T>
using Out = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
template <class T>
using Maybe = std::optional<T>;

void expect(bool holds, const char* what) {
  if (!holds) throw nb::value_error(what);
}

template <class A>
auto pointer(const Maybe<A>& array) { return array ? array->data() : nullptr; }

template <class A>
bool holds(const Maybe<A>& array, int64_t count) { return !array || static_cast<int64_t>(array->size()) == count; }

bool is_wide(const AnyInts& ints) {
  expect(ints.dtype() == nb::dtype<int64_t>() || ints.dtype() == nb::dtype<int32_t>(),
         "ids and fields must be int32 or int64");
  return ints.dtype() == nb::dtype<int64_t>();
}

int clamped(int threads) { return threads < 1 ? 1 : threads > 512 ? 512 : threads; }

nb::object told(const Problem& problem) {
  static constexpr const char* names[] = {"", "id", "offset", "field"};
  if (!problem) return nb::none();
  return nb::make_tuple(names[problem.kind], problem.position);
}

// A batch and the tables it looks up.
struct Pairs {
  PairBatch batch;
  PairTable table;
  AnyInts ids_;
  Maybe<In<float>> values_;
  Maybe<In<int64_t>> offsets_;
  Maybe<AnyInts> fields_;
  Maybe<Out<float>> weights_;
  Out<float> factors_;

  Pairs(AnyInts ids, Maybe<In<float>> values, Maybe<In<int64_t>> offsets, Maybe<AnyInts> fields,
        Maybe<Out<float>> weights, Out<float> factors, int64_t n_fields)
      : ids_(ids), values_(values), offsets_(offsets), fields_(fields), weights_(weights), factors_(factors) {
    expect(factors.ndim() == 2, "factors must have two dimensions");
    expect(offsets ? ids.ndim() == 1 && offsets->size() > 0 : ids.ndim() == 2,
           "ids must be [nnz] with offsets [n_rows + 1], or [n_rows, m] without");
    batch.ids = ids.data();
    batch.wide_ids = is_wide(ids);
    batch.nnz = static_cast<int64_t>(ids.size());
    batch.values = pointer(values);
    batch.offsets = pointer(offsets);
    batch.n_rows = static_cast<int64_t>(offsets ? offsets->size() - 1 : ids.shape(0));
    batch.row_length = offsets ? 0 : static_cast<int64_t>(ids.shape(1));
    batch.n_features = static_cast<int64_t>(factors.shape(0));
    batch.n_fields = n_fields;
    table.factors = factors.data();
    table.weights = pointer(weights);
    table.k = static_cast<int64_t>(factors.shape(1));
    expect(holds(values, batch.nnz), "values must be as many as ids");
    expect(holds(weights, batch.n_features), "weights must be as many as the rows of factors");
    // Sorting packs an id and a position, or a row, into 64 bits; pools have 32-bit numbers.
    expect(batch.n_features <= INT64_C(1) << 32 && batch.nnz < INT64_C(1) << 31 && batch.n_rows < INT64_C(1) << 32,
           "tables of more than 2^32 rows and batches of 2^31 features or more are not supported");
    if (fields) {
      const auto count = static_cast<int64_t>(fields->size());
      batch.fields = fields->data();
      batch.wide_fields = is_wide(*fields);
      batch.fields_by_column = fields->ndim() == 1 && !offsets;
      expect(count == (batch.fields_by_column ? batch.row_length : batch.nnz),
             "fields must be as many as ids, or one a column of ids [n_rows, m]");
      expect(n_fields >= 0 && n_fields < INT64_C(1) << 31, "n_fields must be below 2^31");
    }
  }
};

// Whether rows must be pooled by field: not where every feature is known to be its field's only one.
bool must_pool(const Pairs& pairs, bool across_fields) {
  if (!across_fields) return false;
  expect(pairs.batch.fields, "crossing fields needs fields");
  return !fields_are_distinct(pairs.batch);
}

nb::object forward(const Pairs& pairs, bool across_fields, bool reduce_sum, Out<float> linear, Out<float> crossed,
                   Maybe<Out<float>> pooled, Out<float> S, int threads) {
  PairBatch batch = pairs.batch;
  const int64_t n = batch.n_rows, k = pairs.table.k;
  expect(holds(Maybe(linear), n) && holds(Maybe(crossed), reduce_sum ? n : n * k) && holds(Maybe(S), n * k) &&
             holds(pooled, n * batch.n_fields * k),
         "an output has another shape than the batch asks for");
  expect(!pooled || batch.fields, "pooling needs fields");
  const PairForward out{across_fields, reduce_sum, linear.data(), crossed.data(), pointer(pooled), S.data()};
  Problem problem = check_offsets(batch);
  if (!problem && !pooled && !must_pool(pairs, across_fields)) {
    if (across_fields) problem = check_fields(batch);
    batch.fields = nullptr;
  }
  if (problem) return told(problem);
  {
    nb::gil_scoped_release release;
    problem = pair_kernels().forward(batch, pairs.table, out, clamped(threads));
  }
  return told(problem);
}

// The batch's occurrences grouped by feature, and the pooled vectors that its gradient needs.
struct Grouping {
  Groups groups;
  std::unique_ptr<float, decltype(&std::free)> pools{nullptr, &std::free};
  Problem problem;

  Grouping(const Pairs& pairs, bool across_fields, bool positions, int threads) {
    const PairBatch& batch = pairs.batch;
    const bool pool = must_pool(pairs, across_fields);
    threads = clamped(threads);
    nb::gil_scoped_release release;
    problem = groups.group(batch, positions || pool || batch.values, threads);
    if (!problem && batch.fields) problem = check_fields(batch);
    if (problem || !pool) return;
    if (const int64_t count = groups.find_pools(batch, threads)) {
      pools.reset(static_cast<float*>(std::calloc(static_cast<size_t>(count * pairs.table.k), sizeof(float))));
      if (!pools) throw std::bad_alloc();
      pair_kernels().pool(batch, pairs.table, groups.pool_of(), pools.get(), threads);
    }
  }

  GroupView view() const {
    GroupView v = groups.view();
    v.pools = pools.get();
    return v;
  }
};

struct Gradients : PairGradients {
  Maybe<In<float>> linear_, crossed_, pooled_, sum_;
  In<float> S_;
  Gradients(Maybe<In<float>> l, Maybe<In<float>> c, Maybe<In<float>> p, Maybe<In<float>> s, In<float> S_rows,
            bool reduce)
      : linear_(l), crossed_(c), pooled_(p), sum_(s), S_(S_rows) {
    linear = pointer(l);
    crossed = pointer(c);
    pooled = pointer(p);
    sum = pointer(s);
    S = S_rows.data();
    reduce_sum = reduce;
  }

  void check(const PairBatch& batch, int64_t k) const {
    const int64_t n = batch.n_rows;
    expect(holds(linear_, n) && holds(crossed_, reduce_sum ? n : n * k) && holds(pooled_, n * batch.n_fields * k) &&
               holds(sum_, n * k) && holds(Maybe(S_), n * k),
           "a gradient has another shape than its output");
    expect(!pooled || batch.fields, "the gradient of pooled vectors needs fields");
  }
};

struct Step : RowStep {
  Maybe<Out<float>> first_, second_;
  Step(int kind, Maybe<Out<float>> first, Maybe<Out<float>> second, double lr_, double l2_, double eps_,
       double beta1_, double beta2_, double step, double l1_, double beta_)
      : first_(first), second_(second) {
    expect(kind >= 0 && kind < kRowRules, "unknown kind of step");
    rule = static_cast<RowRule>(kind);
    states[0] = pointer(first);
    states[1] = pointer(second);
    const bool two = rule == RowRule::adam || rule == RowRule::ftrl;
    expect((rule == RowRule::sgd || first) && (!two || second), "an optimizer's state is missing");
    const auto narrow = [](double x) { return static_cast<float>(x); };
    lr = narrow(lr_), l2 = narrow(l2_), eps = narrow(eps_), l1 = narrow(l1_), beta = narrow(beta_);
    beta1 = narrow(beta1_), gain1 = narrow(1 - beta1_), correction1 = narrow(1 - std::pow(beta1_, step));
    beta2 = narrow(beta2_), gain2 = narrow(1 - beta2_), correction2 = narrow(1 - std::pow(beta2_, step));
  }

  void check(int64_t rows, int64_t k) const {
    const int64_t size = rule == RowRule::rowwise_adagrad ? rows : rows * k;
    expect(holds(first_, size) && holds(second_, size), "a state has another shape than its table");
  }
};

void backward(const Pairs& pairs, const Grouping& grouping, const Gradients& given, Maybe<Out<int64_t>> rows,
              Maybe<Out<float>> weights, Out<float> factors, Maybe<Out<float>> values, int threads) {
  const int64_t k = pairs.table.k, count = rows ? grouping.groups.count() : pairs.batch.n_features;
  given.check(pairs.batch, k);
  expect(holds(rows, count) && holds(weights, count) && holds(Maybe(factors), count * k) &&
             holds(values, pairs.batch.nnz),
         "an output has another shape than the gradient");
  PairBackward out;
  out.dense = !rows;
  out.rows = pointer(rows);
  out.weights = pointer(weights);
  out.factors = factors.data();
  out.values = pointer(values);
  nb::gil_scoped_release release;
  pair_kernels().backward(pairs.batch, grouping.view(), pairs.table, given, out, clamped(threads));
}

void backward_update(const Pairs& pairs, const Grouping& grouping, const Gradients& given, const Step* weight_step,
                     const Step& factor_step, Maybe<Out<float>> values, int threads) {
  given.check(pairs.batch, pairs.table.k);
  factor_step.check(pairs.batch.n_features, pairs.table.k);
  if (weight_step) weight_step->check(pairs.batch.n_features, 1);
  expect(!weight_step || pairs.table.weights, "a step of weights needs weights");
  expect(holds(values, pairs.batch.nnz), "gradients of values must be as many as ids");
  PairBackward out;
  out.values = pointer(values);
  out.weight_step = weight_step;
  out.factor_step = &factor_step;
  nb::gil_scoped_release release;
  pair_kernels().backward(pairs.batch, grouping.view(), pairs.table, given, out, clamped(threads));
}

nb::object update_rows(In<int64_t> rows, In<float> gradients, Out<float> table, const Step& step, int threads) {
  const auto count = static_cast<int64_t>(rows.size());
  expect(table.ndim() == 1 || table.ndim() == 2, "a table has one or two dimensions");
  const auto n = static_cast<int64_t>(table.shape(0));
  const int64_t k = table.ndim() == 2 ? static_cast<int64_t>(table.shape(1)) : 1;
  expect(holds(Maybe(gradients), count * k), "gradients must be [rows, k]");
  step.check(n, k);
  for (int64_t i = 0; i < count; ++i) {
    if (rows.data()[i] < 0 || rows.data()[i] >= n) return told({Problem::id, i});
  }
  nb::gil_scoped_release release;
  pair_kernels().update(rows.data(), count, gradients.data(), table.data(), k, step, worth(clamped(threads), count));
  return nb::none();
}

}  // namespace

void bind_pairwise(nb::module_& m) {
  nb::class_<Pairs>(m, "Pairs", "A batch and the tables it looks up, as the pairwise operator reads them.")
      .def(nb::init<AnyInts, Maybe<In<float>>, Maybe<In<int64_t>>, Maybe<AnyInts>, Maybe<Out<float>>, Out<float>,
                    int64_t>(),
           nb::arg("ids").noconvert(), nb::arg("values").noconvert().none(), nb::arg("offsets").noconvert().none(),
           nb::arg("fields").noconvert().none(), nb::arg("weights").noconvert().none(),
           nb::arg("factors").noconvert(), nb::arg("n_fields"));
  nb::class_<Grouping>(m, "PairGroups", "The occurrences of a batch, grouped by feature.")
      .def(nb::init<const Pairs&, bool, bool, int>(), nb::arg("pairs"), nb::arg("across_fields"),
           nb::arg("positions"), nb::arg("threads"))
      .def_prop_ro("count", [](const Grouping& g) { return g.groups.count(); }, "Number of distinct features.")
      .def_prop_ro("problem", [](const Grouping& g) { return told(g.problem); },
                   "What is wrong with the batch, (kind, position), or None.");
  nb::class_<Gradients>(m, "PairGradients", "Gradients of the pairwise operator's outputs, None where there is none.")
      .def(nb::init<Maybe<In<float>>, Maybe<In<float>>, Maybe<In<float>>, Maybe<In<float>>, In<float>, bool>(),
           nb::arg("linear").noconvert().none(), nb::arg("crossed").noconvert().none(),
           nb::arg("pooled").noconvert().none(), nb::arg("sum").noconvert().none(), nb::arg("S").noconvert(),
           nb::arg("reduce_sum"));
  nb::class_<Step>(m, "RowStep", "An optimizer's step on rows: kind, states, rates.")
      .def(nb::init<int, Maybe<Out<float>>, Maybe<Out<float>>, double, double, double, double, double, double, double,
                    double>(),
           nb::arg("kind"), nb::arg("first").noconvert().none(), nb::arg("second").noconvert().none(), nb::arg("lr"),
           nb::arg("l2"), nb::arg("eps"), nb::arg("beta1"), nb::arg("beta2"), nb::arg("step"),
           nb::arg("l1"), nb::arg("beta"));

  m.def("pairwise_forward", &forward, nb::arg("pairs"), nb::arg("across_fields"), nb::arg("reduce_sum"),
        nb::arg("linear").noconvert(), nb::arg("crossed").noconvert(), nb::arg("pooled").noconvert().none(),
        nb::arg("S").noconvert(), nb::arg("threads"),
        "Write the outputs of a batch. Returns None, or what is wrong with it: (kind, position).");
  m.def("pairwise_backward", &backward, nb::arg("pairs"), nb::arg("groups"), nb::arg("given"),
        nb::arg("rows").noconvert().none(), nb::arg("weights").noconvert().none(), nb::arg("factors").noconvert(),
        nb::arg("values").noconvert().none(), nb::arg("threads"),
        "Write the gradients of tables, by distinct feature or (rows None) to zeroed dense arrays.");
  m.def("pairwise_backward_update", &backward_update, nb::arg("pairs"), nb::arg("groups"), nb::arg("given"),
        nb::arg("weight_step").none(), nb::arg("factor_step"), nb::arg("values").noconvert().none(),
        nb::arg("threads"), "Let the tables' rows step against their gradients, in place.");
  m.def("update_rows", &update_rows, nb::arg("rows").noconvert(), nb::arg("gradients").noconvert(),
        nb::arg("table").noconvert(), nb::arg("step"), nb::arg("threads"),
        "Let distinct rows of a table step against given gradients, in place.");
}

}  // namespace crossfm
