// Matrix products y = x @ w.T with dense or quantized weights, callable from inside a parallel region.
//
//     Activation kind = activation_for(m, fast);                // what the mode means for this matrix
//     Rows rows = lay_out_rows(m, kind, count, workspace);      // workspace: rows_bytes(m, kind, count), 64-aligned
//     linear_kernels().prepare(m, rows, x, Float::f32, ldx, nullptr, begin, end);   // each thread its pieces
//     team.barrier();
//     linear_kernels().multiply(m, rows, y, Float::f32, ldy, panel_begin, panel_end);  // each thread its panels
//
// A panel is 16 output columns (16 rows of w). Prepared rows serve every matrix with the same k, format, bits and
// group (`same_rows`): quantize the input of q, k and v once.
//
// int8 multiplies (sum(q * w) * row scale + outlier * its w) in place of t below.
// Order of accumulation of one output, the same for every row count, panel range, layout and thread count:
// t = sum over the unit (min(group, 64) inputs) in order; acc = fma(t, scale, acc); acc = fma(sum(x), bias, acc).
// Hence a row's result never depends on the other rows.
#pragma once

#include "dispatch.h"
#include "types.h"

namespace mlx_lm {

enum class Format : uint8_t { affine, mxfp4, mxfp8, nvfp4, dense };

// exact: float32 activations. int8: quantized per unit but for an input that is more than `outlier_ratio` times as large
// as the others of its unit, which stays a float; affine weights only. bf16: rounded to bfloat16 and multiplied in pairs,
// bfloat16 dense weights only.
enum class Activation : uint8_t { exact, int8, bf16 };

struct Matrix {
  const void* w;       // dense (n, k), or packed words (n, k * bits / 32)
  const void* scales;  // (n, k / group): `type` for affine, uint8 for the fp formats; null when dense
  const void* biases;  // (n, k / group) of `type`; affine only
  int64_t n;
  int64_t k;
  Format format;
  Float type;  // of the elements (dense) or of scales and biases (affine)
  int bits;
  int group;
  bool interleaved;  // words as (n/16, k*bits/32, 16), scales and biases as (n/16, k/group, 16); n % 16 == 0
};

// Activations as the kernels read them: blocks of `block` rows, element-major inside a block.
// Memory that will be read after a product: a few lines of it are fetched with every piece of a few rows, whose
// multiply-adds leave the memory idle.
struct Ahead {
  struct Span {
    const char* begin;
    const char* end;
  };
  const Span* next;
  const Span* stop;
  const char* at;
  const char* end;
  int lines;  // with each 32 inputs of a panel

  void fetch() {
    for (int i = 0; i < lines && at < end; ++i, at += 64) __builtin_prefetch(at, 0, 2);
    if (at >= end && next < stop) {
      at = next->begin;
      end = next->end;
      ++next;
    }
  }
};

struct Rows {
  Activation kind;
  int64_t count;
  int64_t k;        // padded to a multiple of unit
  int64_t unit;     // inputs per fold
  int block;        // rows per block
  void* x;          // float, or packed int8 x 4, or packed bf16 x 2
  float* sums;      // per unit and row: sum(x) (exact affine), scale * sum(q) + outlier (int8)
  float* scales;    // per unit and row (int8)
  float* outliers;  // per unit and row (int8): the input that is not quantized, 0 for none,
  int32_t* places;  // and its index within the unit, -1 for none
  Ahead* ahead;     // null: nothing
};

inline int64_t unit_of(const Matrix& m) {
  return m.format == Format::dense || m.group > 64 ? 64 : m.group;
}
inline int64_t panels_of(const Matrix& m) {
  return (m.n + 15) / 16;
}
inline int64_t padded_k(const Matrix& m) {
  int64_t unit = unit_of(m);
  return (m.k + unit - 1) / unit * unit;
}
inline Activation activation_for(const Matrix& m, bool fast) {
  if (fast && m.format == Format::affine) {
    return Activation::int8;
  }
  return fast && m.format == Format::dense && m.type == Float::bf16 ? Activation::bf16 : Activation::exact;
}
// Whether rows prepared for a can be multiplied with b.
inline bool same_rows(const Matrix& a, const Matrix& b) {
  return a.k == b.k && a.format == b.format && a.bits == b.bits && a.group == b.group && a.type == b.type;
}

struct LinearKernels {
  // Rows per block for `count` rows.
  int (*block_rows)(Activation kind, int64_t count);
  // Fills pieces [begin, end) of rows.x (and scales, sums): piece i is unit i % units of block i / units.
  // Row i is at x + index[i] * ldx, or i * ldx without index.
  void (*prepare)(const Matrix& m, const Rows& rows, const void* x, Float type, int64_t ldx, const int32_t* index,
                  int64_t begin, int64_t end);
  // y[i * ldy + j] for all rows i and the columns j of panels [begin, end).
  void (*multiply)(const Matrix& m, const Rows& rows, void* y, Float type, int64_t ldy, int64_t begin, int64_t end);
  // y = x @ w (no transposition) for columns [begin, end) of w's k columns, multiples of 64 except the last.
  // rows: prepared with `dense_view(m)`, kind exact.
  void (*multiply_plain)(const Matrix& m, const Rows& rows, void* y, Float type, int64_t ldy, int64_t begin,
                         int64_t end);
  // Repacks panels [begin, end) between the plain and the interleaved layout, words, scales and biases alike:
  // `item` bytes per element (4 or 2 or 1), `columns` elements per row.
  void (*interleave)(const void* from, void* to, int64_t columns, int item, bool undo, int64_t begin, int64_t end);
};
MLX_LM_PRODUCT_TABLE(LinearKernels, linear_kernels)

// The shape of x for multiply_plain: rows of length n.
inline Matrix dense_view(const Matrix& m) {
  Matrix d = m;
  d.format = Format::dense;
  d.type = Float::f32;
  d.k = m.n;
  d.n = m.k;
  return d;
}

inline int64_t pieces_of(const Rows& rows) {
  return (rows.count + rows.block - 1) / rows.block * (rows.k / rows.unit);
}
inline int64_t row_blocks(const Rows& rows) {
  return (rows.count + rows.block - 1) / rows.block;
}

#if !defined(MLX_LM_ISA)
inline size_t align64(size_t bytes) {
  return (bytes + 63) / 64 * 64;
}
inline Rows rows_shape(const Matrix& m, Activation kind, int64_t count) {
  return {kind, count, padded_k(m), unit_of(m), linear_kernels().block_rows(kind, count), nullptr, nullptr, nullptr, nullptr,
          nullptr, nullptr};
}
inline size_t rows_x_bytes(const Rows& r) {
  size_t item = r.kind == Activation::exact ? 4 : (r.kind == Activation::bf16 ? 2 : 1);
  return align64(static_cast<size_t>(row_blocks(r) * r.block * r.k) * item);
}
inline size_t rows_sum_bytes(const Rows& r) {
  return align64(static_cast<size_t>(row_blocks(r) * r.block * (r.k / r.unit)) * 4);
}
inline size_t rows_bytes(const Matrix& m, Activation kind, int64_t count) {
  Rows r = rows_shape(m, kind, count);
  return rows_x_bytes(r) + 4 * rows_sum_bytes(r);
}
inline Rows lay_out_rows(const Matrix& m, Activation kind, int64_t count, void* workspace) {
  Rows r = rows_shape(m, kind, count);
  char* p = static_cast<char*>(workspace);
  r.x = p;
  p += rows_x_bytes(r);
  const size_t step = rows_sum_bytes(r);
  r.sums = reinterpret_cast<float*>(p);
  r.scales = reinterpret_cast<float*>(p + step);
  r.outliers = reinterpret_cast<float*>(p + 2 * step);
  r.places = reinterpret_cast<int32_t*>(p + 3 * step);
  return r;
}
#endif

}  // namespace mlx_lm
