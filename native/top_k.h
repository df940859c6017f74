// The k largest of a row.
#pragma once

#include "dispatch.h"
#include "types.h"

namespace mlx_lm {

// Order: larger values first, then lower indices; -0 equals 0 and a NaN is below everything.
struct Choice {
  int32_t key;  // of the value; larger for larger values
  uint32_t index;
  bool operator<(const Choice& o) const { return key != o.key ? key > o.key : index < o.index; }
};

struct TopKernels {
  // The best min(k, end - begin) of row[begin..end), unordered, in best[]; returns how many.
  int64_t (*top)(const void* row, Float type, int64_t begin, int64_t end, int64_t k, Choice* best);
};
MLX_LM_KERNEL_TABLE(TopKernels, top_kernels)

}  // namespace mlx_lm
