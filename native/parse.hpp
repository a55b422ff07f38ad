// Text of sparse rows (libsvm, libFM, libffm) to flat arrays. Plain C++: no Python in here.
//
// Each stretch of text is counted first: colons bound the features, line ends the rows. Then
// every part of it, cut at line ends, is written by one of several threads to where the bounds of
// the parts before it end. Where the text holds nothing but rows the bounds are exact and nothing
// moves again; comments, blank lines and qid:n leave gaps, which are closed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <string>
#include <utility>

namespace crossfm {

struct TextOptions {
  bool with_fields = false;      // field:id:value, else id:value
  int64_t first_id = 0;          // the smallest id of the text; becomes id 0
  int64_t n_features = -1;       // ids (from 0) must be below it; -1: no limit
  int threads = 1;
  int64_t part_bytes = 1 << 20;  // smallest part that a thread takes
};

struct TextError {
  int64_t line = 0;      // from 1
  int64_t column = 0;    // of the token, counted in bytes from 1
  std::string found;     // the token, cut after some tens of bytes
  std::string expected;
};

// Numbers in memory that is not touched before it is written, and grows by realloc: for large
// arrays most systems then move pages, not bytes.
template <class T>
class Growing {
 public:
  Growing() = default;
  Growing(const Growing&) = delete;
  Growing& operator=(const Growing&) = delete;
  ~Growing() { std::free(data_); }

  T* data() { return data_; }
  void reserve(int64_t n) {
    if (n <= capacity_) return;
    resize_memory(capacity_ == 0 ? n : std::max(n, capacity_ + capacity_ / 2));
  }
  // The memory of the first n, for std::free; empty afterwards.
  T* release(int64_t n) {
    if (n < capacity_ || data_ == nullptr) resize_memory(n);
    capacity_ = 0;
    return std::exchange(data_, nullptr);
  }
  void clear() { std::free(release(0)); }

 private:
  void resize_memory(int64_t n) {
    const auto bytes = static_cast<size_t>(n > 0 ? n : 1) * sizeof(T);
    void* moved = std::realloc(data_, bytes);
    if (moved == nullptr) throw std::bad_alloc();
    data_ = static_cast<T*>(moved);
    capacity_ = n;
  }

  T* data_ = nullptr;
  int64_t capacity_ = 0;
};

// Rows as they gather, feed by feed, until they are taken.
struct TextArrays {
  Growing<int32_t> ids;       // while all fit
  Growing<int64_t> wide_ids;  // all of them, once one does not
  Growing<float> values;      // written from the first value that is not 1
  Growing<int32_t> fields;    // with_fields only
  Growing<int64_t> offsets;   // [rows + 1]
  Growing<float> targets;     // [rows]
  Growing<int64_t> qids;      // [rows] where the lines have qid:n
  int64_t nnz = 0, rows = 0;
  int64_t row_length = -1;    // common number of features, -1 where rows differ
  bool wide = false, has_values = false;
};

class TextReader {
 public:
  explicit TextReader(const TextOptions& options) : options_(options) {}

  // Parses whole lines, `label [qid:n] id:value ... [# comment]`; only the last may lack its end.
  // False: `error` says where and what, and the reader is of no more use.
  bool feed(const char* begin, const char* end, TextError& error);

  TextArrays rows;  // gathered so far; whoever takes arrays calls `restart`
  void restart();
  bool has_qids() const { return has_qids_ == 1; }
  bool with_fields() const { return options_.with_fields; }

 private:
  const TextOptions options_;
  int has_qids_ = -1;  // -1: no row seen yet
  int64_t lines_ = 0;  // in all feeds
};

}  // namespace crossfm
