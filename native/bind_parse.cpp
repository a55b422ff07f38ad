#include "bind.hpp"

namespace crossfm {
void bind_parse(nb::module_&) {}
}  // namespace crossfm
