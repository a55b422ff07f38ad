// One bind_* function a subject; bind.cpp assembles the module.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <optional>

namespace crossfm {

namespace nb = nanobind;

template <class T>
using Array = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

struct PairKernels;
struct SweepKernels;
struct ScanKernels;
struct RankingKernels;
// Of the instruction-set level that bind_fm has chosen.
const PairKernels& pair_kernels();
const SweepKernels& sweep_level();
const ScanKernels& scan_level();
const RankingKernels& ranking_level();

void bind_rows(nb::module_& m);
void bind_fm(nb::module_& m);
void bind_pairwise(nb::module_& m);
void bind_sweep(nb::module_& m);
void bind_topk(nb::module_& m);
void bind_ranking(nb::module_& m);
void bind_parse(nb::module_& m);
void bind_hash(nb::module_& m);
void bind_encode(nb::module_& m);

}  // namespace crossfm
