// Text of sparse rows (libsvm, libFM, libffm) to flat arrays. Plain C++: no Python in here.
//
// A call knows nothing of others, so that stretches of a file cut at line ends can be parsed
// by several threads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace crossfm {

struct TextOptions {
  bool with_fields = false;  // field:id:value, else id:value
  int64_t first_id = 0;      // the smallest id of the text; becomes id 0
  int64_t n_features = -1;   // ids (from 0) must be below it; -1: no limit
  int64_t first_line = 1;    // number of the first line, for errors
};

struct TextError {
  int64_t line = 0;
  int64_t column = 0;    // of the token, counted in bytes from 1
  std::string found;     // the token, cut after some tens of bytes
  std::string expected;
};

struct ParsedText {
  std::vector<int32_t> ids;       // while all fit
  std::vector<int64_t> wide_ids;  // all of them, once one does not
  bool wide = false;
  std::vector<float> values;      // filled from the first value that is not 1
  bool has_values = false;
  std::vector<int32_t> fields;    // with_fields only
  std::vector<int64_t> offsets;   // [rows + 1]
  std::vector<float> targets;     // [rows]
  std::vector<int64_t> qids;      // [rows] where the lines have qid:n, else empty
  int64_t row_length = -1;        // common number of features, -1 where rows differ
  int64_t n_lines = 0;

  int64_t nnz() const { return static_cast<int64_t>(wide ? wide_ids.size() : ids.size()); }
};

// Parses whole lines: `label [qid:n] id:value ... [# comment]`. False: `error` says where and what.
bool parse_text(const char* begin, const char* end, const TextOptions& options, ParsedText& out,
                TextError& error);

enum class Scan { ok, malformed, out_of_range };

// Reads a decimal number, rounded correctly (to nearest, ties to even) to float32, and moves
// `at` behind it. Infinity, NaN and hexadecimal digits are malformed; what would round to
// infinity is out of range; what would round to zero is zero.
Scan scan_float(const char*& at, const char* end, float& out);

}  // namespace crossfm
