#include <cstdlib>
#include <utility>

#include "bind.hpp"
#include "parse.hpp"

namespace crossfm {
namespace {

// An array that owns the memory: nothing is copied.
template <class T>
nb::object to_numpy(Growing<T>& from, int64_t n) {
  T* data = from.release(n);
  nb::capsule owner(data, [](void* p) noexcept { std::free(p); });
  return nb::cast(nb::ndarray<nb::numpy, T, nb::ndim<1>>(data, {static_cast<size_t>(n)}, owner));
}

nb::object feed(TextReader& reader, Array<uint8_t> text) {
  TextError error;
  bool fine;
  {
    nb::gil_scoped_release released;
    const auto* begin = reinterpret_cast<const char*>(text.data());
    fine = reader.feed(begin, begin + text.size(), error);
  }
  if (fine) return nb::none();
  nb::bytes found(error.found.data(), error.found.size());
  return nb::make_tuple(error.line, error.column, found, error.expected);
}

nb::tuple take(TextReader& reader) {
  TextArrays& rows = reader.rows;
  const bool equal_rows = rows.rows == 0 || rows.row_length >= 0;
  nb::object none = nb::none();
  nb::tuple taken = nb::make_tuple(
      rows.wide ? to_numpy(rows.wide_ids, rows.nnz) : to_numpy(rows.ids, rows.nnz),
      rows.has_values ? to_numpy(rows.values, rows.nnz) : none,
      equal_rows ? none : to_numpy(rows.offsets, rows.rows + 1),
      reader.with_fields() ? to_numpy(rows.fields, rows.nnz) : none,
      to_numpy(rows.targets, rows.rows),
      reader.has_qids() ? to_numpy(rows.qids, rows.rows) : none);
  reader.restart();
  return taken;
}

}  // namespace

void bind_parse(nb::module_& m) {
  nb::class_<TextReader>(m, "TextReader",
                         "Rows of libsvm or libffm text, fed piece by piece. Of one thread at a\n"
                         "time.")
      .def(
          "__init__",
          [](TextReader* self, bool with_fields, int64_t first_id, int64_t n_features, int threads,
             int64_t part_bytes) {
            new (self) TextReader({with_fields, first_id, n_features, threads, part_bytes});
          },
          nb::arg("with_fields"), nb::arg("first_id"), nb::arg("n_features"), nb::arg("threads"),
          nb::arg("part_bytes"))
      .def("__len__", [](const TextReader& reader) { return reader.rows.rows; })
      .def("feed", &feed, nb::arg("text"),
           "Parse whole lines (uint8): None, or where one is malformed (line, column, found,\n"
           "expected); lines are counted over all feeds.")
      .def("take", &take,
           "The rows fed since the last call: (ids, values | None, offsets | None,\n"
           "fields | None, targets, qids | None).");
}

}  // namespace crossfm
