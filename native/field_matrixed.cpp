// The field-matrixed machine: pooled vectors of fields, and a matrix for each two of them.
//
//   score = 1/2 sum_f <p_f, S_f>,  S_f = sum_g M_fg p_g,  p_f the sum of x_i v_i over field f;
//   d score / d v_i = x_i S_f(i),  d score / d M_fg = p_f p_g^T.
// The matrices are blocks of one, symmetric and zero on the blocks of the diagonal; both halves of
// it step alike. With F fields and k factors that is (F k)^2 numbers to read and to step a row.
#include "drivers.hpp"

namespace crossfm::CROSSFM_LEVEL {
namespace {

template <int B>
struct FieldMatrixed {
  static constexpr Storage kStorage = Storage::float32;
  static constexpr bool kGeneral = true, kKeeps = true, kEarly = false, kRowwise = false;
  static constexpr int kBlock = 16;  // numbers of a row of the matrix at a time
  int k, n_fields;

  bool pools() const { return false; }
  int numbers() const { return n_fields * k; }
  int apart() const { return fields_apart(numbers()); }
  int64_t sums() const { return apart(); }    // S
  int64_t pooled() const { return apart(); }  // p, and zeros behind it
  int64_t extra() const { return 0; }

  template <bool FETCH>
  CROSSFM_INLINE float crossed(const Row& row, const Row& coming, int64_t shift, const float* weights, float* S,
                               float* p) const {
    using V = Vec<B>;
    using W = Vec<kBlock>;
    for (int64_t e = 0; e < apart(); ++e) p[e] = 0;
    for (int64_t t = 0; t < row.m; ++t) {
      float* pool = p + int64_t{row.field[t]} * k;
      for (int b = 0; b < k; b += B) {
        if constexpr (FETCH) fetch<B>(coming, t, shift + b);
        (V::load(pool + b) + V::all(row.x[t]) * V::load(row.p[t] + shift + b)).store(pool + b);
      }
    }
    float total = 0;
    for (int e = 0; e < numbers(); e += 4) {  // a multiple of 4
      W s[4] = {W::all(0), W::all(0), W::all(0), W::all(0)};
      for (int j = 0; j < apart(); j += kBlock) {
        const W v = W::load(p + j);
        for (int i = 0; i < 4; ++i) s[i] = s[i] + W::load(weights + int64_t{e + i} * apart() + j) * v;
      }
      for (int i = 0; i < 4; ++i) {
        S[e + i] = s[i].sum();
        total += S[e + i] * p[e + i];
      }
    }
    return 0.5f * total;
  }

  template <Optimizer O>
  CROSSFM_INLINE void update(const Row& row, const Row& coming, int64_t shift, const float* S, const float*, float*,
                             float g, const Steps& steps) const {
    using V = Vec<B>;
    constexpr int N = Policy<O>::kStates;
    Rates rates = rates_of(steps, true, 0, 1);
    for (int64_t t = 0; t < row.m; ++t) {
      if (steps.varied) rates = rates_of(steps, true, row, t);
      const V gx = V::all(g * row.x[t]), decay = V::all(Policy<O>::decay(rates));
      for (int b = 0; b < k; b += B) {
        for (int i = 0; i <= N; ++i) fetch<B>(coming, t, shift + b + int64_t{i} * k);
        float* v_at = row.p[t] + shift + b;
        V v = V::load(v_at), state[N + 1];
        for (int i = 0; i < N; ++i) state[i] = V::load(v_at + int64_t{i + 1} * k);
        Policy<O>::template step<B>(v, state, gx * V::load(S + int64_t{row.field[t]} * k + b) + decay * v, rates);
        v.store(v_at);
        for (int i = 0; i < N; ++i) state[i].store(v_at + int64_t{i + 1} * k);
      }
    }
  }

  template <Optimizer O>
  CROSSFM_INLINE void update_weights(float* weights, const float*, const float* p, float*, float g,
                                     const Steps& steps, int first, int step) const {
    using W = Vec<kBlock>;
    constexpr int N = Policy<O>::kStates;
    const int64_t size = int64_t{numbers()} * apart();
    const Rates rates{steps.learning_rate, steps.beta, 0, 0, steps.beta2, steps.epsilon};
    for (int f = first; f < n_fields; f += step) {
      for (int e = f * k; e < (f + 1) * k; ++e) {
        const W ge = W::all(g * p[e]);
        for (int b = 0; b < apart(); b += kBlock) {
          W products = ge * W::load(p + b);
          if (b < (f + 1) * k && b + kBlock > f * k) {  // a field does not meet itself
            float each[kBlock];
            products.store(each);
            for (int i = 0; i < kBlock; ++i) each[i] = b + i >= f * k && b + i < (f + 1) * k ? 0 : each[i];
            products = W::load(each);
          }
          float* at = weights + int64_t{e} * apart() + b;
          W r = W::load(at), state[N + 1];
          for (int i = 0; i < N; ++i) state[i] = W::load(at + (i + 1) * size);
          Policy<O>::template step<kBlock>(r, state, products, rates);
          r.store(at);
          for (int i = 0; i < N; ++i) state[i].store(at + (i + 1) * size);
        }
      }
    }
  }
};

template <class Shape, class Run>
void with_interaction(const Shape& shape, Run run) {
  if (shape.k % 16 == 0) run(FieldMatrixed<16>{shape.k, shape.n_fields});
  else if (shape.k % 8 == 0) run(FieldMatrixed<8>{shape.k, shape.n_fields});
  else run(FieldMatrixed<4>{shape.k, shape.n_fields});
}

double train_any(const Pass& pass, int64_t count, bool frozen, int threads) {
  double loss = 0;
  with_interaction(pass.table, [&](const auto& cross) { loss = train_with(pass, cross, count, frozen, threads); });
  return loss;
}

void score(const Batch& batch, int64_t count, const Scores& model, float* out, int threads) {
  with_interaction(model, [&](const auto& cross) { score_as(batch, count, model, cross, out, threads); });
}

}  // namespace

const Kernels& field_matrixed_kernels() {
  static constexpr Kernels table = kernels_of<train_any, score>();
  return table;
}

}  // namespace crossfm::CROSSFM_LEVEL
