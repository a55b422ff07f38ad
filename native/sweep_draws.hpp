// The drawing side of a sweep: parameters from the sums over their rows.
#pragma once

#include <cmath>

#include "random.hpp"
#include "simd.hpp"
#include "sweep.hpp"

namespace crossfm::CROSSFM_LEVEL {

constexpr int64_t kSample = 256;  // units drawn at a time

// The values of one factor (or of the weights), and how they are drawn.
struct Drawer {
  const Sweep& s;
  float* value;             // [n_features]
  float* var;               // [n_features], variational Bayes
  const double* mean;       // [n_groups]
  const double* precision;  // [n_groups]
  Stream stream;
  const Ziggurat& z;

  Drawer(const Sweep& sweep, int f)  // f: -1 for the weights
      : s(sweep), value(f < 0 ? sweep.weights : sweep.factors + f * sweep.n_features),
        var(f < 0 ? sweep.weights_var : sweep.factors_var + f * sweep.n_features),
        mean(sweep.priors.mean + (f + 1) * sweep.n_groups),
        precision(sweep.priors.precision + (f + 1) * sweep.n_groups),
        stream(Stream::of(sweep.seed, sweep.iteration, static_cast<uint64_t>(f + 2))), z(ziggurat()) {}

  // Draws a feature from its sums of h^2 and h e; what was added to its value.
  CROSSFM_INLINE float draw(int64_t feature, double hh, double he) const {
    const int32_t g = s.group_of[feature];
    const float old = value[feature];
    const double p = precision[g] + s.noise * hh;
    double next = p > 0 ? (precision[g] * mean[g] + s.noise * (he + old * hh)) / p : old;
    if (s.method == Method::gibbs) next += normal(stream, static_cast<uint64_t>(feature), z) / std::sqrt(p);
    if (s.method == Method::vb) var[feature] = static_cast<float>(1 / p);
    const float change = static_cast<float>(next) - old;
    value[feature] = old + change;
    return change;
  }
};

// Draws the features [low, high) of a field.
template <bool VB>
CROSSFM_NOINLINE void draw_field(const Sweep& s, const Member& m, const Drawer& drawer, int64_t low, int64_t high) {
  double sums[2 * kSample];
  for (int64_t from = low; from < high; from += kSample) {
    const int64_t to = from + kSample < high ? from + kSample : high;
    for (int64_t i = 0; i < 2 * (to - from); ++i) sums[i] = 0;
    for (int c = 0; c < s.n_chunks; ++c) {
      const int64_t a = from > m.low[c] ? from : m.low[c], b = to < m.high[c] ? to : m.high[c];
      double* part = m.sums[c] - 2 * m.low[c];
      for (int64_t i = 2 * a; i < 2 * b; ++i) {
        sums[i - 2 * from] += part[i];
        part[i] = 0;
      }
    }
    for (int64_t u = from; u < to; ++u) {
      const int64_t feature = m.first + u;
      const float old = drawer.value[feature];
      float old_t = 0;
      if constexpr (VB) old_t = drawer.var[feature];
      m.before[u] = old;
      m.change[u] = drawer.draw(feature, sums[2 * (u - from)], sums[2 * (u - from) + 1]);
      if constexpr (VB) {
        m.change_t[u] = drawer.var[feature] - old_t;
        m.change_p[u] = drawer.var[feature] * drawer.value[feature] - old_t * old;
      }
    }
  }
}

CROSSFM_INLINE double column_value(const Member& m, int64_t j) {
  return m.column_values ? static_cast<double>(m.column_values[j]) : 1.0;
}

// Behind the last feature of the field that starts at feature i; each stands alone without fields.
CROSSFM_INLINE int64_t end_of_field(const Member& m, int64_t i) {
  int64_t end = i + 1;
  while (m.column_fields && end < m.features && m.column_fields[end] == m.column_fields[i]) ++end;
  return end;
}

// What features [begin, end) of one field add to q (and t) of their units, into `own`.
template <bool VB>
CROSSFM_INLINE void sum_field(const Member& m, const float* v, const float* var, int64_t begin, int64_t end) {
  for (int64_t j = m.columns[begin]; j < m.columns[end]; ++j) {
    m.table[m.column_units[j]].own = 0;
    if constexpr (VB) m.spreads[m.column_units[j]].own = 0;
  }
  for (int64_t i = begin; i < end; ++i) {
    for (int64_t j = m.columns[i]; j < m.columns[i + 1]; ++j) {
      const double x = column_value(m, j);
      m.table[m.column_units[j]].own += v[m.first + i] * x;
      if constexpr (VB) m.spreads[m.column_units[j]].own += var[m.first + i] * x * x;
    }
  }
}

// A block's part of q (t and p) for the factor whose values are v (null: the weights).
template <bool VB>
CROSSFM_NOINLINE void begin_block(const Member& m, const float* v, const float* var) {
  for (int64_t u = 0; u < m.units; ++u) {
    m.table[u].q = m.table[u].shift = 0;
    if constexpr (VB) m.spreads[u].t = m.spreads[u].p = 0;
  }
  for (int64_t i = 0; v && i < m.features;) {
    const int64_t end = VB ? end_of_field(m, i) : i + 1;
    if constexpr (VB) {
      sum_field<VB>(m, v, var, i, end);
      for (int64_t j = m.columns[i]; j < m.columns[end]; ++j) {
        UnitSpread& spread = m.spreads[m.column_units[j]];
        spread.t += spread.own;
        spread.p += spread.own * m.table[m.column_units[j]].own;
        spread.own = 0;  // once a unit
      }
    }
    for (int64_t t = i; t < end; ++t) {
      for (int64_t j = m.columns[t]; j < m.columns[t + 1]; ++j) {
        m.table[m.column_units[j]].q += v[m.first + t] * column_value(m, j);
      }
    }
    i = end;
  }
  for (int64_t u = 0; u < m.units; ++u) {
    m.before[u] = static_cast<float>(m.table[u].q);
    if constexpr (VB) {
      m.before_t[u] = static_cast<float>(m.spreads[u].t);
      m.before_p[u] = static_cast<float>(m.spreads[u].p);
    }
  }
}

// The sums of the units [low, high) from those of the chunks.
template <bool VB>
CROSSFM_NOINLINE void gather_units(const Sweep& s, const Member& m, int64_t low, int64_t high) {
  constexpr int N = VB ? 7 : 4;
  for (int64_t u = low; u < high; ++u) {
    m.table[u].c = m.table[u].cc = m.table[u].e = m.table[u].ce = 0;
    if constexpr (VB) m.spreads[u].ct = m.spreads[u].ctc = m.spreads[u].cp = 0;
  }
  for (int c = 0; c < s.n_chunks; ++c) {
    const int64_t a = low > m.low[c] ? low : m.low[c], b = high < m.high[c] ? high : m.high[c];
    for (int64_t u = a; u < b; ++u) {
      double* part = m.sums[c] + N * (u - m.low[c]);
      Unit& unit = m.table[u];
      unit.c += part[0], unit.cc += part[1], unit.e += part[2], unit.ce += part[3];
      if constexpr (VB) {
        UnitSpread& spread = m.spreads[u];
        spread.ct += part[4], spread.ctc += part[5], spread.cp += part[6];
      }
      for (int j = 0; j < N; ++j) part[j] = 0;
    }
  }
}

// Draws a block's features, column by column, on its units.
template <bool VB, bool LINEAR>
CROSSFM_NOINLINE void draw_block(const Member& m, const Drawer& drawer) {
  const bool pooled = m.column_fields && !LINEAR;
  int64_t end = 0;  // of the field at work
  for (int64_t i = 0; i < m.features; ++i) {
    if (pooled && i == end) {
      end = end_of_field(m, i);
      sum_field<VB>(m, drawer.value, drawer.var, i, end);
    }
    const int64_t feature = m.first + i;
    const float old = drawer.value[feature];
    float old_t = 0;
    if constexpr (VB && !LINEAR) old_t = drawer.var[feature];
    double hh = 0, he = 0;
    for (int64_t j = m.columns[i]; j < m.columns[i + 1]; ++j) {
      const Unit& unit = m.table[m.column_units[j]];
      const double x = column_value(m, j);
      if constexpr (LINEAR) {
        hh += x * x * unit.rows;
        he += x * unit.e;
      } else {
        const double own = pooled ? unit.own : old * x, a = unit.q - own;
        double squares = a * a * unit.rows + 2 * a * unit.c + unit.cc, products = a * unit.e + unit.ce;
        if constexpr (VB) {
          const UnitSpread& spread = m.spreads[m.column_units[j]];
          const double own_t = pooled ? spread.own : old_t * x * x;
          const double t = spread.t - own_t, p = spread.p - own_t * own;
          squares += t * unit.rows + spread.ct;
          products -= (t * unit.q - p) * unit.rows + t * unit.c + unit.q * spread.ct + spread.ctc - spread.cp;
        }
        hh += x * x * squares;
        he += x * products;
      }
    }
    const double change = drawer.draw(feature, hh, he);
    double change_t = 0, change_p = 0;
    if constexpr (VB && !LINEAR) {
      change_t = static_cast<double>(drawer.var[feature]) - old_t;
      change_p = static_cast<double>(drawer.var[feature]) * drawer.value[feature] - static_cast<double>(old_t) * old;
    }
    for (int64_t j = m.columns[i]; j < m.columns[i + 1]; ++j) {
      Unit& unit = m.table[m.column_units[j]];
      const double x = column_value(m, j), dx = change * x;
      if constexpr (LINEAR) {
        unit.e -= dx * unit.rows;
        unit.shift += dx;
      } else {
        const double a = unit.q - (pooled ? unit.own : old * x);
        unit.e -= dx * (a * unit.rows + unit.c);
        unit.ce -= dx * (a * unit.c + unit.cc);
        unit.shift += dx * a;
        unit.q += dx;
        if constexpr (VB) {
          UnitSpread& spread = m.spreads[m.column_units[j]];
          const double dt = change_t * x * x;
          spread.t += dt;
          spread.p += pooled ? (spread.own + dt) * (unit.own + dx) - spread.own * unit.own : change_p * x * x * x;
          spread.own += dt;
        }
        unit.own += dx;
      }
    }
  }
  for (int64_t u = 0; u < m.units; ++u) {
    m.shift[u] = static_cast<float>(m.table[u].shift);
    if constexpr (LINEAR) continue;
    m.change[u] = static_cast<float>(m.table[u].q - m.before[u]);
    if constexpr (VB) {
      m.change_t[u] = static_cast<float>(m.spreads[u].t - m.before_t[u]);
      m.change_p[u] = static_cast<float>(m.spreads[u].p - m.before_p[u]);
    }
  }
}

// What goes beside q in sums over a row's fields, a block's part: of q_g^2 and (variational Bayes)
// of t_g q_g^2 and t_g^2, into cc, e and ce of the units.
template <bool VB>
CROSSFM_NOINLINE void square_block(const Member& m, const float* v, const float* var) {
  for (int64_t u = 0; u < m.units; ++u) m.table[u].cc = m.table[u].e = m.table[u].ce = 0;
  for (int64_t i = 0; i < m.features;) {
    const int64_t end = end_of_field(m, i);
    sum_field<VB>(m, v, var, i, end);
    for (int64_t j = m.columns[i]; j < m.columns[end]; ++j) {
      Unit& unit = m.table[m.column_units[j]];
      unit.cc += unit.own * unit.own;
      if constexpr (VB) {
        const double t = m.spreads[m.column_units[j]].own;
        unit.e += t * unit.own * unit.own;
        unit.ce += t * t;
        m.spreads[m.column_units[j]].own = 0;
      }
      unit.own = 0;  // once a unit
    }
    i = end;
  }
}

}  // namespace crossfm::CROSSFM_LEVEL
