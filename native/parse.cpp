#include "parse.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <vector>

#include "numbers.hpp"
#include "pool.hpp"

namespace crossfm {
namespace {

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
constexpr size_t kShown = 40;       // bytes of a token in an error
constexpr int64_t kPartsEach = 8;   // a thread takes about so many parts, one after the other

inline bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r' && c != '\n'); }
inline bool ends_token(char c) { return is_space(c) || c == '#' || c == '\n'; }
inline const char* skip(const char* at) {
  while (is_space(*at)) ++at;
  return at;
}
// Whether a number is just "1". In one comparison: many others begin with 1, in no order that could
// be predicted.
inline bool is_one(const char* at) {
  uint16_t two;
  std::memcpy(&two, at, sizeof two);
  return two == ('1' | ' ' << 8) || two == ('1' | '\n' << 8);
}
// Every stretch that is parsed ends with a line end, so that there is one.
inline const char* line_end(const char* at) {
  return static_cast<const char*>(std::memchr(at, '\n', std::numeric_limits<int64_t>::max()));
}

enum class Wrong {
  nothing, label, label_range, unwanted_qid, missing_qid, qid, field_range, form, id_range,
  value_range, value, below_first, beyond_last
};

// A stretch of whole lines, what bounds it, and what became of it.
struct Part {
  const char* begin;
  const char* end;                       // behind a line end; kSlack bytes may be read from here
  int64_t lines = 0, colons = 0;
  int64_t first_line = 0;                // counted from 0, over all feeds
  int64_t nnz_base = 0, row_base = 0;    // where it writes
  int64_t nnz = 0, rows = 0;             // what it wrote
  int64_t row_length = -1;
  bool has_values = false, wide = false;
  Wrong wrong = Wrong::nothing;
  const char* token = nullptr;           // the wrong one
  const char* line = nullptr;            // begin of its line
  int64_t line_number = 0;

  int64_t most_rows() const { return std::min(lines, (end - begin) / 2 + 1); }
  int64_t most_features(bool with_fields) const {
    return with_fields ? std::min(colons / 2, (end - begin) / 6 + 1)
                       : std::min(colons, (end - begin) / 4 + 1);
  }
};

// Where the parts of one feed write.
struct Target {
  void* ids;
  float* values;
  int32_t* fields;
  int64_t* offsets;  // [rows + 1]; a row writes where it ends
  float* targets;
  int64_t* qids;     // nullptr: lines have none
};

void count(Part& part) {
  const char* at = part.begin;
  while (part.end - at >= 32) {
    uint8_t lines[32] = {}, colons[32] = {};  // of one byte: many are added in one instruction
    for (int n = 0; n < 255 && part.end - at >= 32; ++n, at += 32) {
      for (int i = 0; i < 32; ++i) {
        lines[i] = static_cast<uint8_t>(lines[i] + (at[i] == '\n'));
        colons[i] = static_cast<uint8_t>(colons[i] + (at[i] == ':'));
      }
    }
    for (int i = 0; i < 32; ++i) part.lines += lines[i], part.colons += colons[i];
  }
  for (; at < part.end; ++at) part.lines += *at == '\n', part.colons += *at == ':';
}

// Id: int32_t, while all ids fit; kFields: libffm.
template <class Id, bool kFields>
class PartParser {
 public:
  PartParser(const TextOptions& options, const Target& to, Part& part)
      : options_(options), part_(part), ids_(static_cast<Id*>(to.ids) + part.nnz_base),
        values_(to.values + part.nnz_base),
        fields_(kFields ? to.fields + part.nnz_base : nullptr),
        ends_(to.offsets + part.row_base + 1), targets_(to.targets + part.row_base),
        qids_(to.qids ? to.qids + part.row_base : nullptr) {
    limit_ = sizeof(Id) == 4 ? uint64_t{1} << 31 : uint64_t{1} << 63;
    if (options.n_features >= 0) {
      limit_ = std::min(limit_, static_cast<uint64_t>(options.n_features));
    }
  }

  template <class Stop>
  void run(Stop stop) {
    int64_t number = part_.first_line;
    for (const char* at = part_.begin; at < part_.end && !stop(); ++at, ++number) {
      part_.line = at;
      at = line(at);
      if (at == nullptr) {
        part_.line_number = number;
        return;
      }
    }
  }

 private:
  // Each of these takes the place where something begins and returns the one where it ends, or
  // nullptr where it is wrong. Places are passed by value: they stay in registers.

  const char* line(const char* at) {
    at = skip(at);
    if (*at == '\n') return at;
    if (*at == '#') return line_end(at);
    const int64_t row = part_.rows;
    int64_t nnz = part_.nnz;
    at = label(at, targets_[row]);
    if (at != nullptr) at = query(at, row);
    while (at != nullptr) {
      if (at[0] == ' ' && is_digit(at[1])) {
        ++at;
      } else {
        at = skip(at);
        if (*at == '#') at = line_end(at);
        if (*at == '\n') break;
      }
      at = feature(at, nnz);
    }
    if (at == nullptr) return nullptr;
    const int64_t length = nnz - part_.nnz;
    if (row == 0) part_.row_length = length;
    if (part_.row_length != length) part_.row_length = -1;
    ends_[row] = part_.nnz_base + nnz;
    part_.nnz = nnz;
    part_.rows = row + 1;
    part_.has_values = has_values_;
    return at;
  }

  const char* label(const char* at, float& target) {
    const char* next = at;
    if (scan_short_float(next, target)) return next;
    const Scan scanned = scan_float(next, line_end(next), target);
    if (scanned == Scan::out_of_range) return fail(at, Wrong::label_range);
    return scanned == Scan::ok && ends_token(*next) ? next : fail(at, Wrong::label);
  }

  const char* query(const char* at, int64_t row) {
    const char* token = skip(at);
    const bool here = std::memcmp(token, "qid:", 4) == 0;
    if (here != (qids_ != nullptr)) {
      return fail(token, here ? Wrong::unwanted_qid : Wrong::missing_qid);
    }
    if (!here) return at;
    at = token + 4;
    const bool whole = scan_natural(at, qids_[row]) == Scan::ok && ends_token(*at);
    return whole ? at : fail(token, Wrong::qid);
  }

  // Writes feature k, and adds one to it.
  const char* feature(const char* at, int64_t& k) {
    const char* token = at;
    [[maybe_unused]] int64_t field = 0;
    int64_t id;
    float value;
    if constexpr (kFields) {
      if (scan_natural(at, field) != Scan::ok || field > kMaxInt32 || *at != ':') {
        return diagnose(token);
      }
      ++at;
    }
    if (scan_natural(at, id) != Scan::ok || *at != ':') return diagnose(token);
    ++at;
    if (is_one(at)) {
      value = 1.0f;
      ++at;
    } else if (!scan_short_float(at, value)) {
      const char* next = at;  // copies, since the address of these is taken
      float unusual;
      if (scan_float(next, line_end(next), unusual) != Scan::ok || !ends_token(*next)) {
        return diagnose(token);
      }
      at = next;
      value = unusual;
    }
    const auto local = static_cast<uint64_t>(id) - static_cast<uint64_t>(options_.first_id);
    if (local >= limit_) return diagnose(token);
    if (value != 1.0f && !has_values_) {
      has_values_ = true;
      std::fill_n(values_, k, 1.0f);
    }
    if (has_values_) values_[k] = value;
    if constexpr (kFields) fields_[k] = static_cast<int32_t>(field);
    ids_[k] = static_cast<Id>(local);
    ++k;
    return at;
  }

  // What is wrong with a feature: the first thing, from left to right.
  const char* diagnose(const char* token) {
    const char* at = token;
    int64_t field = 0, id = 0;
    float value;
    if (kFields) {
      const Scan scanned = scan_natural(at, field);
      if (scanned == Scan::out_of_range || (scanned == Scan::ok && field > kMaxInt32)) {
        return fail(token, Wrong::field_range);
      }
      if (scanned != Scan::ok || *at++ != ':') return fail(token, Wrong::form);
    }
    Scan scanned = scan_natural(at, id);
    if (scanned == Scan::out_of_range) return fail(token, Wrong::id_range);
    if (scanned != Scan::ok || *at++ != ':') return fail(token, Wrong::form);
    scanned = scan_float(at, line_end(at), value);
    if (scanned == Scan::out_of_range) return fail(token, Wrong::value_range);
    if (scanned != Scan::ok || !ends_token(*at)) return fail(token, Wrong::value);
    id -= options_.first_id;
    if (id < 0) return fail(token, Wrong::below_first);
    if (options_.n_features >= 0 && id >= options_.n_features) {
      return fail(token, Wrong::beyond_last);
    }
    part_.wide = true;  // nothing, but an int32 is too narrow for it
    return nullptr;
  }

  const char* fail(const char* token, Wrong wrong) {
    part_.wrong = wrong;
    part_.token = token;
    return nullptr;
  }

  const TextOptions& options_;
  Part& part_;
  Id* ids_;
  float* values_;
  int32_t* fields_;
  int64_t* ends_;
  float* targets_;
  int64_t* qids_;
  uint64_t limit_;
  bool has_values_ = false;
};

// Parts of a stretch, taken by threads one after the other.
class Crew {
 public:
  Crew(const TextOptions& options, std::vector<Part>& parts) : options_(options), parts_(parts) {}

  void count_all() {
    each([](Crew& self, size_t i) { count(self.parts_[i]); });
  }

  // Stops early after an id that needs 64 bits, and behind the first part that is wrong.
  void parse_all(const Target& to, bool wide) {
    to_ = &to;
    wide_ = false;
    first_wrong_ = parts_.size();
    if (options_.with_fields) {
      wide ? each(&Crew::parse<int64_t, true>) : each(&Crew::parse<int32_t, true>);
    } else {
      wide ? each(&Crew::parse<int64_t, false>) : each(&Crew::parse<int32_t, false>);
    }
  }

  bool found_wide() const { return wide_; }
  size_t first_wrong() const { return first_wrong_; }

 private:
  using Step = void (*)(Crew&, size_t);

  template <class Id, bool kFields>
  static void parse(Crew& self, size_t i) {
    const auto stop = [&] {
      return self.wide_.load(std::memory_order_relaxed) ||
             self.first_wrong_.load(std::memory_order_relaxed) < i;
    };
    Part& part = self.parts_[i];
    part.nnz = part.rows = 0;
    part.row_length = -1;
    part.has_values = part.wide = false;
    part.wrong = Wrong::nothing;
    PartParser<Id, kFields>(self.options_, *self.to_, part).run(stop);
    if (part.wide) self.wide_ = true;
    if (part.wrong != Wrong::nothing) {
      size_t first = self.first_wrong_;
      while (i < first && !self.first_wrong_.compare_exchange_weak(first, i)) {
      }
    }
  }

  void each(Step step) {
    step_ = step;
    next_ = 0;
    const int threads = std::min<int>(options_.threads, static_cast<int>(parts_.size()));
    parallel(
        threads,
        [](int, void* context) {
          Crew& self = *static_cast<Crew*>(context);
          for (size_t i; (i = self.next_++) < self.parts_.size();) self.step_(self, i);
        },
        this);
  }

  const TextOptions& options_;
  std::vector<Part>& parts_;
  const Target* to_ = nullptr;
  Step step_ = nullptr;
  std::atomic<size_t> next_{0}, first_wrong_{0};
  std::atomic<bool> wide_{false};
};

// Cut at line ends; `end` is behind one.
std::vector<Part> cut(const char* begin, const char* end, const TextOptions& options) {
  const int64_t wanted = (end - begin) / (std::max(options.threads, 1) * kPartsEach);
  const int64_t bytes = std::max<int64_t>(wanted, std::max<int64_t>(options.part_bytes, 1));
  std::vector<Part> parts;
  while (begin < end) {
    const char* stop = end - begin > bytes ? line_end(begin + bytes - 1) + 1 : end;
    parts.push_back({begin, stop});
    begin = stop;
  }
  return parts;
}

// Whether the first row has a query; -1 where there is no row.
int first_has_query(const std::vector<Part>& parts) {
  for (const Part& part : parts) {
    for (const char* at = part.begin; at < part.end; at = line_end(at) + 1) {
      at = skip(at);
      if (*at == '\n' || *at == '#') continue;
      while (!ends_token(*at)) ++at;
      return std::memcmp(skip(at), "qid:", 4) == 0;
    }
  }
  return -1;
}

template <class T>
void close_gap(T* data, int64_t from, int64_t to, int64_t n) {
  if (data && from != to) std::memmove(data + to, data + from, static_cast<size_t>(n) * sizeof(T));
}

std::string expectation(Wrong wrong, const TextOptions& options) {
  const std::string form = options.with_fields ? "field:id:value" : "id:value";
  switch (wrong) {
    case Wrong::label: return "a number as the label";
    case Wrong::label_range: return "a label within the range of float32";
    case Wrong::unwanted_qid: return "no qid, as on the lines before";
    case Wrong::missing_qid: return "qid:n, as on the lines before";
    case Wrong::qid: return "qid:n with a whole number n";
    case Wrong::field_range: return "a field of at most 2147483647";
    case Wrong::id_range: return "an id of at most 9223372036854775807";
    case Wrong::value_range: return "a value within the range of float32";
    case Wrong::value: return form + " with a finite value";
    case Wrong::below_first: return "ids that begin at " + std::to_string(options.first_id);
    case Wrong::beyond_last:
      return "an id of at most " + std::to_string(options.n_features - 1 + options.first_id) +
             " (n_features=" + std::to_string(options.n_features) + ")";
    default: return form;
  }
}

TextError error_of(const Part& part, const TextOptions& options) {
  const char* stop = part.token;
  while (!ends_token(*stop)) ++stop;
  const auto length = std::min(static_cast<size_t>(stop - part.token), kShown);
  return {part.line_number + 1, part.token - part.line + 1, std::string(part.token, length),
          expectation(part.wrong, options)};
}

}  // namespace

bool TextReader::feed(const char* begin, const char* end, TextError& error) {
  if (begin == end) return true;
  // The last lines go to a copy with room behind it, that the scanners may read beyond numbers.
  const char* cut_at = begin;
  for (const char* at = end - std::min<int64_t>(kSlack, end - begin); at > begin; --at) {
    if (at[-1] == '\n') {
      cut_at = at;
      break;
    }
  }
  std::vector<char> tail(cut_at, end);
  if (tail.back() != '\n') tail.push_back('\n');
  const size_t tail_size = tail.size();
  tail.resize(tail_size + kSlack, '\n');

  std::vector<Part> parts = cut(begin, cut_at, options_);
  parts.push_back({tail.data(), tail.data() + tail_size});
  if (has_qids_ < 0) has_qids_ = first_has_query(parts);
  Crew crew(options_, parts);
  crew.count_all();
  int64_t most_nnz = rows.nnz, most_rows = rows.rows;
  for (Part& part : parts) {
    part.first_line = lines_;
    part.nnz_base = most_nnz;
    part.row_base = most_rows;
    lines_ += part.lines;
    most_nnz += part.most_features(options_.with_fields);
    most_rows += part.most_rows();
  }
  rows.values.reserve(most_nnz);
  if (options_.with_fields) rows.fields.reserve(most_nnz);
  rows.offsets.reserve(most_rows + 1);
  rows.offsets.data()[0] = 0;
  rows.targets.reserve(most_rows);
  if (has_qids_ == 1) rows.qids.reserve(most_rows);
  Target to{nullptr, rows.values.data(), rows.fields.data(), rows.offsets.data(),
            rows.targets.data(), has_qids_ == 1 ? rows.qids.data() : nullptr};
  for (;;) {
    rows.wide ? rows.wide_ids.reserve(most_nnz) : rows.ids.reserve(most_nnz);
    to.ids = rows.wide ? static_cast<void*>(rows.wide_ids.data()) : rows.ids.data();
    crew.parse_all(to, rows.wide);
    if (!crew.found_wide()) break;
    rows.wide = true;
    rows.wide_ids.reserve(most_nnz);
    std::copy_n(rows.ids.data(), rows.nnz, rows.wide_ids.data());
    rows.ids.clear();
  }
  if (crew.first_wrong() < parts.size()) {
    error = error_of(parts[crew.first_wrong()], options_);
    return false;
  }

  const bool had_values = rows.has_values;
  for (const Part& part : parts) rows.has_values |= part.has_values;
  if (rows.has_values && !had_values) std::fill_n(to.values, rows.nnz, 1.0f);
  for (const Part& part : parts) {
    close_gap(rows.ids.data(), part.nnz_base, rows.nnz, part.nnz);
    close_gap(rows.wide_ids.data(), part.nnz_base, rows.nnz, part.nnz);
    close_gap(to.fields, part.nnz_base, rows.nnz, part.nnz);
    close_gap(to.targets, part.row_base, rows.rows, part.rows);
    close_gap(to.qids, part.row_base, rows.rows, part.rows);
    close_gap(to.offsets + 1, part.row_base, rows.rows, part.rows);
    if (part.has_values) {
      close_gap(to.values, part.nnz_base, rows.nnz, part.nnz);
    } else if (rows.has_values) {
      std::fill_n(to.values + rows.nnz, part.nnz, 1.0f);
    }
    if (const int64_t gap = part.nnz_base - rows.nnz) {
      int64_t* ends = to.offsets + 1 + rows.rows;
      for (int64_t row = 0; row < part.rows; ++row) ends[row] -= gap;
    }
    if (part.rows) {
      if (rows.rows == 0) rows.row_length = part.row_length;
      if (rows.row_length != part.row_length) rows.row_length = -1;
    }
    rows.nnz += part.nnz;
    rows.rows += part.rows;
  }
  return true;
}

void TextReader::restart() {
  rows.nnz = rows.rows = 0;
  rows.row_length = -1;
  rows.wide = rows.has_values = false;
}

}  // namespace crossfm
