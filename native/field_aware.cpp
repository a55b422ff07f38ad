// The field-aware machine: a feature has a vector for each field that it meets.
//
// A row's sums over fields, turned round, are what its update needs. With
//   T_fg = sum of x_i v_{i,g} over the features i of field f,
//   score = sum over f < g of <T_fg, T_gf>,  d score / d v_{i,g} = x_i T_gf,
// so that S holds T_gf at [f][g]: the gradient of all vectors of a feature is one run of memory, as
// the vectors are themselves. Where every field has one feature with the value 1, T is the row's
// vectors themselves: nothing is kept, and the two vectors of a pair step together.
#include "drivers.hpp"

namespace crossfm::CROSSFM_LEVEL {
namespace {

constexpr int kBlock = 16;  // k, the floats of all vectors of a feature, is a multiple of it

// LENGTH: of a vector for one field; 0: any.
template <int LENGTH, bool GENERAL, Storage M = Storage::float32>
struct FieldAware {
  static constexpr Storage kStorage = M;
  static constexpr bool kGeneral = GENERAL, kKeeps = GENERAL, kEarly = true;
  static constexpr bool kRowwise = M == Storage::float32;
  int k, n_fields, any_length;
  int64_t longest;
  bool inside;  // features of one field meet
  bool rowwise;  // pairs() finds sums of squares

  static constexpr bool kByPairs = !GENERAL && LENGTH && M == Storage::float32;
  static constexpr int kLength = LENGTH ? LENGTH : kBlock, kPairs = kBlock / kLength;  // pairs at a time

  int length() const { return LENGTH ? LENGTH : any_length; }
  bool pools() const { return false; }
  int64_t sums() const { return !kByPairs ? int64_t{n_fields} * k : rowwise ? longest * LENGTH : 0; }
  int64_t pooled() const { return GENERAL ? longest * any_length : 0; }
  int64_t extra() const { return GENERAL ? k : 0; }

  static CROSSFM_INLINE float number(const float* p, int64_t at) {
    if constexpr (M == Storage::float32) return p[at];
    else return Stored<M>::wide(reinterpret_cast<const uint16_t*>(p)[at]);
  }

  // The sum of a b over one vector, a from number i on and b from j on. Where KEEP, a goes to
  // `turned` and b to `straight`.
  template <bool KEEP>
  CROSSFM_INLINE void meet(const float* a, int64_t i, const float* b, int64_t j, float* straight, float* turned,
                           Vec<4>& sum, float& rest) const {
    const int n = length();
    int e = 0;
    for (; e + 4 <= n; e += 4) {
      const auto x = Stored<M>::template load<4>(a, i + e), y = Stored<M>::template load<4>(b, j + e);
      sum = sum + x * y;
      if constexpr (KEEP) y.store(straight + e), x.store(turned + e);
    }
    for (; e < n; ++e) {
      const float x = number(a, i + e), y = number(b, j + e);
      rest += x * y;
      if constexpr (KEEP) straight[e] = y, turned[e] = x;
    }
  }

  // Asks for `size` numbers of each feature of the coming row, a line at a time: all at once would
  // wait for each other.
  template <bool FETCH>
  struct Ahead {
    const Row& coming;
    int64_t shift, t = 0;
    int b = 0, k;
    Ahead(const Row& c, int64_t s, int size) : coming(c), shift(s), k(size) {}
    CROSSFM_INLINE void next() {
      if constexpr (FETCH) {
        if (t >= coming.m) return;
        prefetch_far(coming.p[t] + Stored<M>::floats(shift + b));
        b += Stored<M>::kLine;
        if (b >= k) b = 0, ++t;
      }
    }
    CROSSFM_INLINE void rest() {
      if constexpr (FETCH) {
        while (t < coming.m) next();
      }
    }
  };

  // The vectors of kPairs features from number `at` on, as one.
  static CROSSFM_INLINE Vec<kBlock> load_apart(float* const* p, int64_t at) {
    Vec<4> parts[4];
    for (int i = 0; i < 4; ++i) parts[i] = Stored<M>::template load<4>(p[4 * i / kLength], at + 4 * i % kLength);
    return joined(parts);
  }

  // One feature a field, all values 1, vectors of a length that the compiler knows. Into `squares`
  // [m][length], where SQUARES: for each feature the vectors that it meets, squared and added up.
  template <bool FETCH, bool SQUARES>
  CROSSFM_INLINE float pairs(const Row& row, const Row& coming, int64_t shift, float* squares) const {
    float* const* const p = row.p;
    const int64_t m = row.m;
    Ahead<FETCH> ahead(coming, shift, k);
    Vec<kBlock> sum = Vec<kBlock>::all(0);
    Vec<kLength> rest = Vec<kLength>::all(0);
    for (int64_t t = 0; t < m; ++t) {
      const int64_t other = shift + t * kLength;
      auto met = Vec<kBlock>::all(0);
      auto met_one = Vec<kLength>::all(0);
      int64_t u = 0;
      for (; u + kPairs <= t; u += kPairs) {
        ahead.next(), ahead.next();
        const auto mine = Stored<M>::template load<kBlock>(p[t], shift + u * kLength), theirs = load_apart(p + u, other);
        sum = sum + mine * theirs;
        if constexpr (SQUARES) {
          met = met + theirs * theirs;
          (Vec<kBlock>::load(squares + u * kLength) + mine * mine).store(squares + u * kLength);
        }
      }
      for (; u < t; ++u) {
        const auto mine = Stored<M>::template load<kLength>(p[t], shift + u * kLength);
        const auto theirs = Stored<M>::template load<kLength>(p[u], other);
        rest = rest + mine * theirs;
        if constexpr (SQUARES) {
          met_one = met_one + theirs * theirs;
          (Vec<kLength>::load(squares + u * kLength) + mine * mine).store(squares + u * kLength);
        }
      }
      if constexpr (SQUARES) (met_one + folded<kLength>(met)).store(squares + t * kLength);
    }
    ahead.rest();
    return sum.sum() + rest.sum();
  }

  // The same for any length.
  template <bool FETCH, bool KEEP>
  CROSSFM_INLINE float lookups(const Row& row, const Row& coming, int64_t shift, float* S) const {
    const int n = length(), k = this->k;  // the compiler cannot tell that S is not among them
    float* const* const p = row.p;
    const int64_t m = row.m;
    Ahead<FETCH> ahead(coming, shift, k);
    Vec<4> sum = Vec<4>::all(0);
    float rest = 0;
    for (int64_t t = 0; t < m; ++t) {
      float* mine = S + t * k;
      float* other = S + t * n;
      for (int64_t u = 0; u < t; ++u) {
        for (int e = 0; e < n; e += 8) ahead.next();
        meet<KEEP>(p[t], shift + u * n, p[u], shift + t * n, mine + u * n, other + u * k, sum, rest);
      }
      if constexpr (KEEP) {
        for (int e = 0; e < n; ++e) mine[t * n + e] = 0;
        for (int64_t e = m * n; e < k; ++e) mine[e] = 0;
      }
    }
    ahead.rest();
    return sum.sum() + rest;
  }

  CROSSFM_INLINE void fetch_vectors(const Row& coming, int64_t t, int64_t shift) const {
    const float* p = coming.p[t < coming.m ? t : 0] + Stored<M>::floats(shift);
    for (int b = 0; b < k; b += Stored<M>::kLine) prefetch(p + Stored<M>::floats(b));
  }

  // Any features in any number; those of a field stand together.
  template <bool FETCH>
  CROSSFM_INLINE float sums_of_fields(const Row& row, const Row& coming, int64_t shift, float* S, float* pooled) const {
    const int n = length();
    const int64_t m = row.m;
    const auto first = [&](int64_t t) { return t == 0 || row.field[t] != row.field[t - 1]; };
    for (int64_t t = 0; t < m; ++t) {
      if (!first(t)) continue;
      float* mine = S + int64_t{row.field[t]} * k;
      for (int e = 0; e < k; ++e) mine[e] = 0;
    }
    for (int64_t t = 0; t < m; ++t) {
      if constexpr (FETCH) fetch_vectors(coming, t, shift);
      const int64_t f = row.field[t];
      const float x = row.x[t];
      const float* v = row.p[t];
      for (int e = 0; e < n; ++e) pooled[t * n + e] = x * number(v, shift + f * n + e);
      for (int64_t u = 0; u < m; ++u) {
        if (!first(u)) continue;
        const int64_t g = row.field[u];
        float* sum = S + g * k + f * n;
        for (int e = 0; e < n; ++e) sum[e] += x * number(v, shift + g * n + e);
      }
    }
    float total = 0, within = 0;
    for (int64_t t = 0; t < m; ++t) {
      const int64_t f = row.field[t];
      float* own = S + f * k + f * n;
      if (inside) {  // 0 to the bit for a feature that is alone in its field
        for (int e = 0; e < n; ++e) within += pooled[t * n + e] * (own[e] - pooled[t * n + e]);
      }
      if (!first(t)) continue;
      for (int64_t u = 0; u < t; ++u) {
        if (!first(u) || row.field[u] == f) continue;
        const int64_t g = row.field[u];
        const float *a = S + f * k + g * n, *b = S + g * k + f * n;
        for (int e = 0; e < n; ++e) total += a[e] * b[e];
      }
    }
    return total + 0.5f * within;
  }

  template <bool FETCH>
  CROSSFM_INLINE float crossed(const Row& row, const Row& coming, int64_t shift, const float*, float* S,
                               float* pooled) const {
    if constexpr (GENERAL) return sums_of_fields<FETCH>(row, coming, shift, S, pooled);
    else if constexpr (kByPairs) return rowwise ? pairs<FETCH, true>(row, coming, shift, S) : pairs<FETCH, false>(row, coming, shift, nullptr);
    else return S ? lookups<FETCH, true>(row, coming, shift, S) : lookups<FETCH, false>(row, coming, shift, S);
  }

  // Numbers of one vector, or of several side by side, with their states.
  template <Optimizer O, int B>
  struct Numbers {
    static constexpr int N = Policy<O>::kStates;
    Vec<B> v, state[N + 1];

    CROSSFM_INLINE void load(const float* p, int64_t at, int k) {
      v = Stored<M>::template load<B>(p, at);
      for (int i = 0; i < N; ++i) state[i] = Stored<M>::template load<B>(p, at + int64_t{i + 1} * k);
    }
    CROSSFM_INLINE void load_apart(float* const* p, int64_t at, int k) {
      v = FieldAware::load_apart(p, at);
      for (int i = 0; i < N; ++i) state[i] = FieldAware::load_apart(p, at + int64_t{i + 1} * k);
    }
    CROSSFM_INLINE void step(const Vec<B>& gradient, const Rates& rates) {
      Policy<O>::template step<B>(v, state, gradient + Vec<B>::all(Policy<O>::decay(rates)) * v, rates);
    }
    CROSSFM_INLINE void store(float* p, int64_t at, int k) const {
      v.store(p + at);
      for (int i = 0; i < N; ++i) state[i].store(p + at + int64_t{i + 1} * k);
    }
    CROSSFM_INLINE void store_apart(float* const* p, int64_t at, int k) const {
      Vec<4> parts[4];
      for (int i = 0; i <= N; ++i) {
        split(i ? state[i - 1] : v, parts);
        for (int j = 0; j < 4; ++j) parts[j].store(p[4 * j / kLength] + at + int64_t{i} * k + 4 * j % kLength);
      }
    }
  };

  CROSSFM_INLINE void squares(const Row& row, int64_t, const float* S, const float* pooled, float*) const {
    const int n = length();
    for (int64_t t = 0; t < row.m; ++t) {
      Vec<4> sum = Vec<4>::all(0);
      if constexpr (kByPairs) {
        for (int e = 0; e < kLength; e += 4) sum = sum + Vec<4>::load(S + t * kLength + e);
        row.rate[t] = sum.sum();
        continue;
      }
      const int64_t f = row.field[t];
      const float* turned = S + f * k;
      for (int e = 0; e < k; e += 4) sum = sum + Vec<4>::load(turned + e) * Vec<4>::load(turned + e);
      float total = sum.sum();
      if constexpr (GENERAL) {  // of its own field it meets the others alone
        const float* own = pooled + int64_t{row.run[t]} * n;
        for (int e = 0; e < n; ++e) {
          const float with = turned[f * n + e], apart = inside ? with - own[e] : 0.0f;
          total += apart * apart - with * with;
        }
        total = total > 0 ? total * row.x[t] * row.x[t] : 0.0f;
      }
      row.rate[t] = total;
    }
  }

  // Steps of the two vectors of each pair. `apart` [m][length] is room for step sizes.
  template <Optimizer O>
  CROSSFM_INLINE void update_pairs(const Row& row, const Row& coming, int64_t shift, float* apart, float g,
                                   const Steps& steps) const {
    constexpr bool ROWWISE = O == Optimizer::rowwise_adagrad;
    constexpr int N = Policy<O>::kStates;
    const int k = this->k;  // the compiler cannot tell that no store changes it
    float* const* const p = row.p;
    const int64_t m = row.m;
    const Rates rates = rates_of(steps, true, 0, 1);
    const auto scale = Vec<kBlock>::all(g);
    const auto scale_one = Vec<kLength>::all(g);
    const float decay = Policy<O>::decay(rates);
    if constexpr (ROWWISE) {
      for (int64_t t = 0; t < m; ++t) Vec<kLength>::all(rates.learning_rate * row.rate[t]).store(apart + t * kLength);
    }
    // A step of numbers whose features stand from t on: of one feature, or (EACH) of kPairs.
    const auto step = [&]<bool EACH, int B>(Numbers<O, B>& numbers, const Vec<B>& gradient, int64_t t) {
      if constexpr (ROWWISE) {
        const auto rate = EACH ? Vec<B>::load(apart + t * kLength) : Vec<B>::all(apart[t * kLength]);
        numbers.v = numbers.v - rate * (gradient + Vec<B>::all(decay) * numbers.v);
      } else {
        numbers.step(gradient, rates);
      }
    };
    const bool idle = N < 2 && Policy<O>::decay(rates) == 0;  // numbers without a gradient stay
    Ahead<true> ahead(coming, shift + k, N * k);
    for (int64_t t = 0; t < m; ++t) {
      const int64_t other = shift + t * kLength;
      float* const of_t = p[t];
      int64_t u = 0;
      for (; u + kPairs <= t; u += kPairs) {
        for (int i = 0; i < 2 * N; ++i) ahead.next();
        float* of_u[kPairs];  // the compiler cannot tell that no store changes them
        for (int i = 0; i < kPairs; ++i) of_u[i] = p[u + i];
        Numbers<O, kBlock> mine, theirs;
        mine.load(of_t, shift + u * kLength, k);
        theirs.load_apart(of_u, other, k);
        const auto gradient = scale * theirs.v;
        step.template operator()<true>(theirs, scale * mine.v, u);
        step.template operator()<false>(mine, gradient, t);
        mine.store(of_t, shift + u * kLength, k);
        theirs.store_apart(of_u, other, k);
      }
      for (; u < t; ++u) {
        float* const of_u = p[u];
        Numbers<O, kLength> mine, theirs;
        mine.load(of_t, shift + u * kLength, k);
        theirs.load(of_u, other, k);
        const auto gradient = scale_one * theirs.v;
        step.template operator()<false>(theirs, scale_one * mine.v, u);
        step.template operator()<false>(mine, gradient, t);
        mine.store(of_t, shift + u * kLength, k);
        theirs.store(of_u, other, k);
      }
      if (idle) continue;
      for (int64_t e = t * kLength; e < k; e = e == t * kLength ? m * kLength : e + kLength) {
        Numbers<O, kLength> lone;
        lone.load(of_t, shift + e, k);
        step.template operator()<false>(lone, Vec<kLength>::all(0), t);
        lone.store(of_t, shift + e, k);
      }
    }
    ahead.rest();
  }

  template <Optimizer O>
  CROSSFM_INLINE void update(const Row& row, const Row& coming, int64_t shift, const float* S, const float* pooled,
                             float* gradient, float g, const Steps& steps) const {
    if constexpr (kByPairs) update_pairs<O>(row, coming, shift, const_cast<float*>(S), g, steps);
    else update_turned<O>(row, coming, shift, S, pooled, gradient, g, steps);
  }

  template <Optimizer O>
  CROSSFM_INLINE void update_turned(const Row& row, const Row& coming, int64_t shift, const float* S,
                                    const float* pooled, float* gradient, float g, const Steps& steps) const {
    using V = Vec<kBlock>;
    constexpr int N = Policy<O>::kStates;
    const int n = length(), k = this->k;  // the compiler cannot tell that no store changes it
    const Store<kBlock, M> store(row.turn);
    FactorRates<O, GENERAL> all_rates(steps, row);
    for (int64_t t = 0; t < row.m; ++t) {
      const Rates& rates = all_rates.at(t);
      const int64_t f = row.field[t];
      const float* turned = S + f * k;
      float gx = g;
      if constexpr (GENERAL) {
        const float* own = pooled + int64_t{row.run[t]} * n;
        for (int e = 0; e < k; ++e) gradient[e] = turned[e];
        for (int e = 0; e < n; ++e) gradient[f * n + e] = inside ? gradient[f * n + e] - own[e] : 0.0f;
        turned = gradient;
        gx = g * row.x[t];
      }
      float* p = row.p[t];
      const uint32_t feature = shift_of(row, t);
      const V scale = V::all(gx), decay = V::all(Policy<O>::decay(rates));
      for (int b = 0; b < k; b += kBlock) {
        const int64_t at = shift + b;
        for (int i = 1; i <= N; ++i) fetch<kBlock, M>(coming, t, at + int64_t{i} * k);
        V v = Stored<M>::template load<kBlock>(p, at), state[N + 1];
        for (int i = 0; i < N; ++i) state[i] = Stored<M>::template load<kBlock>(p, at + int64_t{i + 1} * k);
        Policy<O>::template step<kBlock>(v, state, scale * V::load(turned + b) + decay * v, rates);
        store.template put<false>(p, at, v, feature);
        for (int i = 0; i < N; ++i) store.template put<true>(p, at + int64_t{i + 1} * k, state[i], feature);
      }
    }
  }
  template <Optimizer O>
  void update_weights(float*, const float*, const float*, float*, float, const Steps&, int, int) const {}
};

// Calls run with the interaction for these rows.
template <Storage M, class Shape, class Run>
void with_interaction(const Batch& batch, const Shape& shape, bool across_fields, bool special, bool rowwise,
                      Run run) {
  const bool general = special || batch.values || batch.fields || batch.field_of;
  const auto with = [&]<int LENGTH, bool GENERAL>() {
    run(FieldAware<LENGTH, GENERAL, M>{shape.k, shape.n_fields, shape.length, batch.longest_row, !across_fields, rowwise});
  };
  const auto of_length = [&]<int LENGTH>() {
    if (general) with.template operator()<LENGTH, true>();
    else with.template operator()<LENGTH, false>();
  };
  if (shape.length == 4) of_length.template operator()<4>();
  else if (shape.length == 8) of_length.template operator()<8>();
  else of_length.template operator()<0>();
}

double train_any(const Pass& pass, int64_t count, bool frozen, int threads) {
  double loss = 0;
  const auto with = [&]<Storage M>() {
    with_interaction<M>(pass.batch, pass.table, pass.steps.across_fields, frozen || pass.table.scales || pass.steps.pulls || pass.batch.has_repeats,
                        pass.steps.optimizer == Optimizer::rowwise_adagrad,
                        [&](const auto& cross) { loss = train_with(pass, cross, count, frozen, threads); });
  };
  if (pass.table.storage == Storage::bfloat16) with.template operator()<Storage::bfloat16>();
  else with.template operator()<Storage::float32>();
  return loss;
}

void score(const Batch& batch, int64_t count, const Scores& model, float* out, int threads) {
  with_interaction<Storage::float32>(batch, model, model.across_fields, false, false, [&](const auto& cross) {
    score_as(batch, count, model, cross, out, threads);
  });
}

}  // namespace

const Kernels& field_aware_kernels() {
  static constexpr Kernels table = kernels_of<train_any, score>();
  return table;
}

}  // namespace crossfm::CROSSFM_LEVEL
