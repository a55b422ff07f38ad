#include "bind.hpp"

NB_MODULE(_native, m) {
  nanobind::set_leak_warnings(false);  // what lives until the interpreter ends is no leak to tell of
  m.doc() = "The native core: validation, fused training, scoring, the pairwise operator, top-k, text parsing.";
  crossfm::bind_rows(m);
  crossfm::bind_fm(m);
  crossfm::bind_pairwise(m);
  crossfm::bind_sweep(m);
  crossfm::bind_topk(m);
  crossfm::bind_ranking(m);
  crossfm::bind_parse(m);
  crossfm::bind_hash(m);
  crossfm::bind_encode(m);
}
