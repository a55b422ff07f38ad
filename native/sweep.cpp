#include "sweep.hpp"

#include "barrier.hpp"
#include "pool.hpp"
#include "sweep_draws.hpp"
#include "sweep_rows.hpp"

namespace crossfm::CROSSFM_LEVEL {
namespace {

// Threads at one sweep. Chunks of rows are the same for any number of threads, and so are results.
struct Team {
  const Sweep& s;
  const int threads;
  Barrier barrier;
  const float* targets = nullptr;  // residuals
  double bias = 0;
  float* out = nullptr;        // variances
  double* sums = nullptr;      // moments, 2 a chunk

  Team(const Sweep& sweep, int count) : s(sweep), threads(count), barrier(count) {}

  int64_t share(int64_t count, int thread) const { return count * thread / threads; }

  // work(chunk, low, high) on tiles of this thread's chunks.
  template <class Work>
  CROSSFM_INLINE void tiles(int thread, Work work) {
    for (int64_t c = share(s.n_chunks, thread); c < share(s.n_chunks, thread + 1); ++c) {
      for (int64_t low = s.chunks[c]; low < s.chunks[c + 1]; low += kTile) {
        const int64_t high = low + kTile < s.chunks[c + 1] ? low + kTile : s.chunks[c + 1];
        work(static_cast<int>(c), low, high);
      }
    }
  }

  // work(block) on this thread's blocks; all threads wait for it.
  template <class Work>
  CROSSFM_INLINE void blocks(int thread, Work work) {
    for (int i = thread; i < s.n_members; i += threads) {
      if (s.members[i].is_block) work(s.members[i]);
    }
    barrier.wait();
  }

  template <bool VB>
  void sweep(int thread) {
    alignas(64) float buffer[kWidest * kTile];
    const Member* drawn = nullptr;  // rows do not know of it yet
    bool drawn_linear = false;
    const auto settle_rows = [&](int64_t low, int64_t high) {
      if (drawn) settle<VB>(s, *drawn, drawn_linear, drawn == s.members + s.n_members - 1, low, high);
    };
    for (int f = s.with_weights ? -1 : 0; f < s.k; ++f) {
      const Drawer drawer(s, f);
      const float* v = f < 0 ? nullptr : drawer.value;
      if (drawn && drawn->is_block) {  // its changes are about to be written over
        tiles(thread, [&](int, int64_t low, int64_t high) { settle_rows(low, high); });
        drawn = nullptr;
        barrier.wait();
      }
      blocks(thread, [&](const Member& m) { begin_block<VB>(m, v, drawer.var); });
      for (int i = 0; i < s.n_members; ++i) {
        const Member& m = s.members[i];
        tiles(thread, [&](int chunk, int64_t low, int64_t high) {
          settle_rows(low, high);
          if (i == 0 && v) begin<VB>(s, v, drawer.var, low, high);
          collect<VB>(s, m, v, drawer.var, chunk, low, high, buffer);
        });
        barrier.wait();
        if (m.is_block) {
          gather_units<VB>(s, m, share(m.units, thread), share(m.units, thread + 1));
          barrier.wait();
          if (thread == 0) {
            if (v) draw_block<VB, false>(m, drawer);
            else draw_block<VB, true>(m, drawer);
          }
        } else {
          draw_field<VB>(s, m, drawer, share(m.units, thread), share(m.units, thread + 1));
        }
        barrier.wait();
        drawn = &m;
        drawn_linear = !v;
      }
    }
    tiles(thread, [&](int, int64_t low, int64_t high) { settle_rows(low, high); });
  }

  // q^2 less the squares of its fields' parts, over two: a factor's crossed term.
  void residuals(int thread) {
    float* __restrict e = s.residual;
    const float* __restrict q = s.q;
    blocks(thread, [&](const Member& m) { begin_block<false>(m, s.weights, nullptr); });
    tiles(thread, [&](int, int64_t low, int64_t high) {
      begin<false>(s, s.weights, nullptr, low, high);
      for (int64_t r = low; r < high; ++r) e[r] = static_cast<float>(targets[r] - bias - q[r]);
    });
    barrier.wait();
    for (int f = 0; f < s.k; ++f) {
      const float* v = s.factors + f * s.n_features;
      blocks(thread, [&](const Member& m) {
        square_block<false>(m, v, nullptr);
        for (int64_t u = 0; u < m.units; ++u) m.change[u] = static_cast<float>(m.table[u].cc);
        begin_block<false>(m, v, nullptr);
      });
      tiles(thread, [&](int, int64_t low, int64_t high) {
        begin<false>(s, v, nullptr, low, high);
        for (int64_t r = low; r < high; ++r) e[r] -= 0.5f * q[r] * q[r];
        for (int i = 0; i < s.n_members; ++i) {
          const Member& m = s.members[i];
          const bool is_block = m.is_block;
          const float* __restrict part = is_block ? m.change : v + m.first;
          const auto load = [=](int32_t u) { return is_block ? part[u] : part[u] * part[u]; };
          by_value(m, [&](auto x) {
            by_unit(m, low, high, load, [=](int64_t r, float square) { e[r] += 0.5f * x(r) * x(r) * square; });
          });
        }
      });
      barrier.wait();
    }
  }

  void moments(int thread) {
    const float* __restrict e = s.residual;
    const float* __restrict w = s.row_weights;
    tiles(thread, [&](int chunk, int64_t low, int64_t high) {
      float sum = 0, squares = 0;
      for (int64_t r = low; r < high; ++r) {
        const float we = w ? w[r] * e[r] : e[r];
        sum += we;
        squares += we * e[r];
      }
      sums[2 * chunk] += static_cast<double>(sum);
      sums[2 * chunk + 1] += static_cast<double>(squares);
    });
  }

  // Weights: sum of s x^2. A factor, with q_g and t_g the parts of q and t of field g:
  // sum over g of t_g (q - q_g)^2, and (t^2 - sum over g of t_g^2) / 2.
  void variances(int thread) {
    float* __restrict result = out;
    const float* __restrict q = s.q;
    const float* __restrict t = s.t;
    const float* __restrict p = s.p;
    blocks(thread, [&](const Member& m) { begin_block<true>(m, s.weights, s.weights_var); });
    tiles(thread, [&](int, int64_t low, int64_t high) {
      begin<true>(s, s.weights, s.weights_var, low, high);
      for (int64_t r = low; r < high; ++r) result[r] = t[r];
    });
    barrier.wait();
    for (int f = 0; f < s.k; ++f) {
      const float* v = s.factors + f * s.n_features;
      const float* var = s.factors_var + f * s.n_features;
      blocks(thread, [&](const Member& m) {
        square_block<true>(m, v, var);
        for (int64_t u = 0; u < m.units; ++u) {
          m.change[u] = static_cast<float>(m.table[u].e);
          m.change_t[u] = static_cast<float>(m.table[u].ce);
        }
        begin_block<true>(m, v, var);
      });
      tiles(thread, [&](int, int64_t low, int64_t high) {
        begin<true>(s, v, var, low, high);
        for (int64_t r = low; r < high; ++r) {
          result[r] += q[r] * q[r] * t[r] - 2 * q[r] * p[r] + 0.5f * t[r] * t[r];
        }
        for (int i = 0; i < s.n_members; ++i) {
          const Member& m = s.members[i];
          const bool is_block = m.is_block;
          const float* __restrict mean = is_block ? m.change : v + m.first;
          const float* __restrict spread = is_block ? m.change_t : var + m.first;
          const auto load = [=](int32_t u) {
            const float a = mean[u], b = spread[u];
            return is_block ? a - 0.5f * b : b * a * a - 0.5f * b * b;
          };
          by_value(m, [&](auto x) {
            by_unit(m, low, high, load, [=](int64_t r, float rest) {
              const float xx = x(r) * x(r);
              result[r] += xx * xx * rest;
            });
          });
        }
      });
      barrier.wait();
    }
  }
};

void sweep(const Sweep& s, int threads) {
  Team team(s, threads);
  parallel(threads, [](int thread, void* context) {
    Team& at = *static_cast<Team*>(context);
    if (at.s.method == Method::vb) at.sweep<true>(thread);
    else at.sweep<false>(thread);
  }, &team);
}

void residuals(const Sweep& s, const float* targets, double bias, int threads) {
  Team team(s, threads);
  team.targets = targets;
  team.bias = bias;
  parallel(threads, [](int thread, void* context) { static_cast<Team*>(context)->residuals(thread); }, &team);
}

void moments(const Sweep& s, double* out, int threads) {
  double sums[2 * kMostChunks] = {};
  Team team(s, threads);
  team.sums = sums;
  parallel(threads, [](int thread, void* context) { static_cast<Team*>(context)->moments(thread); }, &team);
  out[0] = out[1] = 0;
  for (int c = 0; c < s.n_chunks; ++c) out[0] += sums[2 * c], out[1] += sums[2 * c + 1];
}

void variances(const Sweep& s, float* out, int threads) {
  Team team(s, threads);
  team.out = out;
  parallel(threads, [](int thread, void* context) { static_cast<Team*>(context)->variances(thread); }, &team);
}

}  // namespace

const SweepKernels& sweep_kernels() {
  static const SweepKernels table{sweep, residuals, moments, variances};
  return table;
}

}  // namespace crossfm::CROSSFM_LEVEL
