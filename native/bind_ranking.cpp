// Learning to rank: pairs given once with what items are drawn from, then passes over them.
#include <cstdint>
#include <optional>
#include <vector>

#include "bind.hpp"
#include "ranking.hpp"

namespace crossfm {
namespace {

template <class T>
using Out = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Out2 = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T>
using Maybe = std::optional<Array<T>>;

void expect(bool holds, const char* what) {
  if (!holds) throw nb::value_error(what);
}

template <class T>
int64_t count(const Array<T>& array) { return static_cast<int64_t>(array.shape(0)); }

template <class T>
const T* pointer(const Maybe<T>& array) { return array ? array->data() : nullptr; }

void expect_below(const Array<int32_t>& numbers, int64_t limit, const char* what) {
  for (int64_t i = 0; i < count(numbers); ++i) expect(numbers.data()[i] >= 0 && numbers.data()[i] < limit, what);
}

// The rows of queries or of items.
struct RankingSide {
  Array<int64_t> ids, offsets;
  Maybe<float> values;
  Maybe<int32_t> field_of;
  int64_t n_features;
  Batch batch;

  RankingSide(Array<int64_t> ids_, Maybe<float> values_, Array<int64_t> offsets_, Maybe<int32_t> fields, int64_t features)
      : ids(ids_), offsets(offsets_), values(values_), field_of(fields), n_features(features) {
    const int64_t n = count(offsets) - 1, nnz = count(ids);
    expect(n >= 0 && offsets.data()[0] == 0 && offsets.data()[n] == nnz, "offsets must run from 0 to the number of ids");
    expect(!values || count(*values) == nnz, "values must be as many as ids");
    expect(!field_of || count(*field_of) == features, "field_of must be as many as features");
    for (int64_t r = 0; r < n; ++r) {
      const int64_t length = offsets.data()[r + 1] - offsets.data()[r];
      expect(length >= 0, "offsets must rise");
      if (length > batch.longest_row) batch.longest_row = length;
    }
    for (int64_t j = 0; j < nnz; ++j) expect(ids.data()[j] >= 0 && ids.data()[j] < features, "an id is out of range");
    batch.ids = ids.data();
    batch.wide = true;
    batch.values = pointer(values);
    batch.offsets = offsets.data();
  }
  int64_t rows() const { return count(offsets) - 1; }

  void vectors(Array<float> factors, int64_t stride, Array<float> linear, int64_t linear_stride, Out2<float> S, Out<float> b,
               int threads) const {
    const int k = static_cast<int>(S.shape(1));
    expect(static_cast<int64_t>(S.shape(0)) == rows() && static_cast<int64_t>(b.shape(0)) == rows(), "S and b must have a row for each row");
    expect(k > 0 && k % 4 == 0 && stride >= k && linear_stride > 0, "factors must be padded to a multiple of 4");
    expect(count(factors) >= (n_features - 1) * stride + k && count(linear) > (n_features - 1) * linear_stride,
           "the parameter arrays are too small");
    Scores model;
    model.factors = factors.data(), model.stride = stride;
    model.linear = linear.data(), model.linear_stride = linear_stride;
    model.k = k;
    nb::gil_scoped_release release;
    ranking_level().vectors(batch, rows(), pointer(field_of), model, S.data(), b.data(), threads);
  }
};

// Vose 1991: cells of equal chance, each of one item or of two.
void fill_alias(const double* share, int64_t n, std::vector<float>& keep, std::vector<int32_t>& alias) {
  std::vector<double> cell(share, share + n);
  std::vector<int32_t> small, large;
  keep.assign(n, 1.0f);
  alias.resize(n);
  for (int64_t i = 0; i < n; ++i) {
    alias[i] = static_cast<int32_t>(i);
    cell[i] *= static_cast<double>(n);
    (cell[i] < 1 ? small : large).push_back(static_cast<int32_t>(i));
  }
  while (!small.empty() && !large.empty()) {
    const int32_t little = small.back(), much = large.back();
    small.pop_back();
    keep[little] = static_cast<float>(cell[little]);
    alias[little] = much;
    cell[much] -= 1 - cell[little];
    if (cell[much] < 1) {
      large.pop_back();
      small.push_back(much);
    }
  }
  for (const int32_t i : small) {  // what rounding has left over; never one without a chance
    if (share[i] > 0 || large.empty()) continue;
    keep[i] = 0;
    alias[i] = large.back();
  }
}

class RankingPairs {
 public:
  RankingPairs(const RankingPairs&) = delete;
  RankingPairs(const RankingSide& queries, const RankingSide& items, Array<int32_t> query_of, Array<int32_t> item_of, Array<int32_t> user_of,
        Maybe<float> weights, Array<int64_t> seen_offsets, Array<int32_t> seen, Maybe<double> share)
      : queries_(queries), items_(items), query_of_(query_of), item_of_(item_of), user_of_(user_of), weights_(weights),
        seen_offsets_(seen_offsets), seen_(seen), share_(share) {
    expect(queries.n_features == items.n_features, "queries and items must be of one model");
    r_.queries = queries.batch, r_.items = items.batch;
    r_.field_of = pointer(queries.field_of);
    r_.n_queries = queries.rows(), r_.n_items = items.rows(), r_.n_pairs = count(query_of);
    const int64_t n_users = count(seen_offsets) - 1;
    expect(count(item_of) == r_.n_pairs && count(user_of) == r_.n_pairs && (!weights || count(*weights) == r_.n_pairs),
           "query_of, item_of, user_of and weights must be as long");
    expect(n_users >= 0 && seen_offsets.data()[0] == 0 && seen_offsets.data()[n_users] == count(seen),
           "seen_offsets must run from 0 to the number of seen items");
    expect_below(query_of, r_.n_queries, "a query is out of range");
    expect_below(item_of, r_.n_items, "an item is out of range");
    expect_below(user_of, n_users, "a user is out of range");
    expect_below(seen, r_.n_items, "a seen item is out of range");
    r_.query_of = query_of.data(), r_.item_of = item_of.data(), r_.user_of = user_of.data();
    r_.weights = pointer(weights);
    Negatives& from = r_.negatives;
    from.n_items = r_.n_items;
    from.seen_offsets = seen_offsets.data(), from.seen = seen.data();
    if (share) {
      expect(count(*share) == r_.n_items, "share must be as many as items");
      from.share = share->data();
      fill_alias(from.share, r_.n_items, keep_, alias_);
      from.keep = keep_.data(), from.alias = alias_.data();
    }
    double whole = 0;
    for (int64_t i = 0; i < r_.n_items; ++i) whole += share_of(i);
    for (int64_t u = 0; u < n_users; ++u) {
      double left = whole;
      bool any = false;
      int64_t j = seen_offsets.data()[u];
      expect(j <= seen_offsets.data()[u + 1], "seen_offsets must rise");
      for (; j < seen_offsets.data()[u + 1]; ++j) {
        expect(j == seen_offsets.data()[u] || seen.data()[j - 1] < seen.data()[j], "the seen items of a user must rise");
        left -= share_of(seen.data()[j]);
      }
      if (left > 1e-6) any = true;
      else left = 0;
      if (!any) {  // rounding may have eaten what is left: add it up
        int64_t next = seen_offsets.data()[u];
        for (int64_t i = 0; i < r_.n_items; ++i) {
          if (next < seen_offsets.data()[u + 1] && seen.data()[next] == i) ++next;
          else left += share_of(i);
        }
      }
      unseen_.push_back(left);
    }
    from.unseen_share = unseen_.data();
    rank_weights_.assign(r_.n_items + 1, 0.0f);
    double sum = 0;
    for (int64_t rank = 1; rank <= r_.n_items; ++rank) rank_weights_[rank] = static_cast<float>(sum += 1.0 / static_cast<double>(rank));
    r_.rank_weights = rank_weights_.data();
  }

  double train(std::optional<Array<int64_t>> order, Out<float> factors, Out<float> linear, int k, int loss,
               int64_t in_batch, int n_negatives, int max_trials, float learning_rate, float l2_linear, float l2_factors,
               uint64_t seed, uint64_t epoch, int threads) const {
    expect(loss >= 0 && loss < kRankLosses, "unknown loss");
    expect(n_negatives > 0 && max_trials > 0 && in_batch >= 0 && threads > 0, "counts are positive");
    expect(k > 0 && k % 4 == 0, "factors must be padded to a multiple of 4");
    Table table;
    table.n_features = queries_.n_features;
    table.k = k;
    expect(static_cast<int64_t>(factors.shape(0)) >= table.n_features * 2 * k &&
           static_cast<int64_t>(linear.shape(0)) >= table.n_features * 2, "the parameter arrays are too small");
    table.factors = factors.data(), table.linear = linear.data();
    RankSteps steps;
    steps.loss = static_cast<RankLoss>(loss);
    expect(!in_batch || steps.loss == RankLoss::softmax, "negatives within the batch are for the softmax");
    steps.in_batch = in_batch, steps.n_negatives = n_negatives;
    steps.max_trials = steps.loss == RankLoss::warp ? max_trials : 1;
    steps.learning_rate = learning_rate, steps.l2_linear = l2_linear, steps.l2_factors = l2_factors;
    steps.seed = seed, steps.epoch = epoch;
    std::vector<int64_t> all;
    if (!order) {
      for (int64_t p = 0; p < r_.n_pairs; ++p) all.push_back(p);
    } else {
      for (int64_t i = 0; i < count(*order); ++i) expect(order->data()[i] >= 0 && order->data()[i] < r_.n_pairs, "a pair is out of range");
    }
    const int64_t* pairs = order ? order->data() : all.data();
    const int64_t n = order ? count(*order) : r_.n_pairs;
    nb::gil_scoped_release release;
    return ranking_level().train(r_, pairs, n, table, steps, threads > 512 ? 512 : threads);
  }

  // The first items that are drawn for a pair in an epoch; -1 where there are none.
  void negatives(int64_t pair, uint64_t seed, uint64_t epoch, Out<int64_t> out) const {
    expect(pair >= 0 && pair < r_.n_pairs, "a pair is out of range");
    const Stream stream = Stream::of(seed, epoch, static_cast<uint64_t>(pair));
    uint64_t words = 0;
    for (size_t i = 0; i < out.shape(0); ++i) out.data()[i] = drawn_negative(r_.negatives, r_.user_of[pair], stream, words);
  }

 private:
  double share_of(int64_t item) const { return r_.negatives.share_of(item); }

  RankingSide queries_, items_;
  Array<int32_t> query_of_, item_of_, user_of_;
  Maybe<float> weights_;
  Array<int64_t> seen_offsets_;
  Array<int32_t> seen_;
  Maybe<double> share_;
  std::vector<float> keep_, rank_weights_;
  std::vector<int32_t> alias_;
  std::vector<double> unseen_;
  Ranking r_;
};

}  // namespace

void bind_ranking(nb::module_& m) {
  nb::class_<RankingSide>(m, "RankingSide", "The rows of queries or of items, whose features cross with those of the other side.")
      .def(nb::init<Array<int64_t>, Maybe<float>, Array<int64_t>, Maybe<int32_t>, int64_t>(), nb::kw_only(), nb::arg("ids"),
           nb::arg("values").none(), nb::arg("offsets"), nb::arg("field_of").none(), nb::arg("n_features"))
      .def("vectors", &RankingSide::vectors, nb::kw_only(), nb::arg("factors"), nb::arg("stride"), nb::arg("linear"),
           nb::arg("linear_stride"), nb::arg("S"), nb::arg("b"), nb::arg("threads"),
           "Write of each row the sum of its vectors, and its weights and inner interactions.");
  nb::class_<RankingPairs>(m, "RankingPairs", "Queries with the items that are right for them, and what others are drawn from.")
      .def(nb::init<const RankingSide&, const RankingSide&, Array<int32_t>, Array<int32_t>, Array<int32_t>, Maybe<float>, Array<int64_t>,
                    Array<int32_t>, Maybe<double>>(), nb::kw_only(), nb::arg("queries"), nb::arg("items"),
           nb::arg("query_of"), nb::arg("item_of"), nb::arg("user_of"), nb::arg("weights").none(),
           nb::arg("seen_offsets"), nb::arg("seen"), nb::arg("share").none())
      .def("train", &RankingPairs::train, nb::kw_only(), nb::arg("order").none(), nb::arg("factors"), nb::arg("linear"),
           nb::arg("k"), nb::arg("loss"), nb::arg("in_batch"), nb::arg("n_negatives"), nb::arg("max_trials"),
           nb::arg("learning_rate"), nb::arg("l2_linear"), nb::arg("l2_factors"), nb::arg("seed"), nb::arg("epoch"),
           nb::arg("threads"), "One pass over pairs (loss 0: BPR, 1: WARP, 2: softmax); the weighted sum of losses.")
      .def("negatives", &RankingPairs::negatives, nb::kw_only(), nb::arg("pair"), nb::arg("seed"), nb::arg("epoch"), nb::arg("out"),
           "Write the items that would be drawn for a pair, one after another.");
}

}  // namespace crossfm
