// Validation and counting of Rows: one pass at the border, so that the kernels need no checks.
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "bind.hpp"

namespace crossfm {
namespace {

template <class Id>
nb::object validate(const Id* ids, const float* values, const int64_t* offsets, const int32_t* fields,
                    int64_t n_rows, int64_t nnz) {
  int64_t max_id = -1, longest = 0;
  int32_t max_field = -1;
  bool repeats = false, grouped = true;
  std::string problem;
  {
    nb::gil_scoped_release release;
    const int64_t length = n_rows ? nnz / n_rows : 0;
    // The ids of the current row in a small open-addressing table; entries of other rows are free.
    std::vector<int64_t> seen_id, seen_row;
    size_t mask = 0;
    std::vector<int64_t> field_row;  // row in which a field's run has ended
    for (int64_t r = 0; r < n_rows && problem.empty(); ++r) {
      const int64_t begin = offsets ? offsets[r] : r * length;
      const int64_t end = offsets ? offsets[r + 1] : begin + length;
      if (end < begin || end > nnz) {
        problem = "row " + std::to_string(r) + ": offsets go from " + std::to_string(begin) + " to " +
                  std::to_string(end) + ", expected them to rise and to stay within " +
                  std::to_string(nnz) + " ids";
        break;
      }
      const int64_t m = end - begin;
      if (m > longest) longest = m;
      if (!repeats && seen_id.size() < static_cast<size_t>(2 * m)) {
        size_t size = 64;
        while (size < static_cast<size_t>(2 * m)) size *= 2;
        seen_id.assign(size, -1);
        seen_row.assign(size, -1);
        mask = size - 1;
      }
      int32_t last_field = -1;
      for (int64_t j = begin; j < end; ++j) {
        const int64_t id = ids[j];
        if (id < 0) {
          problem = "row " + std::to_string(r) + ": feature id " + std::to_string(id) + " is negative";
          break;
        }
        if (id > max_id) max_id = id;
        if (values && !std::isfinite(values[j])) {
          problem = "row " + std::to_string(r) + ": the value of feature " + std::to_string(id) + " is " +
                    (std::isnan(values[j]) ? "NaN" : "infinite") + ", expected a finite number";
          break;
        }
        if (fields) {
          const int32_t f = fields[j];
          if (f < 0) {
            problem = "row " + std::to_string(r) + ": field " + std::to_string(f) + " is negative";
            break;
          }
          if (f > max_field) max_field = f;
          if (grouped && f != last_field) {
            // Fields are usually few; a huge field number is no reason to allocate.
            if (f < (1 << 20)) {
              if (field_row.size() <= static_cast<size_t>(f)) field_row.resize(f + 1, -1);
              if (field_row[f] == r) grouped = false;
              field_row[f] = r;
            } else {
              grouped = false;
            }
            last_field = f;
          }
        }
        if (!repeats) {
          size_t at = (static_cast<uint64_t>(id) * 0x9E3779B97F4A7C15ull >> 20) & mask;
          while (seen_row[at] == r && seen_id[at] != id) at = (at + 1) & mask;
          if (seen_row[at] == r) repeats = true;
          seen_row[at] = r;
          seen_id[at] = id;
        }
      }
    }
  }
  if (!problem.empty()) return nb::str(problem.c_str());
  return nb::make_tuple(max_id, longest, repeats, grouped, max_field);
}

nb::object validate_rows(nb::ndarray<nb::ro, nb::ndim<1>, nb::c_contig, nb::device::cpu> ids,
                         std::optional<Array<float>> values, std::optional<Array<int64_t>> offsets,
                         std::optional<Array<int32_t>> fields, int64_t n_rows) {
  const int64_t nnz = static_cast<int64_t>(ids.shape(0));
  const float* x = values ? values->data() : nullptr;
  const int64_t* o = offsets ? offsets->data() : nullptr;
  const int32_t* f = fields ? fields->data() : nullptr;
  if (ids.dtype() == nb::dtype<int64_t>())
    return validate(static_cast<const int64_t*>(ids.data()), x, o, f, n_rows, nnz);
  if (ids.dtype() == nb::dtype<int32_t>())
    return validate(static_cast<const int32_t*>(ids.data()), x, o, f, n_rows, nnz);
  throw nb::type_error("ids must be int32 or int64");
}

template <class Id>
void count(const Id* ids, int64_t nnz, uint32_t* counts) {
  nb::gil_scoped_release release;
  for (int64_t j = 0; j < nnz; ++j) {
#if defined(__GNUC__) || defined(__clang__)
    if (j + 16 < nnz) __builtin_prefetch(counts + ids[j + 16], 1);
#endif
    uint32_t& c = counts[ids[j]];
    c += c != UINT32_MAX;
  }
}

void count_ids(nb::ndarray<nb::ro, nb::ndim<1>, nb::c_contig, nb::device::cpu> ids,
               nb::ndarray<uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> counts) {
  const int64_t nnz = static_cast<int64_t>(ids.shape(0));
  if (ids.dtype() == nb::dtype<int64_t>()) count(static_cast<const int64_t*>(ids.data()), nnz, counts.data());
  else if (ids.dtype() == nb::dtype<int32_t>()) count(static_cast<const int32_t*>(ids.data()), nnz, counts.data());
  else throw nb::type_error("ids must be int32 or int64");
}

}  // namespace

void bind_rows(nb::module_& m) {
  m.def("validate_rows", &validate_rows, nb::arg("ids"), nb::arg("values").none(), nb::arg("offsets").none(),
        nb::arg("fields").none(), nb::arg("n_rows"),
        "Check ids, values, offsets and fields. Returns (max_id, longest_row, has_repeats, grouped,\n"
        "max_field), or a message that says which row is wrong and how.");
  m.def("count_ids", &count_ids, nb::arg("ids"), nb::arg("counts"),
        "Add to counts[id] (uint32, saturating) how often each id occurs. Ids must be in range.");
}

}  // namespace crossfm
