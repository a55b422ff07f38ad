// Drivers over rows and threads, the same for every interaction.
//
// An interaction says how the features of a row cross. It is an object made for a pass, with
//   kGeneral      rows may have values, and any number of features of a field; else every value is
//                 1 and the feature at place t of a row is field t, or fields do not matter
//   kKeeps        scoring needs the memory that an update needs
//   kStorage      how it reads factors when scoring; rows of another storage are unpacked for it
//   kEarly        in training, crossed() asks for the coming row's vectors already
//   pools()       features of a field are numbered as one run of the row, else each is its own
//   sums(), pooled(), extra()
//                 floats that a row keeps for its update, an output, in S and in pooled; and what
//                 one thread needs besides
//   crossed<FETCH>(row, coming, shift, weights, S, pooled)
//                 the crossed term of the score, asking for the coming row on the way
//   kRowwise      it knows squares(row, shift, S, pooled, extra), which puts into the row's rates for
//                 each feature the sum of (d score / d v)^2 over its factors
//   update<O>(row, coming, shift, S, pooled, extra, g, steps)
//                 steps of the row's factors
//   update_weights<O>(weights, S, pooled, extra, g, steps, first, apart)
//                 steps of the weights that all rows share: those of the fields first,
//                 first + apart, ...
#pragma once

#include <atomic>
#include <cmath>
#include <memory>
#include <new>
#include <thread>

#include "barrier.hpp"
#include "loss.hpp"
#include "score_rows.hpp"
#include "update.hpp"

namespace crossfm::CROSSFM_LEVEL {
namespace {

// What all rows share, and steps with each: the table's own, or one thread's copy.
struct Shared {
  float* bias;
  float* weights;
};

// Everything a training pass shares between its threads.
struct Pass {
  const Batch& batch;
  const int64_t* order;
  const Table& table;
  const Steps& steps;
  const Hot& hot;
  const Blocks& blocks;
  int states, linear_states;
  int64_t stride, linear_stride;  // floats a feature
  int64_t weights;                // field weights an output
  int64_t steady;                 // rows from which Adam needs no correction that a float shows

  Pass(const Batch& b, const int64_t* o, const Table& t, const Steps& s, const Hot& h, const Blocks& k)
      : batch(b), order(o), table(t), steps(s), hot(h), blocks(k), states(states_of(s.optimizer)), linear_states(linear_states_of(s.optimizer)),
        stride(floats_of(t.storage, int64_t{t.outputs} * (1 + states) * t.k)), linear_stride(int64_t{t.outputs} * (1 + linear_states)),
        weights(int64_t{t.weight_rows} * fields_apart(t.weight_rows)),
        steady(s.optimizer == Optimizer::adam ? steady_after(s.beta > s.beta2 ? s.beta : s.beta2) : 0) {}
  static int64_t steady_after(double decay) { return static_cast<int64_t>(-20 / std::log(decay)); }
  int64_t row(int64_t i) const { return order ? order[i] : i; }
  Places places() const {
    Places at{table.factors, table.linear, stride, linear_stride};
    at.scales = table.scales;
    return at;
  }
  Shared shared() const { return {table.bias, table.field_weights}; }
  uint32_t turn(int64_t i) const { return scrambled(scrambled(steps.seed) + static_cast<uint32_t>(blocks.rows_before + i)); }
};

// What a row keeps between its score and its update.
struct Kept {
  float* S;
  float* pooled;
  float* g;
};

// One thread's working memory.
struct Scratch {
  Ring ring;
  Buffer<float> S, pooled, extra, z, g;
  template <class I>
  Scratch(const Pass& p, const I& cross)
      : ring(p.batch.longest_row, p.linear_stride),
        S(p.table.outputs * cross.sums()),
        pooled(p.table.outputs * cross.pooled()),
        extra(cross.extra()),
        z(p.table.outputs),
        g(p.table.outputs) {
    if (!ring.ok() || !S.raw || !pooled.raw || !extra.raw || !z.raw || !g.raw) throw std::bad_alloc();
  }
  Kept kept() const { return {S.data, pooled.data, g.data}; }
};

// Scores one resolved row for every output, keeping what its update needs; returns its loss.
// (look and step are calls: inlined into one function they fight for registers.)
template <class I, bool FETCH>
CROSSFM_NOINLINE double look(const Pass& pass, const I& cross, const Row& row, const Row& coming, Shared shared,
                             float* z, Kept kept) {
  const Table& table = pass.table;
  for (int c = 0; c < table.outputs; ++c) {
    const int64_t at = int64_t{c} * (1 + pass.states), narrow = int64_t{c} * (1 + pass.linear_states);
    z[c] = shared.bias[narrow] + linear<I::kGeneral, FETCH>(row, coming, narrow) +
           cross.template crossed<FETCH>(row, coming, at * table.k, shared.weights + at * pass.weights,
                                         kept.S + c * cross.sums(), kept.pooled + c * cross.pooled());
  }
  const Batch& batch = pass.batch;
  return loss_and_gradient(pass.steps, z, table.outputs, batch.targets[row.index],
                           batch.weights ? batch.weights[row.index] : 1.0f, kept.g);
}

template <class I, Optimizer O>
CROSSFM_NOINLINE void step(const Pass& pass, const I& cross, const Steps& steps, const Row& row, const Row& coming,
                           Kept kept, float* extra) {
  const Table& table = pass.table;
  for (int c = 0; c < table.outputs; ++c) {
    const int64_t at = int64_t{c} * (1 + pass.states), narrow = int64_t{c} * (1 + pass.linear_states);
    if constexpr (O == Optimizer::rowwise_adagrad) {
      cross.squares(row, at * table.k, kept.S + c * cross.sums(), kept.pooled + c * cross.pooled(), extra);
      for (int64_t t = row.m; t < row.n; ++t) row.rate[t] = 0;
    }
    update_linear<I::kGeneral, O>(row, coming, narrow, kept.g[c], steps, pass.batch.has_repeats);
    cross.template update<O>(row, coming, at * table.k, kept.S + c * cross.sums(),
                             kept.pooled + c * cross.pooled(), extra, kept.g[c], steps);
  }
}

template <class I, Optimizer O>
CROSSFM_INLINE void step_weights(const Pass& pass, const I& cross, const Steps& steps, Kept kept, float* extra,
                                 Shared shared, int first, int apart) {
  if (!pass.weights) return;
  for (int c = 0; c < pass.table.outputs; ++c) {
    cross.template update_weights<O>(shared.weights + int64_t{c} * (1 + pass.states) * pass.weights,
                                     kept.S + c * cross.sums(), kept.pooled + c * cross.pooled(), extra,
                                     kept.g[c], steps, first, apart);
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
template <class I, Optimizer O>
double train_rows(const Pass& pass, const I& cross, int64_t begin, int64_t end, const Places& at, Shared shared,
                  Scratch& s) {
  const bool pool_fields = cross.pools();
  Clock<O> clock(pass);
  double loss = 0;
  for (int64_t i = begin; i < end && i < begin + kAhead; ++i) {
    resolve<I::kGeneral>(pass.batch, at, pass.row(i), pool_fields, s.ring[i]);
    fetch_rest(s.ring[i], 0, 0, pass.stride);
  }
  for (int64_t i = begin; i < end; ++i) {
    if (pass.order && i + 4 * kAhead < end) prefetch_row(pass.batch, pass.row(i + 4 * kAhead));
    if (at.scales && i + 2 * kAhead < end) prefetch_scales(pass.batch, at.scales, pass.row(i + 2 * kAhead));
    Row& row = s.ring[i];
    row.turn = pass.turn(i);
    Row& coming = s.ring[i + kAhead];
    if (i + kAhead < end) resolve<I::kGeneral>(pass.batch, at, pass.row(i + kAhead), pool_fields, coming);
    loss += look<I, I::kEarly>(pass, cross, row, coming, shared, s.z.data, s.kept());
    const Steps& steps = clock.at(i);
    step<I, O>(pass, cross, steps, row, coming, s.kept(), s.extra.data);
    fetch_rest(coming, row.m, row.n, pass.stride);
    if constexpr (O == kPullSgd || O == kPullAdagrad) continue;
    step_weights<I, O>(pass, cross, steps, s.kept(), s.extra.data, shared, 0, 1);
    for (int c = 0; c < pass.table.outputs; ++c) {
      update_bias<O>(shared.bias + c * (1 + pass.linear_states), s.g.data[c], steps);
    }
  }
  return loss;
}

// One thread's private copy of what all rows share and of the hot features, and what it was at the last merge.
template <Optimizer O>
class Private {
 public:
  explicit Private(const Pass& pass)
      : pass_(pass),
        factors_(pass.hot.count * pass.stride), factors_base_(pass.hot.count * pass.stride),
        linear_(pass.hot.count * pass.linear_stride), linear_base_(pass.hot.count * pass.linear_stride),
        bias_(pass.linear_stride), bias_base_(pass.linear_stride),
        weights_(pass.linear_stride * pass.weights), weights_base_(pass.linear_stride * pass.weights),
        wide_(6 * pass.stride), rounds_(pass.turn(0)) {
    if (!factors_.raw || !factors_base_.raw || !linear_.raw || !linear_base_.raw || !bias_.raw ||
        !bias_base_.raw || !weights_.raw || !weights_base_.raw || !wide_.raw)
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
  Shared shared() const { return {bias_.data, weights_.data}; }

  // Adds this thread's changes to the table (unless they are too stale to), and takes it as the
  // new base.
  void merge(bool add) {
    const Table& t = pass_.table;
    add_ = add;
    for (int64_t i = 0; i < pass_.hot.count; ++i) {
      const int64_t id = pass_.hot.ids[i];
      const int32_t field = pass_.steps.per_field && pass_.batch.field_of ? pass_.batch.field_of[id] : 0;
      const float scale = t.scales && pass_.steps.varied ? std::fabs(t.scales[id]) : 1.0f;
      float* numbers[] = {t.factors + id * pass_.stride, factors_.data + i * pass_.stride,
                          factors_base_.data + i * pass_.stride};
      widen(numbers);
      if constexpr (O == Optimizer::rowwise_adagrad) merge_row(numbers, id, i);
      else merge_one<O, kStates>(numbers[0], numbers[1], numbers[2], t.k, rates_of(pass_.steps, true, field, scale));
      narrow(t.factors + id * pass_.stride, i);
      merge_one<kSingle<O>, kLinearStates>(t.linear + id * pass_.linear_stride, linear_.data + i * pass_.linear_stride,
                linear_base_.data + i * pass_.linear_stride, 1, rates_of(pass_.steps, false, field, scale));
    }
    const Rates free{pass_.steps.learning_rate, pass_.steps.beta, 0, 0};
    merge_one<kSingle<O>, kLinearStates>(t.bias, bias_.data, bias_base_.data, 1, free);
    if (pass_.weights) merge_one<O, kStates>(t.field_weights, weights_.data, weights_base_.data, pass_.weights, free);
  }

 private:
  static constexpr int kStates = Policy<O>::kStates;
  static constexpr int kLinearStates = O == Optimizer::rowwise_adagrad ? 3 : kStates;

  bool rounded() const { return pass_.table.storage == Storage::bfloat16; }

  // The table's, this thread's and the base's numbers of a hot feature as floats.
  void widen(float** numbers) {
    for (int n = 0; rounded() && n < 3; ++n) {
      float* out = wide_.data + n * 2 * pass_.stride;
      for (int64_t f = 0; f < 2 * pass_.stride; f += 4) Stored<Storage::bfloat16>::load<4>(numbers[n], f).store(out + f);
      numbers[n] = out;
    }
  }
  void narrow(float* shared, int64_t slot) {
    if (!rounded()) return;
    const Store<4, Storage::bfloat16> store(++rounds_);
    for (int64_t f = 0; f < 2 * pass_.stride; f += 4) store.put<true>(shared, f, Vec<4>::load(wide_.data + f), 0);
    for (float* copy : {factors_.data, factors_base_.data}) {
      std::memcpy(copy + slot * pass_.stride, shared, static_cast<size_t>(pass_.stride) * sizeof(float));
    }
  }

  // Optimizer states are sums and add up. So do parameter changes, but for AdaGrad: a change made
  // while the sum of squares went from base to mine would have been smaller, had it come after
  // the other threads' shared - base; steps lr g / sqrt(a) over a rising a add up to 2 lr sqrt(a).
  // Adam's states are averages: of those that several threads have, the mean is taken.
  template <Optimizer P, int N>
  void merge_one(float* shared, float* mine, float* base, int64_t k, const Rates& rates) {
    for (int c = 0; c < pass_.table.outputs; ++c) {
      for (int64_t f = 0; !add_ && f < (1 + N) * k; ++f) mine[f] = base[f];
      if constexpr (P == Optimizer::adagrad) {
        for (int64_t f = 0; f < k; ++f) {
          shared[f] += slowed(base[k + f], mine[k + f], shared[k + f]) * (mine[f] - base[f]);
        }
      } else {
        for (int64_t f = 0; f < k; ++f) shared[f] += mine[f] - base[f];
      }
      for (int64_t f = k; f < (1 + N) * k; ++f) {
        if constexpr (P == Optimizer::adam) {
          if (mine[f] != base[f]) shared[f] = shared[f] == base[f] ? mine[f] : 0.5f * (shared[f] + mine[f]);
        } else {
          shared[f] += mine[f] - base[f];
        }
      }
      if constexpr (P == Optimizer::ftrl) {
        for (int64_t f = 0; f < k; ++f) {  // v follows from z and n
          const float z = shared[k + f], root = std::sqrt(shared[2 * k + f]);
          const float shrunk = z > rates.l1 ? z - rates.l1 : z < -rates.l1 ? z + rates.l1 : 0.0f;
          shared[f] = -shrunk / ((rates.beta + root) / rates.learning_rate + rates.l2);
        }
      }
      for (int64_t f = 0; f < (1 + N) * k; ++f) mine[f] = base[f] = shared[f];
      shared += (1 + N) * k, mine += (1 + N) * k, base += (1 + N) * k;
    }
  }

  // Of a change made while a sum of squares went from `from` to `to`, what it would have been from `now` on.
  static float slowed(float from, float to, float now) {
    return (std::sqrt(from) + std::sqrt(to)) / (std::sqrt(now) + std::sqrt(now + (to - from)) + 1e-30f);
  }

  // A feature's factors, whose sums merge with its weight afterwards.
  void merge_row(float** numbers, int64_t id, int64_t slot) {
    const int64_t k = pass_.table.k;
    for (int c = 0; c < pass_.table.outputs; ++c) {
      const int64_t at = c * (1 + kLinearStates) + kRowSum;
      const float scale = slowed(linear_base_.data[slot * pass_.linear_stride + at], linear_.data[slot * pass_.linear_stride + at],
                                 pass_.table.linear[id * pass_.linear_stride + at]);
      for (int64_t f = c * k; f < (c + 1) * k; ++f) {
        if (add_) numbers[0][f] += scale * (numbers[1][f] - numbers[2][f]);
        numbers[1][f] = numbers[2][f] = numbers[0][f];
      }
    }
  }

  const Pass& pass_;
  bool add_ = true;
  Buffer<float> factors_, factors_base_, linear_, linear_base_, bias_, bias_base_, weights_, weights_base_;
  Buffer<float> wide_;  // three features' numbers, rounded ones as floats
  uint32_t rounds_;      // roundings of merged features
};

class SpinLock {
 public:
  void lock() { while (flag_.test_and_set(std::memory_order_acquire)) std::this_thread::yield(); }
  void unlock() { flag_.clear(std::memory_order_release); }

 private:
  std::atomic_flag flag_ = ATOMIC_FLAG_INIT;
};

// Several threads on one table: cold features are shared without locks, hot ones are private.
template <class I, Optimizer O>
double train_as(const Pass& pass, const I& cross, int64_t count, int threads) {
  if (threads <= 1) {
    Scratch scratch(pass, cross);
    return train_rows<I, O>(pass, cross, 0, count, pass.places(), pass.shared(), scratch);
  }
  struct Team {
    const Pass& pass;
    const I& cross;
    int64_t count;
    SpinLock lock;
    int threads;
    int64_t next = 0, merged = 0;  // rows handed out, and rows whose changes are in the table
    std::unique_ptr<std::unique_ptr<Scratch>[]> scratch;
    std::unique_ptr<std::unique_ptr<Private<O>>[]> mine;
    std::unique_ptr<double[]> loss;
  } team{pass, cross, count, {}, threads, 0, 0, {}, {}, {}};
  team.scratch.reset(new std::unique_ptr<Scratch>[threads]);
  team.mine.reset(new std::unique_ptr<Private<O>>[threads]);
  team.loss.reset(new double[threads]());
  for (int t = 0; t < threads; ++t) {
    team.scratch[t].reset(new Scratch(pass, cross));
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
      loss += train_rows<I, O>(team.pass, team.cross, begin, end, at, team.mine[t]->shared(), *team.scratch[t]);
    }
    team.loss[t] = loss;
  }, &team);
  double loss = 0;
  for (int t = 0; t < threads; ++t) loss += team.loss[t];
  return loss;
}

// Blocks of rows: all are scored, then every thread updates the features it owns, in row order.
template <class I, Optimizer O>
double train_blocks_as(const Pass& pass, const I& cross, int64_t count, int threads) {
  const Table& table = pass.table;
  const int64_t per_row = table.outputs * cross.sums();
  const int64_t pooled_per_row = table.outputs * cross.pooled();
  const int64_t room = (int64_t{1} << 22) / (per_row + pooled_per_row + 1);  // 16 MB of them
  const int64_t block = smaller(pass.blocks.most, room > 16 ? room : 16);

  struct Team {
    const Pass& pass;
    const I& cross;
    int64_t count, block, per_row, pooled_per_row;  // block: the most rows of one
    int threads;
    Barrier barrier;
    Buffer<float> S, pooled, g;
    std::unique_ptr<std::unique_ptr<Scratch>[]> scratch;
    std::unique_ptr<double[]> loss;  // of the rows of a block, added in row order

    Kept kept(int64_t i) const {
      return {S.data + i * per_row, pooled.data + i * pooled_per_row, g.data + i * pass.table.outputs};
    }
  } team{pass, cross, count, block, per_row, pooled_per_row, threads, Barrier(threads), Buffer<float>(block * per_row),
         Buffer<float>(block * pooled_per_row), Buffer<float>(block * table.outputs), {}, {}};
  if (!team.S.raw || !team.pooled.raw || !team.g.raw) throw std::bad_alloc();
  team.scratch.reset(new std::unique_ptr<Scratch>[threads]);
  for (int t = 0; t < threads; ++t) team.scratch[t].reset(new Scratch(pass, cross));
  team.loss.reset(new double[block + 1]());

  parallel(threads, [](int t, void* context) {
    Team& team = *static_cast<Team*>(context);
    const Pass& pass = team.pass;
    const bool pool_fields = team.cross.pools();
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
        resolve<I::kGeneral>(pass.batch, all, pass.row(begin + i), pool_fields, s.ring[i]);
        fetch_rest(s.ring[i], 0, 0, pass.stride);
      }
      for (int64_t i = low; i < high; ++i) {
        Row& coming = s.ring[i + kAhead];
        if (i + kAhead < high) resolve<I::kGeneral>(pass.batch, all, pass.row(begin + i + kAhead), pool_fields, coming);
        team.loss[i] = look<I, true>(pass, team.cross, s.ring[i], coming, pass.shared(), s.z.data, team.kept(i));
        fetch_rest(coming, s.ring[i].m, s.ring[i].n, pass.stride);
      }
      team.barrier.wait();
      for (int64_t i = 0; i < n && i < kAhead; ++i) {
        resolve<I::kGeneral>(pass.batch, own, pass.row(begin + i), pool_fields, s.ring[i]);
        fetch_rest(s.ring[i], 0, 0, pass.stride);
      }
      for (int64_t i = 0; i < n; ++i) {
        Row& coming = s.ring[i + kAhead];
        if (i + kAhead < n) resolve<I::kGeneral>(pass.batch, own, pass.row(begin + i + kAhead), pool_fields, coming);
        const Steps& steps = clock.at(begin + i);
        s.ring[i].turn = pass.turn(begin + i);
        step<I, O>(pass, team.cross, steps, s.ring[i], coming, team.kept(i), s.extra.data);
        step_weights<I, O>(pass, team.cross, steps, team.kept(i), s.extra.data, pass.shared(), t, team.threads);
        fetch_rest(coming, s.ring[i].m, s.ring[i].n, pass.stride);
      }
      if (t == 0) {
        for (int64_t i = 0; i < n; ++i) {
          const Steps& steps = clock.at(begin + i);
          for (int c = 0; c < outputs; ++c) {
            update_bias<O>(pass.table.bias + c * (1 + pass.linear_states), team.g.data[i * outputs + c], steps);
          }
          team.loss[team.block] += team.loss[i];
        }
      }
      team.barrier.wait();
    }
  }, &team);
  return team.loss[block];
}

// Calls run.operator()<O>() with the optimizer at hand.
template <class Run>
double with_optimizer(Optimizer o, Run run) {
  switch (o) {
    case Optimizer::sgd: return run.template operator()<Optimizer::sgd>();
    case Optimizer::adagrad: return run.template operator()<Optimizer::adagrad>();
    case Optimizer::ftrl: return run.template operator()<Optimizer::ftrl>();
    case Optimizer::adam: return run.template operator()<Optimizer::adam>();
    case Optimizer::rowwise_adagrad: break;  // of some interactions
  }
  return 0;
}

// Frozen scores go with frozen vectors, which only general interactions keep.
template <class I>
double train_with(const Pass& pass, const I& cross, int64_t count, bool frozen, int threads) {
  if constexpr (I::kStorage == Storage::bfloat16) {  // AdaGrad alone
    if (!frozen) return train_as<I, Optimizer::adagrad>(pass, cross, count, threads);
    if constexpr (I::kGeneral) return train_blocks_as<I, Optimizer::adagrad>(pass, cross, count, threads);
    return 0.0;
  }
  if (pass.steps.pulls) {
    if constexpr (I::kGeneral) {
      Scratch scratch(pass, cross);
      const auto pull = [&]<Optimizer O>() {
        return train_rows<I, O>(pass, cross, 0, count, pass.places(), pass.shared(), scratch);
      };
      return pass.states ? pull.template operator()<kPullAdagrad>() : pull.template operator()<kPullSgd>();
    }
    return 0;
  }
  const auto train = [&]<Optimizer O>() {
    if (!frozen) return train_as<I, O>(pass, cross, count, threads);
    if constexpr (I::kGeneral) return train_blocks_as<I, O>(pass, cross, count, threads);
    return 0.0;
  };
  if constexpr (I::kRowwise) {
    if (pass.steps.optimizer == Optimizer::rowwise_adagrad) return train.template operator()<Optimizer::rowwise_adagrad>();
  }
  return with_optimizer(pass.steps.optimizer, train);
}

// The table of kernels whose passes `train_any` and `score` dispatch.
template <auto train_any, auto score>
constexpr Kernels kernels_of() {
  return {
      [](const Batch& batch, const int64_t* order, int64_t count, const Table& table, const Steps& steps,
         const Hot& hot, const Blocks& blocks, int threads) {
        return train_any(Pass(batch, order, table, steps, hot, blocks), count, false, threads);
      },
      [](const Batch& batch, const int64_t* order, int64_t count, const Table& table, const Steps& steps,
         const Blocks& blocks, int threads) {
        const Hot none;
        return train_any(Pass(batch, order, table, steps, none, blocks), count, true, threads);
      },
      score,
  };
}

}  // namespace

}  // namespace crossfm::CROSSFM_LEVEL
