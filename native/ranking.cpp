#include "ranking.hpp"

#include <atomic>
#include <cmath>
#include <new>

#include "pool.hpp"
#include "update.hpp"

namespace crossfm::CROSSFM_LEVEL {
namespace {

// Where the parameters of a feature lie.
struct Parameters {
  const float* factors;
  const float* linear;
  int64_t stride, linear_stride;
  int k;
  const int32_t* field_of;

  CROSSFM_INLINE const float* v(int64_t id) const { return factors + id * stride; }
};

CROSSFM_INLINE int64_t id_at(const Batch& side, int64_t j) { return static_cast<const int64_t*>(side.ids)[j]; }
CROSSFM_INLINE float x_at(const Batch& side, int64_t j) { return side.values ? side.values[j] : 1.0f; }

// Where the run of features that begins at j ends: those of one field, or one feature.
CROSSFM_INLINE int64_t run_end(const Batch& side, const int32_t* field_of, int64_t j, int64_t end) {
  if (!field_of) return j + 1;
  const int32_t field = field_of[id_at(side, j)];
  int64_t e = j + 1;
  while (e < end && field_of[id_at(side, e)] == field) ++e;
  return e;
}

template <int B>
CROSSFM_INLINE Vec<B> pooled(const Batch& side, const Parameters& at, int64_t begin, int64_t end, int block) {
  Vec<B> p = Vec<B>::all(0);
  for (int64_t j = begin; j < end; ++j) p = p + Vec<B>::all(x_at(side, j)) * Vec<B>::load(at.v(id_at(side, j)) + block);
  return p;
}

// S of a row; returns b, its weights and inner interactions.
template <int B>
CROSSFM_INLINE float describe(const Batch& side, int64_t row, const Parameters& at, float* S) {
  using V = Vec<B>;
  const int64_t begin = side.begin(row), end = side.end(row);
  float inner = 0, weights = 0;
  for (int block = 0; block < at.k; block += B) {
    V s = V::all(0), q = V::all(0);
    for (int64_t j = begin; j < end;) {
      const int64_t e = run_end(side, at.field_of, j, end);
      const V p = pooled<B>(side, at, j, e, block);
      s = s + p;
      q = q + p * p;
      j = e;
    }
    s.store(S + block);
    inner += (s * s - q).sum();
  }
  for (int64_t j = begin; j < end; ++j) weights += x_at(side, j) * at.linear[id_at(side, j) * at.linear_stride];
  return weights + 0.5f * inner;
}

CROSSFM_INLINE float dot(const float* a, const float* b, int k) {
  Vec<4> sum = Vec<4>::all(0);
  for (int f = 0; f < k; f += 4) sum = sum + Vec<4>::load(a + f) * Vec<4>::load(b + f);
  return sum.sum();
}

// One thread's working memory, for batches of `pairs` queries with `candidates` items.
struct Room {
  int64_t pairs, candidates, touched;
  int k;
  float *query, *item, *sum;      // S of each query and candidate; one more vector
  float *b, *z, *g, *g_factors, *g_linear;
  int32_t *chosen, *slot_of;      // candidates; place of a feature's gradient, -1: none
  int64_t* ids;                   // of each gradient
  int64_t n_touched = 0;

  static int64_t floats(int64_t pairs, int64_t candidates, int64_t touched, int k) {
    return rounded((pairs + candidates + 1) * k + candidates + 2 * pairs * candidates + touched * (k + 1));
  }
  static int64_t rounded(int64_t n) { return (n + 15) / 16 * 16; }

  void cut(float* floats, int32_t* numbers, int64_t* wide) {
    query = floats, item = query + pairs * k, sum = item + candidates * k, g_factors = sum + k;
    g_linear = g_factors + touched * k, b = g_linear + touched, z = b + candidates, g = z + pairs * candidates;
    chosen = numbers, slot_of = chosen + candidates;
    ids = wide;
  }

  CROSSFM_INLINE int32_t slot(int64_t id) {
    int32_t& slot = slot_of[id];
    if (slot < 0) {
      slot = static_cast<int32_t>(n_touched);
      ids[n_touched++] = id;
      for (int f = 0; f < k; ++f) g_factors[int64_t{slot} * k + f] = 0;
      g_linear[slot] = 0;
    }
    return slot;
  }
};

struct Trainer {
  const Ranking& r;
  const int64_t* order;
  const Table& table;
  const RankSteps& steps;
  Parameters at;

  Trainer(const Ranking& ranking, const int64_t* o, const Table& t, const RankSteps& s)
      : r(ranking), order(o), table(t), steps(s), at{t.factors, t.linear, int64_t{2} * t.k, 2, t.k, ranking.field_of} {}

  float weight(int64_t pair) const { return r.weights ? r.weights[pair] : 1.0f; }

  template <int B>
  CROSSFM_INLINE void look(Room& room, int64_t candidate, int64_t item) const {
    room.chosen[candidate] = static_cast<int32_t>(item);
    room.b[candidate] = describe<B>(r.items, item, at, room.item + candidate * at.k);
  }
  CROSSFM_INLINE float score(const Room& room, int64_t query, int64_t candidate) const {
    return room.b[candidate] + dot(room.query + query * at.k, room.item + candidate * at.k, at.k);
  }

  // Softmax over one row of scores, of which `own` is the right one and NaN ones are left out.
  static CROSSFM_INLINE double softmax(const float* z, float* g, int64_t n, int64_t own, float weight) {
    float top = z[own];
    for (int64_t c = 0; c < n; ++c) top = z[c] > top ? z[c] : top;
    double total = 0;
    for (int64_t c = 0; c < n; ++c) total += g[c] = z[c] == z[c] ? std::exp(z[c] - top) : 0.0f;
    const float scale = static_cast<float>(weight / total);
    for (int64_t c = 0; c < n; ++c) g[c] *= scale;
    g[own] = -weight * static_cast<float>((total - std::exp(double{z[own]} - top)) / total);
    return weight * (std::log(total) + top - z[own]);
  }

  // The gradient of one pair by its candidates' scores, into room.g; how many candidates there are,
  // 0 where nothing is to be learned.
  template <int B>
  CROSSFM_INLINE int64_t judge(Room& room, int64_t pair, double& loss) const {
    const int64_t user = r.user_of[pair];
    const Stream stream = Stream::of(steps.seed, steps.epoch, static_cast<uint64_t>(pair));
    uint64_t words = 0;
    describe<B>(r.queries, r.query_of[pair], at, room.query);
    look<B>(room, 0, r.item_of[pair]);
    float *z = room.z, *g = room.g;
    z[0] = score(room, 0, 0);
    const float w = weight(pair);
    if (steps.loss == RankLoss::softmax) {
      // Of n draws, item j is expected n q_j / (share of all unseen) times: less its logarithm, the
      // sum of exponentials estimates that over all unseen items without bias.
      const double draws = steps.n_negatives / r.negatives.unseen_share[user];
      for (int c = 1; c <= steps.n_negatives; ++c) {
        const int64_t item = drawn_negative(r.negatives, user, stream, words);
        if (item < 0) return 0;
        look<B>(room, c, item);
        z[c] = score(room, 0, c) - static_cast<float>(std::log(draws * r.negatives.share_of(item)));
      }
      loss += softmax(z, g, steps.n_negatives + 1, 0, w);
      return steps.n_negatives + 1;
    }
    for (int trial = 1; trial <= steps.max_trials; ++trial) {
      const int64_t item = drawn_negative(r.negatives, user, stream, words);
      if (item < 0) return 0;
      look<B>(room, 1, item);
      const float apart = z[0] - score(room, 0, 1);
      if (steps.loss == RankLoss::bpr) {
        const float e = std::exp(-std::fabs(apart));
        g[1] = w * (apart >= 0 ? e : 1.0f) / (1.0f + e);
        loss += w * (std::log(1.0 + e) + (apart < 0 ? -apart : 0.0f));
      } else {
        if (apart >= 1.0f) continue;
        const int64_t unseen = r.n_items - r.negatives.n_seen(user), rank = unseen / trial;
        g[1] = w * r.rank_weights[rank > 1 ? rank : 1];
        loss += double{g[1]} * (1.0f - apart);
      }
      g[0] = -g[1];
      return 2;
    }
    return 0;
  }

  // Pairs of a batch are each other's negatives; drawn by popularity, as it were.
  template <int B>
  CROSSFM_INLINE void judge_batch(Room& room, const int64_t* pairs, int64_t n, double& loss) const {
    for (int64_t q = 0; q < n; ++q) {
      describe<B>(r.queries, r.query_of[pairs[q]], at, room.query + q * at.k);
      look<B>(room, q, r.item_of[pairs[q]]);
    }
    for (int64_t q = 0; q < n; ++q) {
      const int64_t user = r.user_of[pairs[q]];
      float* z = room.z + q * n;
      int64_t others = 0;
      for (int64_t c = 0; c < n; ++c) {
        const bool fits = c == q || !has_seen(r.negatives, user, room.chosen[c]);
        z[c] = fits ? score(room, q, c) : NAN;
        others += fits && c != q;
      }
      const double draws = static_cast<double>(others) / r.negatives.unseen_share[user];
      for (int64_t c = 0; c < n; ++c) {
        if (c != q && z[c] == z[c]) z[c] -= static_cast<float>(std::log(draws * r.negatives.share_of(room.chosen[c])));
      }
      loss += softmax(z, room.g + q * n, n, q, weight(pairs[q]));
    }
  }

  // Adds the gradient of all parameters, then steps each of them once.
  template <int B>
  CROSSFM_INLINE void apply(Room& room, const int64_t* pairs, int64_t n, int64_t candidates) const {
    using V = Vec<B>;
    const int k = at.k;
    for (int64_t q = 0; q < n; ++q) {
      const float* g = room.g + q * candidates;
      const int64_t row = r.query_of[pairs[q]];
      for (int block = 0; block < k; block += B) {
        V sum = V::all(0);
        for (int64_t c = 0; c < candidates; ++c) sum = sum + V::all(g[c]) * V::load(room.item + c * k + block);
        sum.store(room.sum + block);
      }
      for (int64_t j = r.queries.begin(row); j < r.queries.end(row); ++j) {
        float* to = room.g_factors + int64_t{room.slot(id_at(r.queries, j))} * k;
        const V x = V::all(x_at(r.queries, j));
        for (int block = 0; block < k; block += B) (V::load(to + block) + x * V::load(room.sum + block)).store(to + block);
      }
    }
    for (int64_t c = 0; c < candidates; ++c) {
      const int64_t row = room.chosen[c], begin = r.items.begin(row), end = r.items.end(row);
      float h = 0;
      for (int64_t q = 0; q < n; ++q) h += room.g[q * candidates + c];
      for (int block = 0; block < k; block += B) {
        V sum = V::all(h) * V::load(room.item + c * k + block);
        for (int64_t q = 0; q < n; ++q) sum = sum + V::all(room.g[q * candidates + c]) * V::load(room.query + q * k + block);
        sum.store(room.sum + block);
      }
      for (int64_t j = begin; j < end;) {
        const int64_t e = run_end(r.items, at.field_of, j, end);
        for (int64_t t = j; t < e; ++t) room.g_linear[room.slot(id_at(r.items, t))] += h * x_at(r.items, t);
        for (int block = 0; block < k; block += B) {
          const V rest = V::load(room.sum + block) - V::all(h) * pooled<B>(r.items, at, j, e, block);
          for (int64_t t = j; t < e; ++t) {
            float* to = room.g_factors + int64_t{room.slot_of[id_at(r.items, t)]} * k + block;
            (V::load(to) + V::all(x_at(r.items, t)) * rest).store(to);
          }
        }
        j = e;
      }
    }
    step<B>(room);
  }

  template <int B>
  CROSSFM_INLINE void step(Room& room) const {
    using V = Vec<B>;
    using P = Policy<Optimizer::adagrad>;
    const int k = at.k;
    const Rates factors{steps.learning_rate, 1, 0, steps.l2_factors}, linear{steps.learning_rate, 1, 0, steps.l2_linear};
    for (int64_t i = 0; i < room.n_touched; ++i) {
      const int64_t id = room.ids[i];
      float* p = table.factors + id * at.stride;
      for (int block = 0; block < k; block += B) {
        V v = V::load(p + block), state = V::load(p + k + block);
        const V gradient = V::load(room.g_factors + i * k + block) + V::all(P::decay(factors)) * v;
        P::template step<B>(v, &state, gradient, factors);
        v.store(p + block);
        state.store(p + k + block);
      }
      if (room.g_linear[i] != 0) {
        float* w = table.linear + id * at.linear_stride;
        Vec<4> v = Vec<4>::all(w[0]), state = Vec<4>::all(w[1]);
        P::template step<4>(v, &state, Vec<4>::all(room.g_linear[i] + P::decay(linear) * w[0]), linear);
        w[0] = v.c[0][0];
        w[1] = state.c[0][0];
      }
      room.slot_of[id] = -1;
    }
    room.n_touched = 0;
  }

  template <int B>
  double run(Room& room, int64_t low, int64_t high) const {
    double loss = 0;
    if (steps.in_batch) {
      for (int64_t i = low; i < high; i += steps.in_batch) {
        const int64_t n = high - i < steps.in_batch ? high - i : steps.in_batch;
        judge_batch<B>(room, order + i, n, loss);
        apply<B>(room, order + i, n, n);
      }
      return loss;
    }
    for (int64_t i = low; i < high; ++i) {
      if (i + 2 < high) ask_for(order[i + 2]);
      const int64_t candidates = judge<B>(room, order[i], loss);
      if (candidates) apply<B>(room, order + i, 1, candidates);
    }
    return loss;
  }

  // Asks for the first parameters of a pair ahead of its turn.
  CROSSFM_INLINE void ask_for(int64_t pair) const {
    const int64_t rows[2] = {r.query_of[pair], r.item_of[pair]};
    for (int side = 0; side < 2; ++side) {
      const Batch& batch = side ? r.items : r.queries;
      if (batch.begin(rows[side]) == batch.end(rows[side])) continue;
      const float* v = at.v(id_at(batch, batch.begin(rows[side])));
      for (int64_t f = 0; f < at.stride; f += 16) prefetch(v + f);
    }
  }
};

double train(const Ranking& r, const int64_t* order, int64_t count, const Table& table, const RankSteps& steps,
             int threads) {
  if (!count) return 0;
  const Trainer trainer(r, order, table, steps);
  const int64_t pairs = steps.in_batch ? steps.in_batch : 1;
  const int64_t candidates = steps.in_batch ? pairs : steps.loss == RankLoss::softmax ? steps.n_negatives + 1 : 2;
  const int64_t touched = pairs * r.queries.longest_row + candidates * r.items.longest_row;
  const int64_t floats = Room::floats(pairs, candidates, touched, table.k);
  const int64_t numbers = Room::rounded(candidates + table.n_features);
  Buffer<float> memory(threads * floats);
  Buffer<int32_t> slots(threads * numbers);
  Buffer<int64_t> ids(threads * touched);
  Buffer<double> losses(threads);
  if (!memory.raw || !slots.raw || !ids.raw || !losses.raw) throw std::bad_alloc();
  struct Team {
    const Trainer& trainer;
    int64_t count, pairs, candidates, touched, floats, numbers;
    int threads;
    float* memory;
    int32_t* slots;
    int64_t* ids;
    double* losses;
  } team{trainer, count, pairs, candidates, touched, floats, numbers, threads, memory.data, slots.data, ids.data, losses.data};
  parallel(threads, [](int thread, void* context) {
    const Team& team = *static_cast<Team*>(context);
    const Trainer& trainer = team.trainer;
    Room room{};
    room.pairs = team.pairs, room.candidates = team.candidates, room.touched = team.touched, room.k = trainer.at.k;
    room.cut(team.memory + thread * team.floats, team.slots + thread * team.numbers, team.ids + thread * team.touched);
    for (int64_t id = 0; id < trainer.table.n_features; ++id) room.slot_of[id] = -1;
    const int64_t low = team.count * thread / team.threads, high = team.count * (thread + 1) / team.threads;
    with_block(room.k, [&]<int B>() { team.losses[thread] = trainer.run<B>(room, low, high); });
  }, &team);
  double loss = 0;
  for (int t = 0; t < threads; ++t) loss += losses.data[t];
  return loss;
}

void vectors(const Batch& side, int64_t count, const int32_t* field_of, const Scores& model, float* S, float* b,
             int threads) {
  struct Team {
    const Batch& side;
    int64_t count;
    Parameters at;
    float *S, *b;
    int threads;
  } team{side, count, {model.factors, model.linear, model.stride, model.linear_stride, model.k, field_of}, S, b, threads};
  parallel(threads, [](int thread, void* context) {
    const Team& team = *static_cast<Team*>(context);
    const int64_t low = team.count * thread / team.threads, high = team.count * (thread + 1) / team.threads;
    with_block(team.at.k, [&]<int B>() {
      for (int64_t row = low; row < high; ++row) team.b[row] = describe<B>(team.side, row, team.at, team.S + row * team.at.k);
    });
  }, &team);
}

}  // namespace

const RankingKernels& ranking_kernels() {
  static const RankingKernels table{train, vectors};
  return table;
}

}  // namespace crossfm::CROSSFM_LEVEL
