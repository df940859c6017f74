// One pass over a row with a heap of the best so far, the worst of them on top.
#include "top_k.h"

#include "simd.h"

namespace mlx_lm::MLX_LM_ISA {
namespace {

constexpr int32_t nan_key = INT32_MIN;

MLX_INLINE int32_t key_of(float v) {
  if (v != v) {
    return nan_key;
  }
  v = v + 0.0f;  // -0 becomes 0
  int32_t bits;
  __builtin_memcpy(&bits, &v, 4);
  return bits < 0 ? bits ^ 0x7fffffff : bits;
}
MLX_INLINE float value_of(int32_t key) {
  int32_t bits = key < 0 ? key ^ 0x7fffffff : key;
  float v;
  __builtin_memcpy(&v, &bits, 4);
  return v;
}

MLX_INLINE bool better(const Choice& a, const Choice& b) {
  return a.key != b.key ? a.key > b.key : a.index < b.index;
}

// Puts c at the top of heap[0..n), whose other entries are in order, and restores it.
void sink(Choice* heap, int64_t n, int64_t at, Choice c) {
  for (int64_t child; (child = 2 * at + 1) < n; at = child) {
    if (child + 1 < n && better(heap[child], heap[child + 1])) {
      ++child;
    }
    if (!better(c, heap[child])) {
      break;
    }
    heap[at] = heap[child];
  }
  heap[at] = c;
}

int64_t top(const void* row, Float type, int64_t begin, int64_t end, int64_t k, Choice* best) {
  const int64_t n = end - begin < k ? end - begin : k;
  alignas(64) float v[64];
  auto at = [&](int64_t i, int lanes) {
    return lanes == 16 ? load_any(row, type, i) : load_any_first(row, type, i, lanes);
  };
  auto fill = [&](int64_t i, int64_t count) {
    for (int64_t j = 0; j < count; j += 16) store(v + j, at(i + j, count - j < 16 ? (int)(count - j) : 16));
  };
  int64_t i = begin;
  while (i < begin + n) {
    const int64_t count = begin + n - i < 64 ? begin + n - i : 64;
    fill(i, count);
    for (int64_t j = 0; j < count; ++j) best[i - begin + j] = {key_of(v[j]), (uint32_t)(i + j)};
    i += count;
  }
  for (int64_t j = n / 2 - 1; j >= 0; --j) sink(best, n, j, best[j]);
  while (i < end) {
    const int64_t count = end - i < 64 ? end - i : 64;
    if (count == 64 && best[0].key != nan_key) {
      // A later index never beats an equal value, so only larger ones matter; NaN compares false.
      const F limit = set1(value_of(best[0].key));
      F over = zero();
      F x[4] = {at(i, 16), at(i + 16, 16), at(i + 32, 16), at(i + 48, 16)};
      for (int j = 0; j < 4; ++j) {
        MLX_EACH(p) over.v[p] = x[j].v[p] > limit.v[p] ? nf{} + 1.0f : over.v[p];
      }
      if (!(reduce_max(over) > 0)) {
        i += 64;
        continue;
      }
      for (int j = 0; j < 4; ++j) store(v + 16 * j, x[j]);
    } else {
      fill(i, count);
    }
    for (int64_t j = 0; j < count; ++j) {
      const int32_t key = key_of(v[j]);
      if (key > best[0].key) {
        sink(best, n, 0, {key, (uint32_t)(i + j)});
      }
    }
    i += count;
  }
  return n;
}

}  // namespace

extern const TopKernels top_kernels_table = {top};

}  // namespace mlx_lm::MLX_LM_ISA
