// Scoring of a batch: rows shared out to threads, the same for every interaction.
#pragma once

#include <atomic>
#include <memory>
#include <new>

#include "pool.hpp"
#include "score.hpp"

namespace crossfm::CROSSFM_LEVEL {
namespace {

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// What one thread needs to score rows.
struct ScoreScratch {
  Ring ring;
  Buffer<float> S, pooled, numbers;  // numbers, floats: a row whose factors were unpacked
  Buffer<float*> floats;
  template <class I>
  ScoreScratch(const Batch& batch, const Scores& model, const I& cross)
      : ring(batch.longest_row, 1), S(I::kKeeps ? cross.sums() : 0), pooled(I::kKeeps ? cross.pooled() : 0),
        numbers(model.storage == I::kStorage ? 0 : batch.longest_row * model.k), floats(batch.longest_row) {
    if (!ring.ok() || !S.raw || !pooled.raw || !numbers.raw || !floats.raw) throw std::bad_alloc();
    for (int64_t t = 0; t < batch.longest_row; ++t) floats.data[t] = numbers.data + t * model.k;
  }
};

template <class I>
void score_rows(const Batch& batch, int64_t begin, int64_t end, const Scores& model, const I cross,
                ScoreScratch& s, float* out) {
  Ring& ring = s.ring;
  const int64_t floats = floats_of(model.storage, model.k);
  const Places at{const_cast<float*>(model.factors), const_cast<float*>(model.linear), model.stride,
                  model.linear_stride};
  for (int64_t r = begin; r < end && r < begin + kAhead; ++r) {
    resolve<I::kGeneral>(batch, at, r, cross.pools(), ring[r]);
    fetch_rest(ring[r], 0, 0, floats);
  }
  for (int64_t r = begin; r < end; ++r) {
    Row row = ring[r];
    Row& coming = ring[r + kAhead];
    if (r + kAhead < end) resolve<I::kGeneral>(batch, at, r + kAhead, cross.pools(), coming);
    const Row* next = &coming;
    if (model.storage != I::kStorage) {
      unpack(model.storage, row, model.k, s.numbers.data);
      row.p = s.floats.data;
      next = &row;  // asks for what is there: lines of packed rows are others
    }
    out[r] = model.bias + linear<I::kGeneral, true>(row, coming, 0) +
             cross.template crossed<true>(row, *next, 0, model.field_weights, I::kKeeps ? s.S.data : nullptr,
                                           I::kKeeps ? s.pooled.data : nullptr);
    const bool asked = next == &coming;
    fetch_rest(coming, asked ? row.m : 0, asked ? row.n : 0, floats);
  }
}

template <class I>
void score_as(const Batch& batch, int64_t count, const Scores& model, const I& cross, float* out, int threads) {
  struct Team {
    const Batch& batch;
    int64_t count;
    const Scores& model;
    const I& cross;
    float* out;
    std::atomic<int64_t> next{0};
    std::unique_ptr<std::unique_ptr<ScoreScratch>[]> mine;
  } team{batch, count, model, cross, out, {}, {}};
  team.mine.reset(new std::unique_ptr<ScoreScratch>[threads]);
  for (int t = 0; t < threads; ++t) team.mine[t].reset(new ScoreScratch(batch, model, cross));
  parallel(threads, [](int t, void* context) {
    Team& team = *static_cast<Team*>(context);
    constexpr int64_t block = 4096;
    for (;;) {
      const int64_t begin = team.next.fetch_add(block);
      if (begin >= team.count) break;
      const int64_t end = smaller(team.count, begin + block);
      score_rows(team.batch, begin, end, team.model, team.cross, *team.mine[t], team.out);
    }
  }, &team);
}

}  // namespace

}  // namespace crossfm::CROSSFM_LEVEL
