// The pairwise operator's kernels of one instruction-set level: drivers over rows, features and
// threads.
#include "pairwise.hpp"

#include <atomic>
#include <new>

#include "pairwise_backward.hpp"
#include "pairwise_forward.hpp"
#include "pool.hpp"
#include "rows.hpp"

namespace crossfm::CROSSFM_LEVEL {
namespace {

// What a thread takes at a time: rows going forward; going backward the features of so many
// occurrences, since a few features hold most of them; or features that have a gradient already.
constexpr int64_t kRowsAtATime = 64;
constexpr int64_t kOccurrencesAtATime = 2048;
constexpr int64_t kFeaturesAtATime = 256;

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Entries from one thread's part of a buffer to the next one's: no cache line (nor the pair of
// lines that chips fetch together) is shared, whatever the type.
int64_t apart(int64_t count) { return (count + 31) / 32 * 32 + 32; }

// Hands out 0..count in stretches. Which thread gets which changes from run to run; every result
// is one thread's work within one stretch, so it does not.
class Stretches {
 public:
  Stretches(int64_t count, int64_t size) : count_(count), size_(size) {}
  bool take(int64_t& begin, int64_t& end) {
    begin = next_.fetch_add(size_);
    end = smaller(count_, begin + size_);
    return begin < count_;
  }

 private:
  std::atomic<int64_t> next_{0};
  const int64_t count_, size_;
};

int64_t longest_row(const PairBatch& batch) {
  if (!batch.offsets) return batch.row_length;
  int64_t longest = 0;
  for (int64_t r = 0; r < batch.n_rows; ++r) {
    const int64_t length = batch.end(r) - batch.begin(r);
    longest = length > longest ? length : longest;
  }
  return longest;
}

// First position in begin..end whose id the table does not have, or end.
template <class Id>
int64_t first_bad(const Id* ids, int64_t begin, int64_t end, int64_t n) {
  bool bad = false;
  for (int64_t j = begin; j < end; ++j) bad |= (ids[j] < 0) | (ids[j] >= n);
  if (!bad) return end;
  while (ids[begin] >= 0 && ids[begin] < n) ++begin;
  return begin;
}

struct ForwardTeam {
  const PairBatch& batch;
  const PairTable& table;
  const PairForward& out;
  bool pool;               // by field
  int64_t longest, slots;  // features, and pools, of the longest row
  Stretches rows;
  std::atomic<int64_t> bad_id, bad_field;  // the lowest found yet
  // A thread's part of each:
  Buffer<RowFields::Mark> marks;
  Buffer<int64_t> pool_of, field_of;
  Buffer<float> pools;

  ForwardTeam(const PairBatch& b, const PairTable& t, const PairForward& o, bool by_field, int threads)
      : batch(b), table(t), out(o), pool(by_field), longest(longest_row(b)), slots(smaller(longest, b.n_fields)),
        rows(b.n_rows, kRowsAtATime), bad_id(INT64_MAX), bad_field(INT64_MAX),
        marks(pool ? threads * apart(b.n_fields) : 0), pool_of(pool ? threads * apart(longest) : 0),
        field_of(pool ? threads * apart(slots) : 0), pools(pool && !o.pooled ? threads * apart(slots * t.k) : 0) {
    if (!marks.raw || !pool_of.raw || !field_of.raw || !pools.raw) throw std::bad_alloc();
  }

  RowFields fields(int t) const {
    RowFields f;
    f.marks = marks.data + t * apart(batch.n_fields);
    f.pool_of = pool_of.data + t * apart(longest);
    f.field_of = field_of.data + t * apart(slots);
    return f;
  }
};

void lower(std::atomic<int64_t>& least, int64_t position) {
  int64_t seen = least.load();
  while (position < seen && !least.compare_exchange_weak(seen, position)) {}
}

template <class Id, int K>
void forward_row(const ForwardTeam& team, const RowView<Id>& row, int64_t r, const RowFields& fields, float* pools) {
  const int64_t k = team.table.k;
  const PairForward& out = team.out;
  const bool across = out.across_fields;
  float* place = out.pooled ? out.pooled + r * team.batch.n_fields * k : pools;
  if (out.pooled && fields.count < team.batch.n_fields) {
    std::memset(place, 0, static_cast<size_t>(team.batch.n_fields * k) * sizeof(float));
  }
  if (out.linear) out.linear[r] = team.table.weights ? row_linear(row, team.table.weights) : 0.0f;
  // One vector alone has no pairs; the difference of its squares would leave a rounding error.
  const bool alone = row.end - row.begin < 2 || (across && team.pool && fields.count < 2);
  float total = 0;
  each_block<K>(k, [&]<int B>(int64_t b) {
    Vec<B> s, q;
    const float* factors = team.table.factors + b;
    if (team.pool) row_pools<B>(row, factors, k, fields, place + b, k, out.pooled, across, s, q);
    else if (row.values) row_sums<B, true>(row, factors, k, s, q);
    else row_sums<B, false>(row, factors, k, s, q);
    s.store(out.S + r * k + b);
    const Vec<B> crossed = alone ? Vec<B>::all(0) : Vec<B>::all(0.5f) * (s * s - q);
    if (out.reduce_sum) total += crossed.sum();
    else crossed.store(out.crossed + r * k + b);
  });
  if (out.reduce_sum) out.crossed[r] = total;
}

template <class Id, int K>
void forward_rows(ForwardTeam& team, int t) {
  const PairBatch& batch = team.batch;
  const Id* ids = static_cast<const Id*>(batch.ids);
  const int64_t ahead = vectors_ahead(team.table.k);
  RowFields fields = team.fields(t);
  float* pools = team.pools.data + (team.out.pooled ? 0 : t * apart(team.slots * team.table.k));
  for (int64_t begin, end; team.rows.take(begin, end);) {
    const int64_t last = batch.end(end - 1);
    if (const int64_t bad = first_bad(ids, batch.begin(begin), last, batch.n_features); bad != last) {
      lower(team.bad_id, bad);
      continue;
    }
    for (int64_t r = begin; r < end; ++r) {
      if (int64_t position; team.pool && !fields.resolve(batch, r, position)) {
        lower(team.bad_field, position);
        break;
      }
      const RowView<Id> row{ids, batch.values, batch.begin(r), batch.end(r), batch.nnz, ahead};
      forward_row<Id, K>(team, row, r, fields, pools);
    }
  }
}

Problem forward(const PairBatch& batch, const PairTable& table, const PairForward& out, int threads) {
  threads = worth(threads, batch.nnz);
  ForwardTeam team(batch, table, out, batch.fields != nullptr, threads);
  with_k(table.k, [&]<int K>() {
    parallel(threads, [](int t, void* context) {
      auto& team = *static_cast<ForwardTeam*>(context);
      if (team.batch.wide_ids) forward_rows<int64_t, K>(team, t);
      else forward_rows<int32_t, K>(team, t);
    }, &team);
  });
  if (team.bad_id != INT64_MAX) return {Problem::id, team.bad_id};
  if (team.bad_field != INT64_MAX) return {Problem::field, team.bad_field};
  return {};
}

void pool(const PairBatch& batch, const PairTable& table, const int32_t* pool_of, float* pools, int threads) {
  struct Team {
    const PairBatch& batch;
    const PairTable& table;
    const int32_t* pool_of;
    float* pools;
    Stretches rows;
  } team{batch, table, pool_of, pools, {batch.n_rows, kRowsAtATime}};
  parallel(worth(threads, batch.nnz), [](int, void* context) {
    auto& [batch, table, pool_of, pools, rows] = *static_cast<Team*>(context);
    for (int64_t begin, end; rows.take(begin, end);) {
      for (int64_t j = batch.begin(begin), last = batch.end(end - 1); j < last; ++j) {
        if (pool_of[j] < 0) continue;
        const int64_t id = batch.wide_ids ? static_cast<const int64_t*>(batch.ids)[j]
                                          : static_cast<const int32_t*>(batch.ids)[j];
        const float x = batch.values ? batch.values[j] : 1.0f;
        float* p = pools + pool_of[j] * table.k;
        each_block<0>(table.k, [&]<int B>(int64_t b) {
          (Vec<B>::load(p + b) + Vec<B>::all(x) * Vec<B>::load(table.factors + id * table.k + b)).store(p + b);
        });
      }
    }
  }, &team);
}

struct BackwardTeam {
  Occurrences occurrences;
  const PairBackward& out;
  bool simple;
  Stretches occurrences_left;
  Buffer<float> gradients;  // [threads][apart(k)]: of the row that takes a step

  BackwardTeam(const PairBatch& batch, const GroupView& groups, const PairTable& table, const PairGradients& given,
               const PairBackward& o, int threads)
      : occurrences{batch, groups, table, given}, out(o),
        simple(given.crossed && given.reduce_sum && !given.pooled && !given.sum && !batch.values && !groups.row_of),
        occurrences_left(groups.nnz, kOccurrencesAtATime), gradients(threads * apart(table.k)) {
    if (!gradients.raw) throw std::bad_alloc();
  }
};

// The first group that starts at `position` or later.
int64_t first_group(const GroupView& groups, int64_t position) {
  int64_t low = 0, high = groups.count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (groups.starts[middle] < position) low = middle + 1;
    else high = middle;
  }
  return low;
}

CROSSFM_INLINE void prefetch_feature(const BackwardTeam& team, int64_t group) {
  const Occurrences& all = team.occurrences;
  const GroupView& groups = all.groups;
  const PairTable& table = all.table;
  const int64_t id = Occurrences::id(groups.entries[groups.starts[group]]);
  if (team.out.factor_step) prefetch_step(*team.out.factor_step, id, table.factors, table.k);
  else all.prefetch_vector(table.factors + id * table.k);
  if (team.out.weight_step) prefetch_step(*team.out.weight_step, id, table.weights, 1);
}

template <int K>
void backward_feature(const BackwardTeam& team, int64_t group, float* scratch) {
  const Occurrences& all = team.occurrences;
  const PairTable& table = all.table;
  const PairBackward& out = team.out;
  const int64_t k = table.k;
  const uint64_t* first = all.groups.entries + all.groups.starts[group];
  const uint64_t* last = all.groups.entries + all.groups.starts[group + 1];
  const int64_t id = Occurrences::id(*first);
  if (out.values) {  // before any step changes the parameters
    for (const uint64_t* e = first; e != last; ++e) out.values[Occurrences::mark(*e)] = all.value<K>(*e);
  }
  const int64_t place = out.dense ? id : group;
  float* gradient = out.factors ? out.factors + place * k : scratch;
  each_block<K>(k, [&]<int B>(int64_t b) {
    (team.simple ? all.simple<B>(first, last, b) : all.general<B>(first, last, b)).store(gradient + b);
  });
  float weight = table.weights ? all.weight(first, last) : 0.0f;
  if (out.rows) out.rows[group] = id;
  if (out.weights) out.weights[place] = weight;
  if (out.factor_step) step_row<K>(*out.factor_step, id, table.factors + id * k, gradient, k);
  if (out.weight_step) step_row<1>(*out.weight_step, id, table.weights + id, &weight, 1);
}

void backward(const PairBatch& batch, const GroupView& groups, const PairTable& table, const PairGradients& given,
              const PairBackward& out, int threads) {
  threads = worth(threads, batch.nnz);
  BackwardTeam team(batch, groups, table, given, out, threads);
  with_k(table.k, [&]<int K>() {
    parallel(threads, [](int t, void* context) {
      auto& team = *static_cast<BackwardTeam*>(context);
      float* scratch = team.gradients.data + t * apart(team.occurrences.table.k);
      const GroupView& groups = team.occurrences.groups;
      for (int64_t from, to; team.occurrences_left.take(from, to);) {
        const int64_t begin = first_group(groups, from), end = first_group(groups, to);
        for (int64_t g = begin; g < smaller(end, begin + kGroupsAhead); ++g) prefetch_feature(team, g);
        for (int64_t g = begin; g < end; ++g) {
          if (g + kGroupsAhead < end) prefetch_feature(team, g + kGroupsAhead);
          backward_feature<K>(team, g, scratch);
        }
      }
    }, &team);
  });
}

void update(const int64_t* rows, int64_t count, const float* gradients, float* table, int64_t k,
            const RowStep& step, int threads) {
  struct Team {
    const int64_t* rows;
    int64_t k;
    const float* gradients;
    float* table;
    const RowStep& step;
    Stretches stretches;
    Buffer<float> scratch;
  } team{rows, k, gradients, table, step, {count, kFeaturesAtATime}, Buffer<float>(threads * apart(k))};
  if (!team.scratch.raw) throw std::bad_alloc();
  with_k(k, [&]<int K>() {
    parallel(threads, [](int t, void* context) {
      auto& team = *static_cast<Team*>(context);
      float* gradient = team.scratch.data + t * apart(team.k);
      for (int64_t begin, end; team.stretches.take(begin, end);) {
        for (int64_t i = begin; i < end; ++i) {
          if (i + kGroupsAhead < end) prefetch_step(team.step, team.rows[i + kGroupsAhead], team.table, team.k);
          std::memcpy(gradient, team.gradients + i * team.k, static_cast<size_t>(team.k) * sizeof(float));
          step_row<K>(team.step, team.rows[i], team.table + team.rows[i] * team.k, gradient, team.k);
        }
      }
    }, &team);
  });
}

}  // namespace

const PairKernels& pair_kernels() {
  static constexpr PairKernels table{forward, pool, backward, update};
  return table;
}

}  // namespace crossfm::CROSSFM_LEVEL
