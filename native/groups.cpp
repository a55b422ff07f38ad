#include "groups.hpp"

#include <algorithm>
#include <bit>
#include <vector>

#include "pool.hpp"

namespace crossfm {
namespace {

// Runs part(t, low, high) over `threads` equal stretches of 0..count.
template <class Part>
void stretches(int threads, int64_t count, Part part) {
  struct Team {
    Part& part;
    int threads;
    int64_t count;
  } team{part, threads, count};
  parallel(threads, [](int t, void* context) {
    Team& team = *static_cast<Team*>(context);
    team.part(t, team.count * t / team.threads, team.count * (t + 1) / team.threads);
  }, &team);
}

uint32_t id_of(uint64_t entry) { return static_cast<uint32_t>(entry >> 32); }

struct Digit {
  int shift;
  uint32_t mask;
  uint32_t of(uint64_t entry) const { return static_cast<uint32_t>(entry >> shift) & mask; }
};

// Plain functions of plain arguments: what a lambda captures would be read again at every step,
// since a store might have changed it.
void count_digits(const uint64_t* from, int64_t low, int64_t high, Digit digit, uint32_t* counts) {
  for (int64_t i = low; i < high; ++i) ++counts[digit.of(from[i])];
}

void scatter(const uint64_t* from, int64_t low, int64_t high, Digit digit, uint32_t* places, uint64_t* to) {
  for (int64_t i = low; i < high; ++i) to[places[digit.of(from[i])]++] = from[i];
}

// Stable radix sort by the low `bits` of the id, least digit first. 2^11 counters and as many
// lines being written stay in the second-level cache, and two passes are enough for 4 M features.
void sort(std::unique_ptr<uint64_t[]>& entries, int64_t count, int bits, int threads) {
  constexpr int widest = 11;
  const int passes = (bits + widest - 1) / widest;
  if (!passes || count < 2) return;
  const int width = (bits + passes - 1) / passes;
  const uint32_t buckets = 1u << width;
  std::unique_ptr<uint64_t[]> other(new uint64_t[count]);
  std::vector<uint32_t> places(static_cast<size_t>(threads) * buckets);  // [threads][buckets]
  const auto of_thread = [&](int t) { return places.data() + static_cast<size_t>(t) * buckets; };
  for (int pass = 0; pass < passes; ++pass) {
    const Digit digit{32 + pass * width, buckets - 1};
    std::fill(places.begin(), places.end(), 0);
    stretches(threads, count, [&](int t, int64_t low, int64_t high) {
      count_digits(entries.get(), low, high, digit, of_thread(t));
    });
    uint32_t place = 0;
    for (uint32_t b = 0; b < buckets; ++b) {
      for (int t = 0; t < threads; ++t) {
        uint32_t& at = of_thread(t)[b];
        const uint32_t size = at;
        at = place;
        place += size;
      }
    }
    stretches(threads, count, [&](int t, int64_t low, int64_t high) {
      scatter(entries.get(), low, high, digit, of_thread(t), other.get());
    });
    entries.swap(other);
  }
}

bool starts_at(const uint64_t* entries, int64_t i) { return i == 0 || id_of(entries[i]) != id_of(entries[i - 1]); }

int64_t count_starts(const uint64_t* entries, int64_t low, int64_t high) {
  int64_t found = low < high && starts_at(entries, low);
  for (int64_t i = low + 1; i < high; ++i) found += id_of(entries[i]) != id_of(entries[i - 1]);
  return found;
}

void write_starts(const uint64_t* entries, int64_t low, int64_t high, uint32_t* next, const uint32_t* end) {
  for (int64_t i = low; i < high && next < end; ++i) {
    *next = static_cast<uint32_t>(i);  // stays where a group starts; without a branch
    next += starts_at(entries, i);
  }
}

// Fields seen in the row at hand; those of rows before count as unseen.
struct Seen {
  int64_t row = -1;
  int64_t first = 0;  // position
  int32_t pool = -1;
};

template <class Id>
int64_t make_entries(const PairBatch& batch, bool positions, int64_t low_row, int64_t high_row,
                     uint64_t* entries, uint32_t* row_of) {
  const Id* ids = static_cast<const Id*>(batch.ids);
  const auto n = static_cast<uint64_t>(batch.n_features);
  for (int64_t r = low_row; r < high_row; ++r) {
    const int64_t begin = batch.begin(r), end = batch.end(r);
    for (int64_t j = begin; j < end; ++j) {
      const auto id = static_cast<uint64_t>(static_cast<int64_t>(ids[j]));  // negative: huge
      if (id >= n) return j;
      entries[j] = id << 32 | static_cast<uint32_t>(positions ? j : r);
      if (row_of) row_of[j] = static_cast<uint32_t>(r);
    }
  }
  return -1;
}

// How many of the first numbers are in 0..n.
template <class Int>
int64_t count_below(const Int* numbers, int64_t count, uint64_t n) {
  const auto below = [n](Int x) { return static_cast<uint64_t>(static_cast<int64_t>(x)) < n; };
  bool all = true;
  for (int64_t i = 0; i < count; ++i) all &= below(numbers[i]);
  int64_t good = all ? count : 0;
  while (good < count && below(numbers[good])) ++good;
  return good;
}

}  // namespace

Problem check_offsets(const PairBatch& batch) {
  if (!batch.offsets) return {};
  int64_t before = 0;
  for (int64_t r = 0; r <= batch.n_rows; ++r) {
    const int64_t at = batch.offsets[r];
    if (r ? at < before || at > batch.nnz : at != 0) return {Problem::offset, r};
    before = at;
  }
  return batch.offsets[batch.n_rows] == batch.nnz ? Problem{} : Problem{Problem::offset, batch.n_rows};
}

bool fields_are_distinct(const PairBatch& batch) {
  if (!batch.fields_by_column) return false;
  std::vector<int64_t> fields(static_cast<size_t>(batch.row_length));
  for (int64_t c = 0; c < batch.row_length; ++c) fields[c] = batch.field(c, 0);
  std::sort(fields.begin(), fields.end());
  return std::adjacent_find(fields.begin(), fields.end()) == fields.end();
}

Problem check_fields(const PairBatch& batch) {
  if (!batch.fields) return {};
  const int64_t count = batch.fields_by_column ? batch.row_length : batch.nnz;
  const auto n = static_cast<uint64_t>(batch.n_fields);
  const int64_t good = batch.wide_fields ? count_below(static_cast<const int64_t*>(batch.fields), count, n)
                                         : count_below(static_cast<const int32_t*>(batch.fields), count, n);
  return good == count ? Problem{} : Problem{Problem::field, good};
}

Problem Groups::group(const PairBatch& batch, bool positions, int threads) {
  if (const Problem problem = check_offsets(batch)) return problem;
  nnz_ = batch.nnz;
  entries_.reset(new uint64_t[nnz_]);
  if (positions) row_of_.reset(new uint32_t[nnz_]);
  threads = worth(threads, nnz_);
  std::vector<int64_t> bad(static_cast<size_t>(threads), -1);
  stretches(threads, batch.n_rows, [&](int t, int64_t low, int64_t high) {
    bad[t] = batch.wide_ids
                 ? make_entries<int64_t>(batch, positions, low, high, entries_.get(), row_of_.get())
                 : make_entries<int32_t>(batch, positions, low, high, entries_.get(), row_of_.get());
  });
  for (const int64_t position : bad) {
    if (position >= 0) return {Problem::id, position};
  }
  const auto largest = static_cast<uint64_t>(batch.n_features > 0 ? batch.n_features - 1 : 0);
  sort(entries_, nnz_, std::bit_width(largest), threads);
  find_starts(threads);
  return {};
}

void Groups::find_starts(int threads) {
  const uint64_t* entries = entries_.get();
  std::vector<int64_t> before(static_cast<size_t>(threads) + 1, 0);
  stretches(threads, nnz_, [&](int t, int64_t low, int64_t high) {
    before[t + 1] = count_starts(entries, low, high);
  });
  for (int t = 0; t < threads; ++t) before[t + 1] += before[t];
  count_ = before[threads];
  starts_.reset(new uint32_t[count_ + 1]);
  starts_[count_] = static_cast<uint32_t>(nnz_);
  stretches(threads, nnz_, [&](int t, int64_t low, int64_t high) {
    write_starts(entries, low, high, starts_.get() + before[t], starts_.get() + before[t + 1]);
  });
}

int64_t Groups::find_pools(const PairBatch& batch, int threads) {
  pool_of_.reset(new int32_t[nnz_]);
  threads = worth(threads, nnz_);
  std::vector<std::vector<Seen>> seen(static_cast<size_t>(threads));
  for (auto& marks : seen) marks.resize(static_cast<size_t>(batch.n_fields));
  std::vector<int32_t> before(static_cast<size_t>(threads) + 1, 0);
  // Pools are numbered within each thread's rows first, then over all rows.
  stretches(threads, batch.n_rows, [&](int t, int64_t low, int64_t high) {
    Seen* marks = seen[t].data();
    int32_t pools = 0;
    for (int64_t r = low; r < high; ++r) {
      const int64_t begin = batch.begin(r), end = batch.end(r);
      for (int64_t j = begin; j < end; ++j) {
        Seen& field = marks[batch.field(j, begin)];
        if (field.row != r) {
          field = {r, j, -1};
        } else if (field.pool < 0) {
          pool_of_[field.first] = field.pool = pools++;
        }
        pool_of_[j] = field.pool;
      }
    }
    before[t + 1] = pools;
  });
  for (int t = 0; t < threads; ++t) before[t + 1] += before[t];
  if (!before[threads]) {
    pool_of_.reset();
    return 0;
  }
  stretches(threads, batch.n_rows, [&](int t, int64_t low, int64_t high) {
    for (int64_t j = low < high ? batch.begin(low) : 0, end = low < high ? batch.end(high - 1) : 0; j < end; ++j) {
      if (pool_of_[j] >= 0) pool_of_[j] += before[t];
    }
  });
  return before[threads];
}

}  // namespace crossfm
