#include <utility>
#include <vector>

#include "bind.hpp"
#include "parse.hpp"

namespace crossfm {
namespace {

// An array that owns the vector's memory: nothing is copied.
template <class T>
nb::object to_numpy(std::vector<T>&& vector) {
  auto* kept = new std::vector<T>(std::move(vector));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  static T nothing{};
  T* data = kept->empty() ? &nothing : kept->data();
  return nb::cast(nb::ndarray<nb::numpy, T, nb::ndim<1>>(data, {kept->size()}, owner));
}

nb::tuple parse(Array<uint8_t> text, bool with_fields, int64_t first_id, int64_t n_features,
                int64_t first_line) {
  ParsedText parsed;
  TextError error;
  bool fine;
  {
    nb::gil_scoped_release released;
    const auto* begin = reinterpret_cast<const char*>(text.data());
    const TextOptions options{with_fields, first_id, n_features, first_line};
    fine = parse_text(begin, begin + text.size(), options, parsed, error);
  }
  if (!fine) {
    nb::bytes found(error.found.data(), error.found.size());
    return nb::make_tuple(error.line, error.column, found, error.expected);
  }
  const int64_t n_lines = parsed.n_lines, row_length = parsed.row_length;
  nb::object none = nb::none();
  nb::object ids = parsed.wide ? to_numpy(std::move(parsed.wide_ids)) : to_numpy(std::move(parsed.ids));
  return nb::make_tuple(
      ids, parsed.has_values ? to_numpy(std::move(parsed.values)) : none,
      row_length < 0 ? to_numpy(std::move(parsed.offsets)) : none,
      with_fields ? to_numpy(std::move(parsed.fields)) : none, to_numpy(std::move(parsed.targets)),
      parsed.qids.empty() ? none : to_numpy(std::move(parsed.qids)), n_lines);
}

}  // namespace

void bind_parse(nb::module_& m) {
  m.def("parse_text", &parse, nb::arg("text"), nb::arg("with_fields") = false,
        nb::arg("first_id") = 0, nb::arg("n_features") = -1, nb::arg("first_line") = 1,
        "Whole lines of libsvm or libffm text (uint8) as\n"
        "(ids, values | None, offsets | None, fields | None, targets, qids | None, n_lines),\n"
        "or, where a line is malformed, (line, column, found, expected).");
}

}  // namespace crossfm
