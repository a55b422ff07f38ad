// Occurrences grouped by feature: the order in which gradients are added up.
#pragma once

#include <cstdint>
#include <memory>

#include "pairwise.hpp"

namespace crossfm {

// Offsets go from 0 to nnz and never fall.
Problem check_offsets(const PairBatch&);

// Whether no row can hold two features of one field, as far as the columns' fields tell.
bool fields_are_distinct(const PairBatch&);

// Checks the fields of all positions.
Problem check_fields(const PairBatch&);

class Groups {
 public:
  // Checks ids, and sorts occurrences by id. `positions`: whether marks are to be positions
  // (values, fields or pools are looked up by them), or rows, which needs less memory.
  Problem group(const PairBatch&, bool positions, int threads);

  // Finds fields that hold several features of one row; fields must be in range. Returns the
  // number of such pools. Needs positions.
  int64_t find_pools(const PairBatch&, int threads);

  const int32_t* pool_of() const { return pool_of_.get(); }
  int64_t count() const { return count_; }

  GroupView view() const {
    return {entries_.get(), starts_.get(), row_of_.get(), pool_of_.get(), nullptr, count_, nnz_};
  }

 private:
  void find_starts(int threads);

  // new[] leaves them unset: no page is touched before it is used.
  std::unique_ptr<uint64_t[]> entries_;
  std::unique_ptr<uint32_t[]> starts_, row_of_;
  std::unique_ptr<int32_t[]> pool_of_;
  int64_t count_ = 0, nnz_ = 0;
};

}  // namespace crossfm
