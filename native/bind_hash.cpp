// Hashing of categories: buckets that are the same on every machine, and the index that finds a
// value's position in a vocabulary.
#include "bind.hpp"

#include <charconv>
#include <cstdint>
#include <cstring>
#include <limits>
#include <mutex>
#include <shared_mutex>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

namespace crossfm {
namespace {

using Ints = Array<std::int64_t>;
using Bytes = Array<std::uint8_t>;

template <class T>
auto returned(std::vector<T>&& values) {
  auto* kept = new std::vector<T>(std::move(values));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::ndarray<nb::numpy, T, nb::ndim<1>>(kept->data(), {kept->size()}, owner);
}

inline void hint(const void* p) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(p);
#else
  (void)p;
#endif
}

// The finaliser of MurmurHash3: every input bit reaches every output bit.
inline std::uint64_t mixed(std::uint64_t h) {
  h ^= h >> 33;
  h *= 0xff51afd7ed558ccdULL;
  h ^= h >> 33;
  h *= 0xc4ceb9fe1a85ec53ULL;
  return h ^ (h >> 33);
}

// FNV-1a over the UTF-8 bytes, mixed. Byte by byte: the same on every machine. Model files
// depend on it, so it never changes.
inline std::uint64_t stable_hash(std::string_view text) {
  std::uint64_t h = 0xcbf29ce484222325ULL;
  for (unsigned char byte : text) h = (h ^ byte) * 0x100000001b3ULL;
  return mixed(h);
}

// Eight bytes at a time; for tables in memory only.
inline std::uint64_t quick_hash(std::string_view text) {
  std::uint64_t h = 0x9e3779b97f4a7c15ULL ^ text.size();
  const char* p = text.data();
  std::size_t n = text.size();
  for (; n >= 8; p += 8, n -= 8) {
    std::uint64_t word;
    std::memcpy(&word, p, 8);
    h = (h ^ word) * 0xff51afd7ed558ccdULL;
    h ^= h >> 32;
  }
  std::uint64_t word = 0;
  if (n) std::memcpy(&word, p, n);
  return mixed(h ^ word);
}

inline std::uint64_t quick_hash(std::int64_t value) {
  return mixed(static_cast<std::uint64_t>(value));
}

// Strings of an Arrow array: string i is data[offsets[i], offsets[i + 1]).
struct Strings {
  const std::int64_t* offsets;
  const char* data;
  std::size_t count;

  Strings(const Ints& o, const Bytes& d)
      : offsets(o.data()),
        data(reinterpret_cast<const char*>(d.data())),
        count(o.shape(0) ? o.shape(0) - 1 : 0) {
    for (std::size_t i = 0; i < count; ++i)
      if (offsets[i] < 0 || offsets[i] > offsets[i + 1])
        throw std::invalid_argument("string offsets fall");
    if (count && offsets[count] > static_cast<std::int64_t>(d.shape(0)))
      throw std::invalid_argument("string offsets go beyond the data");
  }
  std::size_t size() const { return count; }
  std::string_view operator[](std::size_t i) const {
    return {data + offsets[i], static_cast<std::size_t>(offsets[i + 1] - offsets[i])};
  }
};

struct Numbers {
  const std::int64_t* data;
  std::size_t count;
  explicit Numbers(const Ints& v) : data(v.data()), count(v.shape(0)) {}
  std::size_t size() const { return count; }
  std::int64_t operator[](std::size_t i) const { return data[i]; }
};

struct StringKeys {
  std::vector<std::int64_t> offsets{0};
  std::vector<std::uint8_t> data;

  void push(std::string_view text) {
    data.insert(data.end(), text.begin(), text.end());
    offsets.push_back(static_cast<std::int64_t>(data.size()));
  }
  void prefetch(std::size_t i) const { hint(&offsets[i]); }
  void prefetch_data(std::size_t i) const { hint(data.data() + offsets[i]); }
  bool holds(std::size_t i, std::string_view text) const {
    const auto length = static_cast<std::size_t>(offsets[i + 1] - offsets[i]);
    return length == text.size() && std::memcmp(data.data() + offsets[i], text.data(), length) == 0;
  }
};

struct NumberKeys {
  std::vector<std::int64_t> values;

  void push(std::int64_t value) { values.push_back(value); }
  void prefetch(std::size_t i) const { hint(&values[i]); }
  void prefetch_data(std::size_t) const {}
  bool holds(std::size_t i, std::int64_t value) const { return values[i] == value; }
};

// Open addressing with linear probing. A slot keeps the key's position + 1 (0: empty) and 32
// bits of its hash, so that a key is compared only where it is nearly sure to be the one.
// Growing it by a batch costs in proportion to the batch.
template <class Keys>
class Index {
 public:
  template <class Queries>
  void insert(const Queries& queries) {
    const std::unique_lock lock(mutex_);
    reserve(size_ + queries.size());
    for (std::size_t i = 0; i < queries.size(); ++i) {
      const std::uint64_t h = quick_hash(queries[i]);
      std::size_t at = h & mask_;
      while (slots_[at].place) {
        if (slots_[at].tag == tag(h) && keys_.holds(slots_[at].place - 1, queries[i]))
          throw std::invalid_argument("the value is in the index already");
        at = (at + 1) & mask_;
      }
      keys_.push(queries[i]);
      slots_[at] = {static_cast<std::uint32_t>(++size_), tag(h)};
      hashes_.push_back(h);
    }
  }

  template <class Queries>
  std::vector<std::int32_t> find(const Queries& queries) const {
    constexpr std::size_t kBlock = 32;  // look-ups in flight
    const std::size_t n = queries.size();
    std::vector<std::int32_t> places(n, -1);
    const std::shared_lock lock(mutex_);
    if (size_ == 0) return places;
    std::uint64_t hashes[kBlock];
    for (std::size_t start = 0; start < n; start += kBlock) {
      const std::size_t count = n - start < kBlock ? n - start : kBlock;
      for (std::size_t j = 0; j < count; ++j) {
        hashes[j] = quick_hash(queries[start + j]);
        hint(&slots_[hashes[j] & mask_]);
      }
      for (std::size_t j = 0; j < count; ++j) {
        const Slot& slot = slots_[hashes[j] & mask_];
        if (slot.place) keys_.prefetch(slot.place - 1);
      }
      for (std::size_t j = 0; j < count; ++j) {
        const Slot& slot = slots_[hashes[j] & mask_];
        if (slot.place) keys_.prefetch_data(slot.place - 1);
      }
      for (std::size_t j = 0; j < count; ++j) {
        std::size_t at = hashes[j] & mask_;
        while (slots_[at].place) {
          if (slots_[at].tag == tag(hashes[j]) &&
              keys_.holds(slots_[at].place - 1, queries[start + j])) {
            places[start + j] = static_cast<std::int32_t>(slots_[at].place - 1);
            break;
          }
          at = (at + 1) & mask_;
        }
      }
    }
    return places;
  }

  // The position of each query in `places`, those that are new appended; -1 where `valid`, a bitmap
  // of Arrow's that begins at `bit`, says that a query is missing.
  template <class Queries>
  void encode(const Queries& queries, const std::uint8_t* valid, std::size_t bit,
              std::int32_t* places) {
    constexpr std::size_t kBlock = 32;
    const std::size_t n = queries.size();
    const std::unique_lock lock(mutex_);
    std::uint64_t hashes[kBlock];
    for (std::size_t start = 0; start < n; start += kBlock) {
      const std::size_t count = n - start < kBlock ? n - start : kBlock;
      if (2 * (size_ + count) > slots_.size()) reserve(2 * (size_ + count));
      for (std::size_t j = 0; j < count; ++j) {
        hashes[j] = quick_hash(queries[start + j]);
        hint(&slots_[hashes[j] & mask_]);
      }
      for (std::size_t j = 0; j < count; ++j) {
        const Slot& slot = slots_[hashes[j] & mask_];
        if (slot.place) keys_.prefetch(slot.place - 1);
      }
      for (std::size_t j = 0; j < count; ++j) {
        const Slot& slot = slots_[hashes[j] & mask_];
        if (slot.place) keys_.prefetch_data(slot.place - 1);
      }
      for (std::size_t j = 0; j < count; ++j) {
        const std::size_t i = start + j;
        if (valid && !(valid[(bit + i) >> 3] >> ((bit + i) & 7) & 1)) {
          places[i] = -1;
          continue;
        }
        std::size_t at = hashes[j] & mask_;
        while (slots_[at].place && !(slots_[at].tag == tag(hashes[j]) &&
                                     keys_.holds(slots_[at].place - 1, queries[i])))
          at = (at + 1) & mask_;
        if (!slots_[at].place) {
          keys_.push(queries[i]);
          slots_[at] = {static_cast<std::uint32_t>(++size_), tag(hashes[j])};
          hashes_.push_back(hashes[j]);
        }
        places[i] = static_cast<std::int32_t>(slots_[at].place - 1);
      }
    }
  }

  std::size_t size() const {
    const std::shared_lock lock(mutex_);
    return size_;
  }

  // The keys in the order of their positions; the index is empty afterwards.
  Keys take() {
    const std::unique_lock lock(mutex_);
    slots_ = {}, hashes_ = {}, mask_ = 0, size_ = 0;
    return std::exchange(keys_, Keys{});
  }

 private:
  struct Slot {
    std::uint32_t place = 0;
    std::uint32_t tag = 0;
  };

  static std::uint32_t tag(std::uint64_t h) { return static_cast<std::uint32_t>(h >> 32); }

  void reserve(std::size_t count) {
    if (count >= static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()))
      throw std::length_error("a vocabulary holds at most 2^31 - 2 values");
    std::size_t wanted = 16;
    while (wanted < 2 * count) wanted *= 2;
    if (wanted <= slots_.size()) return;
    slots_.assign(wanted, Slot{});
    mask_ = wanted - 1;
    for (std::size_t i = 0; i < size_; ++i) {
      std::size_t at = hashes_[i] & mask_;
      while (slots_[at].place) at = (at + 1) & mask_;
      slots_[at] = {static_cast<std::uint32_t>(i + 1), tag(hashes_[i])};
    }
  }

  mutable std::shared_mutex mutex_;  // a vocabulary may grow while another thread looks things up
  Keys keys_;
  std::vector<Slot> slots_;
  std::vector<std::uint64_t> hashes_;
  std::size_t mask_ = 0, size_ = 0;
};

using StringIndex = Index<StringKeys>;
using IntIndex = Index<NumberKeys>;

// The places of an Arrow array's values. `valid` is its bitmap, or none where nothing is missing.
template <class Keys, class Queries>
auto encoded(Index<Keys>& index, const Queries& queries, const std::optional<Bytes>& valid,
             std::size_t bit) {
  if (valid && valid->shape(0) * 8 < bit + queries.size())
    throw std::invalid_argument("the bitmap is shorter than the values");
  std::vector<std::int32_t> places(queries.size());
  {
    nb::gil_scoped_release release;
    index.encode(queries, valid ? valid->data() : nullptr, bit, places.data());
  }
  return returned(std::move(places));
}

template <class Text>
std::vector<std::int64_t> buckets(std::size_t n, std::int64_t n_buckets, Text text) {
  if (n_buckets < 1) throw std::invalid_argument("n_buckets must be at least 1");
  std::vector<std::int64_t> out(n);
  for (std::size_t i = 0; i < n; ++i)
    out[i] = static_cast<std::int64_t>(stable_hash(text(i)) %
                                       static_cast<std::uint64_t>(n_buckets));
  return out;
}

}  // namespace

void bind_hash(nb::module_& m) {
  m.def(
      "hash_strings",
      [](Ints offsets, Bytes data, std::int64_t n_buckets) {
        const Strings strings(offsets, data);
        std::vector<std::int64_t> out;
        {
          nb::gil_scoped_release release;
          out = buckets(strings.size(), n_buckets, [&](std::size_t i) { return strings[i]; });
        }
        return returned(std::move(out));
      },
      nb::arg("offsets"), nb::arg("data"), nb::arg("n_buckets"),
      "The bucket of each string of an Arrow array (offsets int64 [n + 1], data uint8), [n]:\n"
      "fmix64(FNV-1a 64(bytes)) mod n_buckets, the same on every machine.");
  m.def(
      "hash_ints",
      [](Ints values, std::int64_t n_buckets) {
        std::vector<std::int64_t> out;
        {
          nb::gil_scoped_release release;
          char text[24];
          out = buckets(values.shape(0), n_buckets, [&](std::size_t i) {
            const auto end = std::to_chars(text, text + sizeof text, values.data()[i]).ptr;
            return std::string_view(text, static_cast<std::size_t>(end - text));
          });
        }
        return returned(std::move(out));
      },
      nb::arg("values"), nb::arg("n_buckets"),
      "The bucket of each integer: that of its decimal text.");

  nb::class_<StringIndex>(m, "StringIndex", "Positions of distinct strings.")
      .def(nb::init<>())
      .def("__len__", &StringIndex::size)
      .def(
          "insert",
          [](StringIndex& index, Ints offsets, Bytes data) {
            const Strings strings(offsets, data);
            nb::gil_scoped_release release;
            index.insert(strings);
          },
          nb::arg("offsets"), nb::arg("data"), "Append strings that are not in it yet.")
      .def(
          "find",
          [](const StringIndex& index, Ints offsets, Bytes data) {
            const Strings strings(offsets, data);
            std::vector<std::int32_t> out;
            {
              nb::gil_scoped_release release;
              out = index.find(strings);
            }
            return returned(std::move(out));
          },
          nb::arg("offsets"), nb::arg("data"), "The position of each string, -1 if absent.")
      .def(
          "encode",
          [](StringIndex& index, Ints offsets, Bytes data, std::optional<Bytes> valid,
             std::size_t bit) { return encoded(index, Strings(offsets, data), valid, bit); },
          nb::arg("offsets"), nb::arg("data"), nb::arg("valid").none(), nb::arg("bit"),
          "The position of each string, those that are new appended; -1 where the bitmap `valid`,\n"
          "which begins at `bit`, has 0.")
      .def(
          "take",
          [](StringIndex& index) {
            StringKeys keys = index.take();
            return nb::make_tuple(returned(std::move(keys.offsets)), returned(std::move(keys.data)));
          },
          "(offsets, data) of the strings in the order of their positions; it is empty then.");
  nb::class_<IntIndex>(m, "IntIndex", "Positions of distinct integers.")
      .def(nb::init<>())
      .def("__len__", &IntIndex::size)
      .def(
          "insert",
          [](IntIndex& index, Ints values) {
            const Numbers numbers(values);
            nb::gil_scoped_release release;
            index.insert(numbers);
          },
          nb::arg("values"), "Append integers that are not in it yet.")
      .def(
          "find",
          [](const IntIndex& index, Ints values) {
            const Numbers numbers(values);
            std::vector<std::int32_t> out;
            {
              nb::gil_scoped_release release;
              out = index.find(numbers);
            }
            return returned(std::move(out));
          },
          nb::arg("values"), "The position of each integer, -1 if absent.")
      .def(
          "encode",
          [](IntIndex& index, Ints values, std::optional<Bytes> valid, std::size_t bit) {
            return encoded(index, Numbers(values), valid, bit);
          },
          nb::arg("values"), nb::arg("valid").none(), nb::arg("bit"),
          "The position of each integer, those that are new appended; -1 where the bitmap has 0.")
      .def(
          "take", [](IntIndex& index) { return returned(std::move(index.take().values)); },
          "The integers in the order of their positions; it is empty then.");
}

}  // namespace crossfm
