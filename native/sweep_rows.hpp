// The streaming side of a sweep: passes over tiles of rows that bring e and q up to date with what
// was drawn, and sum up what the next member's conditionals need.
#pragma once

#include "simd.hpp"
#include "sweep.hpp"

#if defined(__GNUC__) && !defined(__clang__)
#define CROSSFM_LANES _Pragma("GCC ivdep")
#elif defined(__clang__)
#define CROSSFM_LANES _Pragma("clang loop vectorize(assume_safety)")
#else
#define CROSSFM_LANES
#endif

namespace crossfm::CROSSFM_LEVEL {

constexpr int64_t kTile = 1024;  // rows at work in the nearest cache
constexpr int kWidest = 7;       // Member::width

// body(first, last, unit) for the parts of runs in the rows [low, high).
template <class Body>
CROSSFM_INLINE void by_run(const Member& m, int64_t low, int64_t high, Body body) {
  int64_t run = 0;  // that of row `low`
  for (int64_t count = m.n_runs; count > 1;) {
    const int64_t half = count / 2;
    if (m.runs[run + half] <= low) run += half;
    count -= half;
  }
  for (int64_t r = low; r < high; ++run) {
    const int64_t end = m.runs[run + 1] < high ? m.runs[run + 1] : high;
    body(r, end, m.run_units[run]);
    r = end;
  }
}

// body(row, load(unit of the row)) for the rows of [low, high). Long runs of one unit come with one
// load for all their rows.
template <class Load, class Body>
CROSSFM_INLINE void by_unit(const Member& m, int64_t low, int64_t high, Load load, Body body) {
  const int32_t* unit_of = m.unit_of;
  if (!m.runs) {
    CROSSFM_LANES
    for (int64_t r = low; r < high; ++r) body(r, load(unit_of[r]));
    return;
  }
  by_run(m, low, high, [&](int64_t begin, int64_t end, int32_t unit) {
    const auto value = load(unit);
    CROSSFM_LANES
    for (int64_t i = begin; i < end; ++i) body(i, value);
  });
}

// with(x) where x(row) is the value of the member's feature in the row.
template <class With>
CROSSFM_INLINE void by_value(const Member& m, With with) {
  if (const float* values = m.values) with([values](int64_t r) { return values[r]; });
  else with([](int64_t) { return 1.0f; });
}

// The rows' e and q (and t and p) after a member has been drawn; `last` of the factor, it leaves q.
template <bool VB>
CROSSFM_NOINLINE void settle(const Sweep& s, const Member& m, bool linear, bool last, int64_t low, int64_t high) {
  struct Step { float before, change, shift, t, p; };
  float* __restrict e = s.residual;
  float* __restrict q = s.q;
  float* __restrict t = s.t;
  float* __restrict p = s.p;
  const float* __restrict before = m.before;
  const float* __restrict change = m.change;
  const float* __restrict shift = m.shift;
  const float* __restrict change_t = m.change_t;
  const float* __restrict change_p = m.change_p;
  if (linear) {
    const float* __restrict by = m.is_block ? shift : change;
    by_value(m, [&](auto x) {
      by_unit(m, low, high, [by](int32_t u) { return by[u]; }, [=](int64_t r, float d) { e[r] -= x(r) * d; });
    });
    return;
  }
  const bool is_block = m.is_block;
  const auto load = [=](int32_t u) {
    Step step{before[u], change[u], 0, 0, 0};
    if (is_block) step.shift = shift[u];
    if constexpr (VB) step.t = change_t[u], step.p = change_p[u];
    return step;
  };
  if (is_block) {
    return by_unit(m, low, high, load, [=](int64_t r, const Step& step) {
      e[r] -= step.shift + step.change * (q[r] - step.before);
      q[r] += step.change;
      if constexpr (VB) t[r] += step.t, p[r] += step.p;
    });
  }
  const float* __restrict h = s.h;
  if (!m.runs && !VB) {  // collect has kept h
    const auto load_change = [=](int32_t u) { return change[u]; };
    if (last) return by_unit(m, low, high, load_change, [=](int64_t r, float d) { e[r] -= h[r] * d; });
    return by_value(m, [&](auto x_at) {
      by_unit(m, low, high, load_change, [=](int64_t r, float d) {
        e[r] -= h[r] * d;
        q[r] += x_at(r) * d;
      });
    });
  }
  by_value(m, [&](auto x_at) {
    by_unit(m, low, high, load, [=](int64_t r, const Step& step) {
      const float x = x_at(r);
      e[r] -= x * (q[r] - x * step.before) * step.change;
      q[r] += x * step.change;
      if constexpr (VB) t[r] += x * x * step.t, p[r] += x * x * x * step.p;
    });
  });
}

// q (t and p) of the rows for the factor whose values are v (and variances var).
template <bool VB>
CROSSFM_NOINLINE void begin(const Sweep& s, const float* v, const float* var, int64_t low, int64_t high) {
  struct Part { float q, t, p; };
  float* __restrict q = s.q;
  float* __restrict t = s.t;
  float* __restrict p = s.p;
  for (int64_t r = low; r < high; ++r) {
    q[r] = 0;
    if constexpr (VB) t[r] = p[r] = 0;
  }
  for (int i = 0; i < s.n_members; ++i) {
    const Member& m = s.members[i];
    const bool is_block = m.is_block;
    const float* __restrict part = is_block ? m.before : v + m.first;
    const float* __restrict part_t = is_block ? m.before_t : var + m.first;
    const float* __restrict part_p = m.before_p;
    const auto load = [=](int32_t u) {
      Part own{part[u], 0, 0};
      if constexpr (VB) {
        own.t = part_t[u];
        own.p = is_block ? part_p[u] : own.t * own.q;
      }
      return own;
    };
    by_value(m, [&](auto x_at) {
      by_unit(m, low, high, load, [=](int64_t r, const Part& own) {
        const float x = x_at(r);
        q[r] += x * own.q;
        if constexpr (VB) t[r] += x * x * own.t, p[r] += x * x * x * own.p;
      });
    });
  }
}

// Adds the N numbers that terms(row, loaded, out) gives to the sums of the rows' units.
template <int N, class Load, class Terms>
CROSSFM_INLINE void add(const Member& m, int chunk, int64_t low, int64_t high, float* buffer, Load load,
                        Terms terms) {
  double* sums = m.sums[chunk] - N * m.low[chunk];
  const int32_t* unit_of = m.unit_of;
  if (m.runs) {
    return by_run(m, low, high, [&](int64_t begin, int64_t end, int32_t unit) {
      const auto value = load(unit);
      float total[N] = {};
      for (int64_t i = begin; i < end; ++i) {
        float t[N];
        terms(i, value, t);
        for (int j = 0; j < N; ++j) total[j] += t[j];
      }
      double* at = sums + N * static_cast<int64_t>(unit);
      for (int j = 0; j < N; ++j) at[j] += static_cast<double>(total[j]);
    });
  }
  float* __restrict out = buffer;
  CROSSFM_LANES
  for (int64_t r = low; r < high; ++r) {
    float t[N];
    terms(r, load(unit_of[r]), t);
    for (int j = 0; j < N; ++j) out[N * (r - low) + j] = t[j];
  }
  for (int64_t r = low; r < high; ++r) {
    double* at = sums + N * static_cast<int64_t>(unit_of[r]);
    const float* t = buffer + N * (r - low);
    for (int j = 0; j < N; ++j) at[j] += static_cast<double>(t[j]);
  }
}

// The sums that the conditionals of a member's features need, over rows of one chunk; v and var are
// null for the weights.
template <bool VB>
CROSSFM_NOINLINE void collect(const Sweep& s, const Member& m, const float* v, const float* var, int chunk,
                              int64_t low, int64_t high, float* buffer) {
  struct Own { float q, t, p; };
  const float* __restrict e = s.residual;
  const float* __restrict q = s.q;
  const float* __restrict t = s.t;
  const float* __restrict p = s.p;
  const float* __restrict w = s.row_weights;
  const auto by_weight = [w](auto with) {
    if (w) with([w](int64_t r, float h) { return w[r] * h; });
    else with([](int64_t, float h) { return h; });
  };
  if (m.is_block) {
    const float* __restrict before = m.before;
    const float* __restrict before_t = m.before_t;
    const float* __restrict before_p = m.before_p;
    const bool linear = !v;
    const auto load = [=](int32_t u) {
      Own own{before[u], 0, 0};
      if constexpr (VB) own.t = before_t[u], own.p = before_p[u];
      return own;
    };
    return by_weight([&](auto weigh) {
      constexpr int N = VB ? 7 : 4;
      add<N>(m, chunk, low, high, buffer, load, [=](int64_t r, const Own& own, float* out) {
        const float c = linear ? 0.0f : q[r] - own.q, wc = weigh(r, c), we = weigh(r, e[r]);
        out[0] = wc, out[1] = wc * c, out[2] = we, out[3] = we * c;
        if constexpr (VB) {
          const float ct = linear ? 0.0f : weigh(r, t[r] - own.t);
          out[4] = ct, out[5] = ct * c, out[6] = linear ? 0.0f : weigh(r, p[r] - own.p);
        }
      });
    });
  }
  if (!v) {
    return by_weight([&](auto weigh) {
      by_value(m, [&](auto x_at) {
        add<2>(m, chunk, low, high, buffer, [](int32_t) { return 0; }, [=](int64_t r, int, float* out) {
          const float x = x_at(r), wx = weigh(r, x);
          out[0] = wx * x, out[1] = wx * e[r];
        });
      });
    });
  }
  float* __restrict kept = s.h;
  const bool keep = !m.runs;
  const float* __restrict values = v + m.first;
  const float* __restrict variances = var + m.first;
  const auto load = [=](int32_t u) {
    Own own{values[u], 0, 0};
    if constexpr (VB) own.t = variances[u], own.p = own.t * own.q;
    return own;
  };
  by_weight([&](auto weigh) {
    by_value(m, [&](auto x_at) {
      add<2>(m, chunk, low, high, buffer, load, [=](int64_t r, const Own& own, float* out) {
        const float x = x_at(r), b = q[r] - x * own.q;
        if constexpr (VB) {
          const float wx = weigh(r, x), other = t[r] - x * x * own.t;
          out[0] = wx * x * (b * b + other);
          out[1] = wx * (b * e[r] - (other * q[r] - (p[r] - x * x * x * own.p)));
        } else {
          const float h = x * b, wh = weigh(r, h);
          if (keep) kept[r] = h;
          out[0] = wh * h, out[1] = wh * e[r];
        }
      });
    });
  });
}

}  // namespace crossfm::CROSSFM_LEVEL
