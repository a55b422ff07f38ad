// The kernels of one instruction-set level: drivers over rows and threads.
#include "kernels.hpp"

#include <atomic>
#include <cmath>
#include <memory>
#include <new>
#include <thread>

#include "loss.hpp"
#include "pool.hpp"
#include "update.hpp"

namespace crossfm::CROSSFM_LEVEL {
namespace {

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Everything a training pass shares between its threads.
struct Pass {
  const Batch& batch;
  const int64_t* order;
  const Table& table;
  const Steps& steps;
  const Hot& hot;
  const Blocks& blocks;
  int states;
  int64_t stride, linear_stride;  // floats a feature
  int64_t steady;                 // rows from which Adam needs no correction that a float shows

  Pass(const Batch& b, const int64_t* o, const Table& t, const Steps& s, const Hot& h, const Blocks& k)
      : batch(b), order(o), table(t), steps(s), hot(h), blocks(k), states(states_of(s.optimizer)),
        stride(int64_t{t.outputs} * (1 + states) * t.k), linear_stride(int64_t{t.outputs} * (1 + states)),
        steady(s.optimizer == Optimizer::adam ? steady_after(s.beta > s.beta2 ? s.beta : s.beta2) : 0) {}
  static int64_t steady_after(double decay) { return static_cast<int64_t>(-20 / std::log(decay)); }
  int64_t row(int64_t i) const { return order ? order[i] : i; }
  Places places() const { return {table.factors, table.linear, stride, linear_stride}; }
};

// One thread's working memory.
struct Scratch {
  Ring ring;
  Buffer<float> S, pooled, z, g;
  Scratch(const Pass& p, bool general)
      : ring(p.batch.longest_row, p.linear_stride),
        S(int64_t{p.table.outputs} * p.table.k),
        pooled(general ? p.table.outputs * p.batch.longest_row * p.table.k : 0),
        z(p.table.outputs),
        g(p.table.outputs) {
    if (!ring.ok() || !S.raw || !pooled.raw || !z.raw || !g.raw) throw std::bad_alloc();
  }
};

// Scores one resolved row for every output, keeping what its update needs; returns its loss.
// (look and step are calls: inlined into one function they fight for registers.)
template <int B, bool GENERAL, bool FETCH>
CROSSFM_NOINLINE double look(const Pass& pass, const Row& row, const Row& coming, const float* bias, float* S,
                             float* pooled, float* z, float* g) {
  const Table& table = pass.table;
  for (int c = 0; c < table.outputs; ++c) {
    const int64_t at = int64_t{c} * (1 + pass.states);
    z[c] = bias[at] + linear<GENERAL, FETCH>(row, coming, at) +
           crossed<B, GENERAL, FETCH>(row, coming, at * table.k, table.k, S + c * table.k,
                                      GENERAL ? pooled + c * pass.batch.longest_row * table.k : nullptr);
  }
  const Batch& batch = pass.batch;
  return loss_and_gradient(pass.steps, z, table.outputs, batch.targets[row.index],
                           batch.weights ? batch.weights[row.index] : 1.0f, g);
}

template <int B, bool GENERAL, Optimizer O>
CROSSFM_NOINLINE void step(const Pass& pass, const Steps& steps, const Row& row, const Row& coming, const float* S,
                           const float* pooled, const float* g) {
  const Table& table = pass.table;
  for (int c = 0; c < table.outputs; ++c) {
    const int64_t at = int64_t{c} * (1 + pass.states);
    update_linear<GENERAL, O>(row, coming, at, g[c], steps, pass.batch.has_repeats);
    update_factors<B, GENERAL, O>(row, coming, at * table.k, table.k, S + c * table.k,
                                  GENERAL ? pooled + c * pass.batch.longest_row * table.k : nullptr, g[c],
                                  steps);
  }
}

// The rates of the i-th row of a pass; Adam's change as rows go by.
template <Optimizer O>
class Clock {
 public:
  explicit Clock(const Pass& pass) : pass_(pass), now_(pass.steps) {}
  const Steps& at(int64_t i) {
    if constexpr (O == Optimizer::adam) {
      const int64_t t = pass_.blocks.rows_before + i + 1;
      if (t <= pass_.steady) now_ = corrected(pass_.steps, t), changed_ = true;
      else if (changed_) now_ = pass_.steps, changed_ = false;
      return now_;
    }
    return pass_.steps;
  }

 private:
  const Pass& pass_;
  Steps now_;
  bool changed_ = false;
};

// Rows one after the other: score, gradient, update, while the next rows' parameters arrive.
template <int B, bool GENERAL, Optimizer O>
double train_rows(const Pass& pass, int64_t begin, int64_t end, const Places& at, float* bias, Scratch& s) {
  const bool pool_fields = pass.steps.across_fields;
  Clock<O> clock(pass);
  double loss = 0;
  for (int64_t i = begin; i < end && i < begin + kAhead; ++i) {
    resolve<GENERAL>(pass.batch, at, pass.row(i), pool_fields, s.ring[i]);
    fetch_rest(s.ring[i], 0, pass.stride);
  }
  for (int64_t i = begin; i < end; ++i) {
    if (pass.order && i + 4 * kAhead < end) prefetch_row(pass.batch, pass.row(i + 4 * kAhead));
    const Row& row = s.ring[i];
    Row& coming = s.ring[i + kAhead];
    if (i + kAhead < end) resolve<GENERAL>(pass.batch, at, pass.row(i + kAhead), pool_fields, coming);
    loss += look<B, GENERAL, false>(pass, row, coming, bias, s.S.data, s.pooled.data, s.z.data, s.g.data);
    const Steps& steps = clock.at(i);
    step<B, GENERAL, O>(pass, steps, row, coming, s.S.data, s.pooled.data, s.g.data);
    fetch_rest(coming, row.m, pass.stride);
    for (int c = 0; c < pass.table.outputs; ++c) {
      update_bias<O>(bias + c * (1 + pass.states), s.g.data[c], steps);
    }
  }
  return loss;
}

// One thread's private copy of the bias and the hot features, and what it was at the last merge.
template <Optimizer O>
class Private {
 public:
  explicit Private(const Pass& pass)
      : pass_(pass),
        factors_(pass.hot.count * pass.stride), factors_base_(pass.hot.count * pass.stride),
        linear_(pass.hot.count * pass.linear_stride), linear_base_(pass.hot.count * pass.linear_stride),
        bias_(pass.linear_stride), bias_base_(pass.linear_stride) {
    if (!factors_.raw || !factors_base_.raw || !linear_.raw || !linear_base_.raw || !bias_.raw || !bias_base_.raw)
      throw std::bad_alloc();
    merge(true);  // of nothing: copies the table
  }

  Places places() const {
    Places at = pass_.places();
    if (pass_.hot.count) at.hot = pass_.hot.entries, at.hot_bits = pass_.hot.bits;
    at.hot_factors = factors_.data;
    at.hot_linear = linear_.data;
    return at;
  }
  float* bias() { return bias_.data; }

  // Adds this thread's changes to the table (unless they are too stale to), and takes it as the
  // new base.
  void merge(bool add) {
    const Table& t = pass_.table;
    add_ = add;
    for (int64_t i = 0; i < pass_.hot.count; ++i) {
      const int64_t id = pass_.hot.ids[i];
      const int32_t field = pass_.steps.per_field && pass_.batch.field_of ? pass_.batch.field_of[id] : 0;
      merge_one(t.factors + id * pass_.stride, factors_.data + i * pass_.stride,
                factors_base_.data + i * pass_.stride, t.k, rates_of(pass_.steps, true, field));
      merge_one(t.linear + id * pass_.linear_stride, linear_.data + i * pass_.linear_stride,
                linear_base_.data + i * pass_.linear_stride, 1, rates_of(pass_.steps, false, field));
    }
    merge_one(t.bias, bias_.data, bias_base_.data, 1,
              Rates{pass_.steps.learning_rate, pass_.steps.beta, 0, 0});
  }

 private:
  // Optimizer states are sums and add up. So do parameter changes, but for AdaGrad: a change made
  // while the sum of squares went from base to mine would have been smaller, had it come after
  // the other threads' shared - base; steps lr g / sqrt(a) over a rising a add up to 2 lr sqrt(a).
  // Adam's states are averages: of those that several threads have, the mean is taken.
  void merge_one(float* shared, float* mine, float* base, int k, const Rates& rates) {
    constexpr int N = Policy<O>::kStates;
    for (int c = 0; c < pass_.table.outputs; ++c) {
      for (int f = 0; !add_ && f < (1 + N) * k; ++f) mine[f] = base[f];
      if constexpr (O == Optimizer::adagrad) {
        for (int f = 0; f < k; ++f) {
          const float from = base[k + f], to = mine[k + f], now = shared[k + f];
          const float scale = (std::sqrt(from) + std::sqrt(to)) / (std::sqrt(now) + std::sqrt(now + (to - from)) + 1e-30f);
          shared[f] += scale * (mine[f] - base[f]);
        }
      } else {
        for (int f = 0; f < k; ++f) shared[f] += mine[f] - base[f];
      }
      for (int f = k; f < (1 + N) * k; ++f) {
        if constexpr (O == Optimizer::adam) {
          if (mine[f] != base[f]) shared[f] = shared[f] == base[f] ? mine[f] : 0.5f * (shared[f] + mine[f]);
        } else {
          shared[f] += mine[f] - base[f];
        }
      }
      if constexpr (O == Optimizer::ftrl) {
        for (int f = 0; f < k; ++f) {  // v follows from z and n
          const float z = shared[k + f], root = std::sqrt(shared[2 * k + f]);
          const float shrunk = z > rates.l1 ? z - rates.l1 : z < -rates.l1 ? z + rates.l1 : 0.0f;
          shared[f] = -shrunk / ((rates.beta + root) / rates.learning_rate + rates.l2);
        }
      }
      for (int f = 0; f < (1 + N) * k; ++f) mine[f] = base[f] = shared[f];
      shared += (1 + N) * k, mine += (1 + N) * k, base += (1 + N) * k;
    }
  }

  const Pass& pass_;
  bool add_ = true;
  Buffer<float> factors_, factors_base_, linear_, linear_base_, bias_, bias_base_;
};

class SpinLock {
 public:
  void lock() { while (flag_.test_and_set(std::memory_order_acquire)) std::this_thread::yield(); }
  void unlock() { flag_.clear(std::memory_order_release); }

 private:
  std::atomic_flag flag_ = ATOMIC_FLAG_INIT;
};

class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads) {}
  void wait() {
    const int round = round_.load();
    if (arrived_.fetch_add(1) + 1 == threads_) {
      arrived_.store(0);
      round_.store(round + 1);
    } else {
      for (int spins = 0; round_.load() == round;) {
        if (++spins > 2000) std::this_thread::yield();
      }
    }
  }

 private:
  const int threads_;
  std::atomic<int> arrived_{0}, round_{0};
};

// Several threads on one table: cold features are shared without locks, hot ones are private.
template <int B, bool GENERAL, Optimizer O>
double train_as(const Pass& pass, int64_t count, int threads) {
  if (threads <= 1) {
    Scratch scratch(pass, GENERAL);
    return train_rows<B, GENERAL, O>(pass, 0, count, pass.places(), pass.table.bias, scratch);
  }
  struct Team {
    const Pass& pass;
    int64_t count;
    SpinLock lock;
    int threads;
    int64_t next = 0, merged = 0;  // rows handed out, and rows whose changes are in the table
    std::unique_ptr<std::unique_ptr<Scratch>[]> scratch;
    std::unique_ptr<std::unique_ptr<Private<O>>[]> mine;
    std::unique_ptr<double[]> loss;
  } team{pass, count, {}, threads, 0, 0, {}, {}, {}};
  team.scratch.reset(new std::unique_ptr<Scratch>[threads]);
  team.mine.reset(new std::unique_ptr<Private<O>>[threads]);
  team.loss.reset(new double[threads]());
  for (int t = 0; t < threads; ++t) {
    team.scratch[t].reset(new Scratch(pass, GENERAL));
    team.mine[t].reset(new Private<O>(pass));
  }
  parallel(threads, [](int t, void* context) {
    Team& team = *static_cast<Team*>(context);
    const Places at = team.mine[t]->places();
    double loss = 0;
    for (int64_t begin = 0, end = 0, base = 0;;) {
      team.lock.lock();
      if (begin < end) {
        // A thread that the system put to sleep comes back with steps from a point long left.
        // The last of them would never be mended, so they are dropped: some rows of one block.
        const bool fresh = team.merged - base <= 4 * team.threads * (end - begin);
        team.mine[t]->merge(fresh);
        team.merged += end - begin;
      }
      base = team.merged;
      begin = team.next;
      end = smaller(team.count, begin + team.pass.blocks.at(begin));
      team.next = end;
      team.lock.unlock();
      if (begin == end) break;
      loss += train_rows<B, GENERAL, O>(team.pass, begin, end, at, team.mine[t]->bias(), *team.scratch[t]);
    }
    team.loss[t] = loss;
  }, &team);
  double loss = 0;
  for (int t = 0; t < threads; ++t) loss += team.loss[t];
  return loss;
}

// Blocks of rows: all are scored, then every thread updates the features it owns, in row order.
template <int B, bool GENERAL, Optimizer O>
double train_blocks_as(const Pass& pass, int64_t count, int threads) {
  const Table& table = pass.table;
  const int64_t per_row = table.outputs * int64_t{table.k};
  const int64_t pooled_per_row = GENERAL ? per_row * pass.batch.longest_row : 0;
  const int64_t room = (int64_t{1} << 22) / (per_row + pooled_per_row + 1);  // 16 MB of them
  const int64_t block = smaller(pass.blocks.most, room > 16 ? room : 16);

  struct Team {
    const Pass& pass;
    int64_t count, block, per_row, pooled_per_row;  // block: the most rows of one
    int threads;
    Barrier barrier;
    Buffer<float> S, pooled, g;
    std::unique_ptr<std::unique_ptr<Scratch>[]> scratch;
    std::unique_ptr<double[]> loss;  // of the rows of a block, added in row order
  } team{pass, count, block, per_row, pooled_per_row, threads, Barrier(threads), Buffer<float>(block * per_row),
         Buffer<float>(block * pooled_per_row), Buffer<float>(block * table.outputs), {}, {}};
  if (!team.S.raw || !team.pooled.raw || !team.g.raw) throw std::bad_alloc();
  team.scratch.reset(new std::unique_ptr<Scratch>[threads]);
  for (int t = 0; t < threads; ++t) team.scratch[t].reset(new Scratch(pass, GENERAL));
  team.loss.reset(new double[block + 1]());

  parallel(threads, [](int t, void* context) {
    Team& team = *static_cast<Team*>(context);
    const Pass& pass = team.pass;
    const bool pool_fields = pass.steps.across_fields;
    const int outputs = pass.table.outputs;
    Scratch& s = *team.scratch[t];
    Clock<O> clock(pass);
    Places all = pass.places(), own = pass.places();
    own.owner = static_cast<uint32_t>(t);
    own.owners = static_cast<uint32_t>(team.threads);
    for (int64_t begin = 0, n = 0; begin < team.count; begin += n) {
      n = smaller(smaller(team.block, pass.blocks.at(begin)), team.count - begin);
      const int64_t low = n * t / team.threads, high = n * (t + 1) / team.threads;
      for (int64_t i = low; i < high && i < low + kAhead; ++i) {
        resolve<GENERAL>(pass.batch, all, pass.row(begin + i), pool_fields, s.ring[i]);
        fetch_rest(s.ring[i], 0, pass.stride);
      }
      for (int64_t i = low; i < high; ++i) {
        Row& coming = s.ring[i + kAhead];
        if (i + kAhead < high) resolve<GENERAL>(pass.batch, all, pass.row(begin + i + kAhead), pool_fields, coming);
        team.loss[i] = look<B, GENERAL, true>(pass, s.ring[i], coming, pass.table.bias,
                                              team.S.data + i * team.per_row,
                                              team.pooled.data + i * team.pooled_per_row, s.z.data,
                                              team.g.data + i * outputs);
        fetch_rest(coming, s.ring[i].m, pass.stride);
      }
      team.barrier.wait();
      for (int64_t i = 0; i < n && i < kAhead; ++i) {
        resolve<GENERAL>(pass.batch, own, pass.row(begin + i), pool_fields, s.ring[i]);
        fetch_rest(s.ring[i], 0, pass.stride);
      }
      for (int64_t i = 0; i < n; ++i) {
        Row& coming = s.ring[i + kAhead];
        if (i + kAhead < n) resolve<GENERAL>(pass.batch, own, pass.row(begin + i + kAhead), pool_fields, coming);
        step<B, GENERAL, O>(pass, clock.at(begin + i), s.ring[i], coming, team.S.data + i * team.per_row,
                            team.pooled.data + i * team.pooled_per_row, team.g.data + i * outputs);
        fetch_rest(coming, s.ring[i].m, pass.stride);
      }
      if (t == 0) {
        for (int64_t i = 0; i < n; ++i) {
          const Steps& steps = clock.at(begin + i);
          for (int c = 0; c < outputs; ++c) {
            update_bias<O>(pass.table.bias + c * (1 + pass.states), team.g.data[i * outputs + c], steps);
          }
          team.loss[team.block] += team.loss[i];
        }
      }
      team.barrier.wait();
    }
  }, &team);
  return team.loss[block];
}

// Calls run.operator()<B, GENERAL, O>() for the pass at hand.
template <class Run>
double dispatch(const Pass& pass, bool frozen, Run run) {
  // Frozen scores go with frozen vectors, which only the general path keeps.
  const bool general = frozen || pass.batch.values || pass.steps.across_fields || pass.steps.per_field;
  double loss = 0;
  with_block(pass.table.k, [&]<int B>() {
    auto with = [&]<bool GENERAL>() {
      switch (pass.steps.optimizer) {
        case Optimizer::sgd: loss = run.template operator()<B, GENERAL, Optimizer::sgd>(); break;
        case Optimizer::adagrad: loss = run.template operator()<B, GENERAL, Optimizer::adagrad>(); break;
        case Optimizer::ftrl: loss = run.template operator()<B, GENERAL, Optimizer::ftrl>(); break;
        case Optimizer::adam: loss = run.template operator()<B, GENERAL, Optimizer::adam>(); break;
      }
    };
    if (general) with.template operator()<true>();
    else with.template operator()<false>();
  });
  return loss;
}

double train(const Batch& batch, const int64_t* order, int64_t count, const Table& table, const Steps& steps,
             const Hot& hot, const Blocks& blocks, int threads) {
  const Pass pass(batch, order, table, steps, hot, blocks);
  return dispatch(pass, false, [&]<int B, bool GENERAL, Optimizer O>() {
    return train_as<B, GENERAL, O>(pass, count, threads);
  });
}

double train_blocks(const Batch& batch, const int64_t* order, int64_t count, const Table& table,
                    const Steps& steps, const Blocks& blocks, int threads) {
  const Hot none;
  const Pass pass(batch, order, table, steps, none, blocks);
  return dispatch(pass, true, [&]<int B, bool GENERAL, Optimizer O>() {
    return train_blocks_as<B, GENERAL, O>(pass, count, threads);
  });
}

template <int B, bool GENERAL>
void score_as(const Batch& batch, int64_t count, const Scores& model, float* out, int threads) {
  struct Team {
    const Batch& batch;
    int64_t count;
    const Scores& model;
    float* out;
    std::atomic<int64_t> next{0};
    std::unique_ptr<std::unique_ptr<Ring>[]> rings;
  } team{batch, count, model, out, {}, {}};
  team.rings.reset(new std::unique_ptr<Ring>[threads]);
  for (int t = 0; t < threads; ++t) {
    team.rings[t].reset(new Ring(batch.longest_row, 1));
    if (!team.rings[t]->ok()) throw std::bad_alloc();
  }
  parallel(threads, [](int t, void* context) {
    Team& team = *static_cast<Team*>(context);
    constexpr int64_t block = 4096;
    for (;;) {
      const int64_t begin = team.next.fetch_add(block);
      if (begin >= team.count) break;
      const int64_t end = smaller(team.count, begin + block);
      score_rows<B, GENERAL>(team.batch, begin, end, team.model, *team.rings[t], team.out);
    }
  }, &team);
}

void score(const Batch& batch, int64_t count, const Scores& model, float* out, int threads) {
  with_block(model.k, [&]<int B>() {
    if (batch.values || model.across_fields) score_as<B, true>(batch, count, model, out, threads);
    else score_as<B, false>(batch, count, model, out, threads);
  });
}

}  // namespace

const Kernels& kernels() {
  static constexpr Kernels table{train, train_blocks, score};
  return table;
}

}  // namespace crossfm::CROSSFM_LEVEL
