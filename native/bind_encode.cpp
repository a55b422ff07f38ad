// Columns of a table to the ids and values of rows: codes counted, distinct values put in order,
// and all columns written, row by row, into one matrix.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "bind.hpp"
#include "pool.hpp"

namespace crossfm {
namespace {

using Bytes = Array<uint8_t>;
using AnyInts = nb::ndarray<nb::ro, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// Whether bit `at` of an Arrow bitmap is set; without a bitmap nothing is missing.
inline bool is_set(const uint8_t* valid, size_t at) {
  return !valid || (valid[at >> 3] >> (at & 7) & 1);
}

void check_bitmap(const std::optional<Bytes>& valid, size_t bit, size_t n) {
  if (valid && valid->shape(0) * 8 < bit + n)
    throw std::invalid_argument("the bitmap is shorter than the column");
}

template <class T>
auto returned(std::vector<T>&& values) {
  auto* kept = new std::vector<T>(std::move(values));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::ndarray<nb::numpy, T, nb::ndim<1>>(kept->data(), {kept->size()}, owner);
}

auto count_codes(Array<int32_t> codes, std::optional<Bytes> valid, size_t bit, size_t size) {
  const size_t n = codes.shape(0);
  check_bitmap(valid, bit, n);
  std::vector<int64_t> counts(size, 0);
  bool beyond = false;
  {
    nb::gil_scoped_release release;
    const uint8_t* bits = valid ? valid->data() : nullptr;
    for (size_t i = 0; i < n; ++i) {
      if (!is_set(bits, bit + i)) continue;
      const auto code = static_cast<uint32_t>(codes.data()[i]);
      if (code < size) ++counts[code];
      else beyond = true;
    }
  }
  if (beyond) throw std::invalid_argument("a code is not below the number of values");
  return returned(std::move(counts));
}

// The first eight bytes as a number that compares as they do.
inline uint64_t prefix(const uint8_t* text, size_t length) {
  uint64_t word = 0;
  for (size_t i = 0; i < 8; ++i) word = word << 8 | (i < length ? text[i] : 0);
  return word;
}

auto order_strings(Array<int64_t> offsets, Bytes data, Array<int64_t> counts) {
  const size_t n = counts.shape(0);
  const int64_t* o = offsets.data();
  if (offsets.shape(0) != n + 1) throw std::invalid_argument("as many counts as strings");
  for (size_t i = 0; i < n; ++i)
    if (o[i] < 0 || o[i] > o[i + 1]) throw std::invalid_argument("string offsets fall");
  if (n && o[n] > static_cast<int64_t>(data.shape(0)))
    throw std::invalid_argument("string offsets go beyond the data");
  std::vector<int64_t> order(n);
  {
    nb::gil_scoped_release release;
    struct Key {
      int64_t count;
      uint64_t start;
      int64_t place;
    };
    const uint8_t* text = data.data();
    std::vector<Key> keys(n);
    for (size_t i = 0; i < n; ++i)
      keys[i] = {counts.data()[i], prefix(text + o[i], static_cast<size_t>(o[i + 1] - o[i])),
                 static_cast<int64_t>(i)};
    std::sort(keys.begin(), keys.end(), [&](const Key& a, const Key& b) {
      if (a.count != b.count) return a.count > b.count;
      if (a.start != b.start) return a.start < b.start;
      const auto la = static_cast<size_t>(o[a.place + 1] - o[a.place]);
      const auto lb = static_cast<size_t>(o[b.place + 1] - o[b.place]);
      const size_t shared = std::min(la, lb);
      const int which = shared ? std::memcmp(text + o[a.place], text + o[b.place], shared) : 0;
      return which ? which < 0 : la < lb;
    });
    for (size_t i = 0; i < n; ++i) order[i] = keys[i].place;
  }
  return returned(std::move(order));
}

// Part of a column: the rows from `begin` to `end`.
struct Piece {
  enum Kind { kCodes, kIds, kNumbers } kind;
  size_t begin, end;
  const void* data;  // codes int32, ids int32 or int64, numbers float64
  bool wide = false;  // ids are int64
  const uint8_t* valid = nullptr;
  size_t bit = 0;
  const void* table = nullptr;  // of the ids of codes, of the type of the matrix
  size_t table_size = 0;
  int64_t shift = 0;  // added to ids
  double mean = 0.0, std = 1.0;
};

struct Column {
  int64_t none = 0;     // the id of what is missing or unknown
  int64_t present = 0;  // the id of a number
  std::vector<Piece> pieces;
};

struct Found {  // of one column
  int64_t none = 0;
  int64_t beyond = std::numeric_limits<int64_t>::max();  // first row that float32 cannot hold
  bool stray = false;                                    // a code without a value
};

template <class Id>
void write_piece(const Column& column, const Piece& piece, size_t begin, size_t end, size_t width,
                 Id* ids, float* values, Found& found) {
  const size_t from = begin - piece.begin, n = end - begin;
  const Id none = static_cast<Id>(column.none);
  int64_t nones = 0;
  if (piece.kind == Piece::kCodes) {
    const auto* codes = static_cast<const int32_t*>(piece.data) + from;
    const auto* table = static_cast<const Id*>(piece.table);
    const size_t bit = piece.bit + from;
    for (size_t i = 0; i < n; ++i) {
      const auto code = static_cast<uint32_t>(codes[i]);
      Id id = none;
      if (is_set(piece.valid, bit + i)) {
        if (code < piece.table_size) id = table[code];
        else found.stray = true;
      }
      nones += id == none;
      ids[i * width] = id;
    }
  } else if (piece.kind == Piece::kIds) {
    const auto put = [&](const auto* local) {
      for (size_t i = 0; i < n; ++i) {
        const auto id = static_cast<Id>(static_cast<int64_t>(local[i]) + piece.shift);
        nones += id == none;
        ids[i * width] = id;
      }
    };
    if (piece.wide) put(static_cast<const int64_t*>(piece.data) + from);
    else put(static_cast<const int32_t*>(piece.data) + from);
  } else {
    const auto* x = static_cast<const double*>(piece.data) + from;
    const Id present = static_cast<Id>(column.present);
    for (size_t i = 0; i < n; ++i) {
      const bool missing = std::isnan(x[i]);
      const auto value = static_cast<float>((x[i] - piece.mean) / piece.std);
      nones += missing;
      ids[i * width] = missing ? none : present;
      values[i * width] = missing ? 1.0f : value;
      if (std::isinf(value))
        found.beyond = std::min(found.beyond, static_cast<int64_t>(begin + i));
    }
  }
  found.none += nones;
}

class RowWriter {
 public:
  RowWriter(size_t n_rows, size_t n_columns, bool wide)
      : n_rows_(n_rows), wide_(wide), columns_(n_columns) {}

  void add_codes(size_t column, Array<int32_t> codes, std::optional<Bytes> valid, size_t bit,
                 AnyInts table, int64_t none) {
    check_bitmap(valid, bit, codes.shape(0));
    const bool wide = table.dtype() == nb::dtype<int64_t>();
    if (wide != wide_ || (!wide && table.dtype() != nb::dtype<int32_t>()))
      throw std::invalid_argument("the ids of codes are not of the type of the matrix");
    Piece& piece = add(column, codes.shape(0), none);
    piece.kind = Piece::kCodes;
    piece.data = codes.data();
    piece.table = table.data(), piece.table_size = table.shape(0);
    if (valid) piece.valid = valid->data(), piece.bit = bit, kept_bits_.push_back(*valid);
    kept_codes_.push_back(codes), kept_ids_.push_back(table);
  }

  void add_ids(size_t column, AnyInts ids, int64_t shift, int64_t none) {
    const bool wide = ids.dtype() == nb::dtype<int64_t>();
    if (!wide && ids.dtype() != nb::dtype<int32_t>())
      throw std::invalid_argument("ids must be int32 or int64");
    Piece& piece = add(column, ids.shape(0), none);
    piece.kind = Piece::kIds;
    piece.data = ids.data(), piece.wide = wide, piece.shift = shift;
    kept_ids_.push_back(ids);
  }

  void add_numbers(size_t column, Array<double> x, double mean, double std, int64_t present,
                   int64_t none) {
    Piece& piece = add(column, x.shape(0), none);
    piece.kind = Piece::kNumbers;
    piece.data = x.data(), piece.mean = mean, piece.std = std;
    columns_[column].present = present;
    kept_numbers_.push_back(x);
    numbers_ = true;
  }

  // What was found in each column: rows without a value, and the first row beyond float32 or -1.
  nb::tuple write(nb::ndarray<nb::ndim<1>, nb::c_contig, nb::device::cpu> ids,
                  std::optional<nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>> values,
                  int threads) {
    const size_t cells = n_rows_ * columns_.size();
    const bool typed = wide_ ? ids.dtype() == nb::dtype<int64_t>() : ids.dtype() == nb::dtype<int32_t>();
    if (!typed || ids.shape(0) != cells || (values && values->shape(0) != cells))
      throw std::invalid_argument("the arrays do not have the size and type of the matrix");
    if (numbers_ && !values) throw std::invalid_argument("numbers need values");
    for (const Column& column : columns_)
      if ((column.pieces.empty() ? 0 : column.pieces.back().end) != n_rows_)
        throw std::invalid_argument("a column does not have as many rows as the matrix");
    float* x = values ? values->data() : nullptr;
    std::vector<Found> found;
    {
      nb::gil_scoped_release release;
      found = wide_ ? run(static_cast<int64_t*>(ids.data()), x, threads)
                    : run(static_cast<int32_t*>(ids.data()), x, threads);
    }
    std::vector<int64_t> none, beyond;
    for (const Found& one : found) {
      if (one.stray) throw std::out_of_range("a code is not below the number of values");
      none.push_back(one.none);
      beyond.push_back(one.beyond == std::numeric_limits<int64_t>::max() ? -1 : one.beyond);
    }
    return nb::make_tuple(returned(std::move(none)), returned(std::move(beyond)));
  }

 private:
  static constexpr size_t kTileBytes = 12 << 10;  // of ids: with the values it stays in L1

  Piece& add(size_t column, size_t n, int64_t none) {
    if (column >= columns_.size()) throw std::invalid_argument("no such column");
    Column& into = columns_[column];
    into.none = none;
    const size_t begin = into.pieces.empty() ? 0 : into.pieces.back().end;
    if (n > n_rows_ - begin) throw std::invalid_argument("a column has too many rows");
    into.pieces.push_back({});
    into.pieces.back().begin = begin, into.pieces.back().end = begin + n;
    return into.pieces.back();
  }

  template <class Id>
  std::vector<Found> run(Id* ids, float* values, int threads) {
    struct Task {
      RowWriter* self;
      Id* ids;
      float* values;
      size_t tile;
      std::atomic<size_t> next{0};
      std::vector<std::vector<Found>> found;
    } task{this, ids, values, 0, {0}, {}};
    const size_t width = columns_.size();
    task.tile = std::max<size_t>(16, kTileBytes / (sizeof(Id) * std::max<size_t>(width, 1)));
    task.found.assign(static_cast<size_t>(threads), std::vector<Found>(width));
    parallel(
        threads,
        [](int thread, void* context) {
          auto& t = *static_cast<Task*>(context);
          t.self->work(t.ids, t.values, t.tile, t.next, t.found[static_cast<size_t>(thread)]);
        },
        &task);
    std::vector<Found> sums(width);
    for (const auto& part : task.found)
      for (size_t c = 0; c < width; ++c) {
        sums[c].none += part[c].none;
        sums[c].beyond = std::min(sums[c].beyond, part[c].beyond);
        sums[c].stray |= part[c].stray;
      }
    return sums;
  }

  template <class Id>
  void work(Id* ids, float* values, size_t tile, std::atomic<size_t>& next,
            std::vector<Found>& found) const {
    constexpr size_t kTiles = 16;  // taken at a time
    const size_t width = columns_.size();
    std::vector<size_t> at(width, 0);  // the piece of each column that the last tile ended in
    for (;;) {
      const size_t first = next.fetch_add(kTiles * tile);
      if (first >= n_rows_) return;
      const size_t last = std::min(n_rows_, first + kTiles * tile);
      for (size_t begin = first; begin < last; begin += tile) {
        const size_t end = std::min(last, begin + tile);
        if (values) std::fill(values + begin * width, values + end * width, 1.0f);
        for (size_t c = 0; c < width; ++c) {
          const auto& pieces = columns_[c].pieces;
          for (size_t row = begin; row < end;) {
            while (pieces[at[c]].end <= row) ++at[c];
            const size_t stop = std::min(end, pieces[at[c]].end);
            write_piece(columns_[c], pieces[at[c]], row, stop, width, ids + row * width + c,
                        values ? values + row * width + c : nullptr, found[c]);
            row = stop;
          }
        }
      }
    }
  }

  size_t n_rows_;
  bool wide_, numbers_ = false;
  std::vector<Column> columns_;
  // The arrays that pieces point into.
  std::vector<Array<int32_t>> kept_codes_;
  std::vector<AnyInts> kept_ids_;
  std::vector<Bytes> kept_bits_;
  std::vector<Array<double>> kept_numbers_;
};

}  // namespace

void bind_encode(nb::module_& m) {
  m.def("count_codes", &count_codes, nb::arg("codes"), nb::arg("valid").none(), nb::arg("bit"),
        nb::arg("size"),
        "How often each code below `size` occurs, int64 [size]; rows where the bitmap `valid`, which\n"
        "begins at `bit`, has 0 do not count.");
  m.def("order_strings", &order_strings, nb::arg("offsets"), nb::arg("data"), nb::arg("counts"),
        "The order of strings by falling count, ties by their bytes, int64 [n].");
  nb::class_<RowWriter>(m, "RowWriter",
                        "Ids and values of rows of equal length from columns, each added in pieces\n"
                        "from the first row on. Of one thread at a time.")
      .def(nb::init<size_t, size_t, bool>(), nb::arg("n_rows"), nb::arg("n_columns"), nb::arg("wide"))
      .def("add_codes", &RowWriter::add_codes, nb::arg("column"), nb::arg("codes"),
           nb::arg("valid").none(), nb::arg("bit"), nb::arg("table"), nb::arg("none"),
           "Rows whose id is table[code], or `none` where the bitmap has 0.")
      .def("add_ids", &RowWriter::add_ids, nb::arg("column"), nb::arg("ids"), nb::arg("shift"),
           nb::arg("none"), "Rows whose id is ids[row] + shift.")
      .def("add_numbers", &RowWriter::add_numbers, nb::arg("column"), nb::arg("x"), nb::arg("mean"),
           nb::arg("std"), nb::arg("present"), nb::arg("none"),
           "Rows with the id `present` and the value (x - mean) / std; NaN: `none` and 1.")
      .def("write", &RowWriter::write, nb::arg("ids"), nb::arg("values").none(), nb::arg("threads"),
           "Fill ids (int32, int64 where wide) and values (float32, or None) row by row. Returns,\n"
           "of each column, the rows with the id `none`, and the first row whose value float32\n"
           "cannot hold, or -1.");
}

}  // namespace crossfm
