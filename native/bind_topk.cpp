// Items for exact top-k by inner product: their memory, the scan shared out to threads, selection.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "bind.hpp"
#include "pool.hpp"
#include "topk.hpp"

namespace crossfm {

void keep_best(Best& best) {
  if (best.count < best.k) return;
  std::nth_element(best.keys, best.keys + best.k - 1, best.keys + best.count, std::greater<uint64_t>());
  best.count = best.k;
  best.least = score_of(best.keys[best.k - 1]);
}

namespace {

constexpr int64_t kQueriesAtATime = 512;
constexpr int64_t kLeastRoom = 256;    // further items that a query may gather before the best are kept
constexpr int64_t kPanelsAThread = 64;
constexpr int64_t kRangesAhead = 2;
constexpr int64_t kLargePage = int64_t{1} << 21;

template <class T>
using In2 = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T>
using Out = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Out2 = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void expect(bool holds, const char* what) {
  if (!holds) throw nb::value_error(what);
}

int64_t panels_of(int64_t items) { return (items + kLanes - 1) / kLanes; }

// To the nearest, ties to even; what is finite stays so, since all but the largest floats round down.
uint16_t to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint32_t rounded = bits + 0x7FFFu + (bits >> 16 & 1);
  return static_cast<uint16_t>(((rounded & 0x7F800000u) == 0x7F800000u ? bits : rounded) >> 16);
}

float from_bfloat16(uint16_t half) {
  const uint32_t bits = uint32_t{half} << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

class ItemScan {
 public:
  ItemScan(int64_t d, bool bfloat16) : bfloat16_(bfloat16) {
    expect(d >= 1 && d < int64_t{1} << 20, "d must be from 1 to 2^20");
    items_.d = d;
    items_.storage = bfloat16 ? Storage::bfloat16 : Storage::float32;
  }
  ItemScan(const ItemScan&) = delete;

  int64_t count() const { return items_.count; }
  int64_t bytes() const { return room_ * panel_bytes(); }

  // Vectors at places; places from the count on are new, and those between are zeros.
  void put(Array<int64_t> places, In2<float> vectors) {
    const int64_t m = static_cast<int64_t>(places.shape(0)), d = items_.d;
    expect(static_cast<int64_t>(vectors.shape(0)) == m && static_cast<int64_t>(vectors.shape(1)) == d,
           "vectors must be [places, d]");
    int64_t most = -1;
    for (int64_t i = 0; i < m; ++i) {
      expect(places.data()[i] >= 0 && places.data()[i] < int64_t{1} << 32, "a place must be from 0 to 2^32 - 1");
      most = std::max(most, places.data()[i]);
    }
    reserve(most + 1);
    items_.count = std::max(items_.count, most + 1);
    for (int64_t i = 0; i < m; ++i) {
      const int64_t place = places.data()[i];
      const float* from = vectors.data() + i * d;
      for (int64_t j = 0; j < d; ++j) set(place, j, from[j]);
    }
  }

  // The vectors at places, as they are kept.
  void get(Array<int64_t> places, Out2<float> out) const {
    const int64_t m = static_cast<int64_t>(places.shape(0)), d = items_.d;
    expect(static_cast<int64_t>(out.shape(0)) == m && static_cast<int64_t>(out.shape(1)) == d,
           "out must be [places, d]");
    for (int64_t i = 0; i < m; ++i) {
      const int64_t place = places.data()[i];
      expect(place >= 0 && place < items_.count, "no item at a place");
      for (int64_t j = 0; j < d; ++j) out.data()[i * d + j] = at(place, j);
    }
  }

  // The k places of the highest scores, best first, equal ones by place; -1 and -inf where there are
  // fewer.
  void top(In2<float> queries, int64_t k, std::optional<Array<uint16_t>> allowed, Out2<int64_t> places,
           Out2<float> scores, int threads) const {
    const int64_t n = static_cast<int64_t>(queries.shape(0));
    expect(static_cast<int64_t>(queries.shape(1)) == items_.d, "queries must be [n, d]");
    expect(k >= 1, "k must be from 1");
    for (const auto& [rows, columns] : {std::pair{places.shape(0), places.shape(1)}, {scores.shape(0), scores.shape(1)}})
      expect(static_cast<int64_t>(rows) == n && static_cast<int64_t>(columns) == k, "out must be [n, k]");
    const int64_t panels = panels_of(items_.count);
    expect(!allowed || static_cast<int64_t>(allowed->shape(0)) == panels, "allowed must be [panels]");
    Items items = items_;
    items.allowed = allowed ? allowed->data() : nullptr;
    const int64_t most = std::max<int64_t>(1, panels / kPanelsAThread);
    const int team = static_cast<int>(std::clamp<int64_t>(threads, 1, std::min<int64_t>(most, 512)));
    nb::gil_scoped_release release;
    for (int64_t first = 0; first < n; first += kQueriesAtATime) {
      const int64_t count = std::min(kQueriesAtATime, n - first);
      search(items, panels, queries.data() + first * items_.d, count, std::min(k, items_.count), k,
             places.data() + first * k, scores.data() + first * k, team);
    }
  }

  // As top, of the items of some panels alone: those from begin to end, for each query its own m
  // ranges, which do not overlap.
  void top_in(In2<float> queries, int64_t k, In2<int64_t> begin, In2<int64_t> end, Array<uint16_t> allowed,
              Out2<int64_t> places, Out2<float> scores, int threads) const {
    const int64_t n = static_cast<int64_t>(queries.shape(0)), m = static_cast<int64_t>(begin.shape(1));
    expect(static_cast<int64_t>(queries.shape(1)) == items_.d, "queries must be [n, d]");
    expect(k >= 1, "k must be from 1");
    for (const auto& [rows, columns] : {std::pair{places.shape(0), places.shape(1)}, {scores.shape(0), scores.shape(1)}})
      expect(static_cast<int64_t>(rows) == n && static_cast<int64_t>(columns) == k, "out must be [n, k]");
    for (const auto& [rows, columns] : {std::pair{begin.shape(0), begin.shape(1)}, {end.shape(0), end.shape(1)}})
      expect(static_cast<int64_t>(rows) == n && static_cast<int64_t>(columns) == m, "ranges must be [n, m]");
    const int64_t panels = panels_of(items_.count);
    expect(static_cast<int64_t>(allowed.shape(0)) == panels, "allowed must be [panels]");
    for (int64_t i = 0; i < n * m; ++i)
      expect(0 <= begin.data()[i] && begin.data()[i] <= end.data()[i] && end.data()[i] <= panels, "no such panels");
    Items items = items_;
    items.allowed = allowed.data();
    const int64_t kept = std::min(k, items_.count), room = kept + std::max(kept, kLeastRoom);
    const int team = static_cast<int>(std::clamp<int64_t>(threads, 1, std::clamp<int64_t>(n, 1, 512)));
    struct Context {
      const ItemScan& self;
      const Items& items;
      int64_t n, m, k, kept, room;
      const float* queries;
      const int64_t *begin, *end;
      int64_t* places;
      float* scores;
      int team;
      std::vector<char> failed;
    } context{*this, items, n, m, k, kept, room, queries.data(), begin.data(), end.data(), places.data(), scores.data(), team,
              std::vector<char>(team)};
    nb::gil_scoped_release release;
    std::fill(places.data(), places.data() + n * k, -1);
    std::fill(scores.data(), scores.data() + n * k, -std::numeric_limits<float>::infinity());
    if (kept == 0) return;
    parallel(team, [](int t, void* given) {
      Context& c = *static_cast<Context*>(given);
      try {
        std::vector<uint64_t> keys(c.room);
        for (int64_t q = c.n * t / c.team; q < c.n * (t + 1) / c.team; ++q) {
          Best best{keys.data(), 0, c.room, c.kept, -std::numeric_limits<float>::infinity()};
          for (int64_t i = q * c.m; i < (q + 1) * c.m; ++i) {
            // The ranges lie anywhere in memory: the next ones are asked for ahead.
            if (i + kRangesAhead < (q + 1) * c.m) c.self.ask_for(c.begin[i + kRangesAhead], c.end[i + kRangesAhead]);
            scan_level().scan(c.items, c.begin[i], c.end[i], c.queries + q * c.items.d, 1, &best);
          }
          write(best.keys, best.count, c.kept, c.places + q * c.k, c.scores + q * c.k);
        }
      } catch (const std::bad_alloc&) {
        c.failed[t] = 1;
      }
    }, &context);
    for (const char failed : context.failed)
      if (failed) throw std::bad_alloc();
  }

 private:
  struct Part {
    std::vector<uint64_t> keys;
    std::vector<Best> best;
    bool failed = false;
  };

  static void search(const Items& items, int64_t panels, const float* queries, int64_t n, int64_t k, int64_t apart,
                     int64_t* places, float* scores, int team) {
    std::fill(places, places + n * apart, -1);
    std::fill(scores, scores + n * apart, -std::numeric_limits<float>::infinity());
    if (k == 0) return;
    const int64_t room = k + std::max(k, kLeastRoom);
    std::vector<Part> parts(team);
    for (Part& part : parts) {
      part.keys.resize(n * room);
      part.best.resize(n);
      for (int64_t q = 0; q < n; ++q)
        part.best[q] = {part.keys.data() + q * room, 0, room, k, -std::numeric_limits<float>::infinity()};
    }
    struct Context {
      const Items& items;
      int64_t panels;
      const float* queries;
      int64_t n;
      Part* parts;
      int team;
    } context{items, panels, queries, n, parts.data(), team};
    parallel(team, [](int t, void* given) {
      Context& c = *static_cast<Context*>(given);
      try {
        scan_level().scan(c.items, c.panels * t / c.team, c.panels * (t + 1) / c.team, c.queries, c.n, c.parts[t].best.data());
      } catch (const std::bad_alloc&) {
        c.parts[t].failed = true;
      }
    }, &context);
    std::vector<uint64_t> all;
    for (const Part& part : parts)
      if (part.failed) throw std::bad_alloc();
    for (int64_t q = 0; q < n; ++q) {
      all.clear();
      for (const Part& part : parts) all.insert(all.end(), part.best[q].keys, part.best[q].keys + part.best[q].count);
      write(all.data(), static_cast<int64_t>(all.size()), k, places + q * apart, scores + q * apart);
    }
  }

  // The k best of some keys, best first.
  static void write(uint64_t* keys, int64_t count, int64_t k, int64_t* places, float* scores) {
    const int64_t found = std::min(k, count);
    std::partial_sort(keys, keys + found, keys + count, std::greater<uint64_t>());
    for (int64_t i = 0; i < found; ++i) {
      places[i] = place_of(keys[i]);
      scores[i] = score_of(keys[i]);
    }
  }

  // Have panels brought from memory.
  void ask_for(int64_t begin, int64_t end) const {
#if defined(__GNUC__) || defined(__clang__)
    const char* base = static_cast<const char*>(items_.panels);
    for (int64_t at = begin * panel_bytes(); at < end * panel_bytes(); at += 64) __builtin_prefetch(base + at, 0, 2);
#else
    (void)begin, (void)end;
#endif
  }

  int64_t number_bytes() const { return bfloat16_ ? 2 : 4; }
  int64_t panel_bytes() const { return items_.d * kLanes * number_bytes(); }

  void reserve(int64_t count) {
    const int64_t needed = panels_of(count);
    if (needed <= room_) return;
    // As much as is asked for at first; later half as much again, so that single items cost little.
    const int64_t room = room_ == 0 ? needed : std::max(needed, room_ + room_ / 2);
    // Large pages, where the system has them: parts of the items are read in no order.
    const uintptr_t align = room * panel_bytes() >= 2 * kLargePage ? kLargePage : 64;
    std::unique_ptr<char[]> fresh(new char[room * panel_bytes() + align]);
    char* base = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(fresh.get()) + align - 1) & ~(align - 1));
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (align == kLargePage) (void)madvise(base, room * panel_bytes(), MADV_HUGEPAGE);
#endif
    std::memset(base, 0, room * panel_bytes());
    if (room_) std::memcpy(base, items_.panels, room_ * panel_bytes());
    memory_ = std::move(fresh);
    items_.panels = base;
    room_ = room;
  }

  void set(int64_t place, int64_t j, float x) {
    const int64_t i = (place / kLanes * items_.d + j) * kLanes + place % kLanes;
    void* base = const_cast<void*>(items_.panels);
    if (bfloat16_) static_cast<uint16_t*>(base)[i] = to_bfloat16(x);
    else static_cast<float*>(base)[i] = x;
  }

  float at(int64_t place, int64_t j) const {
    const int64_t i = (place / kLanes * items_.d + j) * kLanes + place % kLanes;
    return bfloat16_ ? from_bfloat16(static_cast<const uint16_t*>(items_.panels)[i])
                     : static_cast<const float*>(items_.panels)[i];
  }

  Items items_;
  bool bfloat16_;
  int64_t room_ = 0;  // panels
  std::unique_ptr<char[]> memory_;
};

constexpr int64_t kRowsAhead = 12;  // asked for before they are needed: rows lie anywhere in memory

// out[i] = constant + <vectors[places[i]], query>.
void dot_rows(In2<float> vectors, Array<int64_t> places, Array<float> query, float constant, Out<float> out) {
  const int64_t n = static_cast<int64_t>(vectors.shape(0)), d = static_cast<int64_t>(vectors.shape(1));
  const int64_t m = static_cast<int64_t>(places.shape(0));
  expect(static_cast<int64_t>(query.shape(0)) == d, "query must be [d]");
  expect(static_cast<int64_t>(out.shape(0)) == m, "out must be [places]");
  const int64_t* at = places.data();
  for (int64_t i = 0; i < m; ++i) expect(at[i] >= 0 && at[i] < n, "no vector at a place");
  const float *rows = vectors.data(), *q = query.data();
  float* found = out.data();
  nb::gil_scoped_release release;
  for (int64_t i = 0; i < m; ++i) {
#if defined(__GNUC__) || defined(__clang__)
    if (i + kRowsAhead < m) {
      const float* coming = rows + at[i + kRowsAhead] * d;
      for (int64_t j = 0; j < d; j += 16) __builtin_prefetch(coming + j);
      __builtin_prefetch(coming + d - 1);
    }
#endif
    const float* row = rows + at[i] * d;
    float sums[4] = {};
    int64_t j = 0;
    for (; j + 4 <= d; j += 4)
      for (int l = 0; l < 4; ++l) sums[l] += row[j + l] * q[j + l];
    for (; j < d; ++j) sums[0] += row[j] * q[j];
    found[i] = constant + ((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }
}

}  // namespace

void bind_topk(nb::module_& m) {
  m.def("dot_rows", &dot_rows, nb::arg("vectors"), nb::arg("places"), nb::arg("query"), nb::arg("constant"),
        nb::arg("out"), "A constant and the inner product of a query with the vectors at places.");
  nb::class_<ItemScan>(m, "ItemScan", "Vectors of items in panels, scanned for the highest inner products.")
      .def(nb::init<int64_t, bool>(), nb::arg("d"), nb::arg("bfloat16") = false)
      .def_prop_ro("count", &ItemScan::count)
      .def_prop_ro("nbytes", &ItemScan::bytes)
      .def("put", &ItemScan::put, nb::arg("places"), nb::arg("vectors"))
      .def("get", &ItemScan::get, nb::arg("places"), nb::arg("out"))
      .def("top", &ItemScan::top, nb::arg("queries"), nb::arg("k"), nb::arg("allowed").none(), nb::arg("places"),
           nb::arg("scores"), nb::arg("threads") = 1)
      .def("top_in", &ItemScan::top_in, nb::arg("queries"), nb::arg("k"), nb::arg("begin"), nb::arg("end"),
           nb::arg("allowed"), nb::arg("places"), nb::arg("scores"), nb::arg("threads") = 1,
           "As top, of the panels from begin to end [n, m] alone, for each query its own ranges.");
}

}  // namespace crossfm
