// Sums of values weighted by probabilities, each row in the order of its keys.
#pragma once

#include "attention_tiles.h"

namespace mlx_lm::MLX_LM_ISA {
namespace {

// out[r][0..16C) += sum over keys [k0, k1) of p[r][k] * v[k], v at the first of the columns.
template <int R, int C, Float T>
__attribute__((noinline)) void sum_tile(const char* v, int64_t token_bytes, int64_t k0, int64_t k1, const float* p,
                                        int64_t ld, float* out, int64_t ldo) {
  constexpr int64_t item = T == Float::f32 ? 4 : 2;
  F a[R][C];
  _Pragma("GCC unroll 12") for (int r = 0; r < R; ++r)
  _Pragma("GCC unroll 4") for (int c = 0; c < C; ++c) a[r][c] = load(out + r * ldo + 16 * c);
  v += k0 * token_bytes;
  for (int64_t k = k0; k < k1; ++k) {
    F x[C];
    _Pragma("GCC unroll 4") for (int c = 0; c < C; ++c) x[c] = load_as<T>(v + 16 * item * c);
    _Pragma("GCC unroll 12") for (int r = 0; r < R; ++r) {
      F w = set1(p[r * ld + k]);
      _Pragma("GCC unroll 4") for (int c = 0; c < C; ++c) a[r][c] = fma(x[c], w, a[r][c]);
    }
    v += token_bytes;
  }
  _Pragma("GCC unroll 12") for (int r = 0; r < R; ++r)
  _Pragma("GCC unroll 4") for (int c = 0; c < C; ++c) store(out + r * ldo + 16 * c, a[r][c]);
}

// As sum_tile for fewer than 16 columns.
void sum_edge(const char* v, int64_t token_bytes, Float type, int columns, int64_t k0, int64_t k1, const float* p,
              float* out) {
  F a = load_any_first(out, Float::f32, 0, columns);
  for (int64_t k = k0; k < k1; ++k) a = fma(load_any_first(v + k * token_bytes, type, 0, columns), set1(p[k]), a);
  store_any_first(out, Float::f32, 0, a, columns);
}

struct Columns {
  const char* v;
  int64_t token_bytes;
  int64_t item;
  int64_t begin;
  int64_t end;
};

template <Float T>
void sum_rows(const Columns& s, int64_t k0, int64_t k1, const float* p, int64_t ld, int rows, float* out,
              int64_t ldo) {
  int64_t c = s.begin;
  constexpr int wide = native_lanes == 16 ? 4 : 2, wide_rows = native_lanes == 16 ? 6 : 1;
  if (rows <= wide_rows) {
    for (; c + 16 * wide <= s.end; c += 16 * wide) {
      with_rows<wide_rows>(rows, [&](auto r) {
        sum_tile<decltype(r)::value, wide, T>(s.v + c * s.item, s.token_bytes, k0, k1, p, ld, out + c, ldo);
      });
    }
  }
  for (; c + 16 * key_vectors <= s.end; c += 16 * key_vectors) {
    with_rows<max_rows>(rows, [&](auto r) {
      sum_tile<decltype(r)::value, key_vectors, T>(s.v + c * s.item, s.token_bytes, k0, k1, p, ld, out + c, ldo);
    });
  }
  for (; c + 16 <= s.end; c += 16) {
    with_rows<max_rows>(rows, [&](auto r) {
      sum_tile<decltype(r)::value, 1, T>(s.v + c * s.item, s.token_bytes, k0, k1, p, ld, out + c, ldo);
    });
  }
  if (c < s.end) {
    for (int r = 0; r < rows; ++r) {
      sum_edge(s.v + c * s.item, s.token_bytes, T, (int)(s.end - c), k0, k1, p + r * ld, out + r * ldo + c);
    }
  }
}

// Tokens [k0, k1), columns [begin, end) (multiples of 32) of packed values as floats, `ld` apart.
void unpack_values(const TokenRows& values, int64_t k0, int64_t k1, int64_t begin, int64_t end, float* to,
                   int64_t ld) {
  for (int64_t k = k0; k < k1; k += 16) {
    int64_t count = k1 - k < 16 ? k1 - k : 16;
    const char* from = values.data + k * values.token_bytes;
    const char* s = values.scales + k * values.scale_token_bytes;
    const char* b = values.biases + k * values.scale_token_bytes;
    for (int64_t c = begin; c < end; c += 32) {
      alignas(64) uint32_t words[16 * 16];
      transpose_tokens(from + c * values.bits / 8, values.token_bytes, count, 4 * values.bits, words);
      F scale = lane_scales(s, values.scale_token_bytes, values.type, count, c / values.group);
      F bias = lane_scales(b, values.scale_token_bytes, values.type, count, c / values.group);
      with_bits(values.bits, [&](auto f) {
        constexpr int B = decltype(f)::bits;
        I in[32], out[16];
        _Pragma("GCC unroll 32") for (int j = 0; j < 32; ++j) in[j] = as_int(fma(code_of<B>(words, j), scale, bias));
        for (int half = 0; half < 2; ++half) {
          transpose16(in + 16 * half, out);
          for (int i = 0; i < count; ++i) store(to + (k - k0 + i) * ld + c + 16 * half, as_float(out[i]));
        }
      });
    }
  }
}

void values(const TokenRows& values, const float* p, int64_t ld, const Visible* visible, int64_t rows, int64_t begin,
            int64_t end, float* out, int64_t ldo, char* scratch) {
  scratch = (char*)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
  const int64_t wide = padded(end);
  each_part(visible, rows, values.bits > 0 ? packed_chunk : plain_chunk, [&](int64_t row, int n, int64_t k0, int64_t k1,
                                                                             const int64_t* first, const int64_t* last) {
    Columns s{values.data, values.token_bytes, values.type == Float::f32 ? 4 : 2, begin, end};
    if (values.bits > 0) {
      if (row == 0) {  // the chunk stays for the other blocks of rows
        unpack_values(values, k0, k1, begin / 32 * 32, (end + 31) / 32 * 32, (float*)scratch, wide);
      }
      s = {scratch - k0 * wide * 4, wide * 4, 4, begin, end};
    }
    sum_block(k0, k1, first, last, n, [&](int64_t from, int64_t to, int r, int count) {
      const float* weights = p + (row + r) * ld;
      float* sums = out + (row + r) * ldo;
      if (values.bits > 0 || values.type == Float::f32) {
        sum_rows<Float::f32>(s, from, to, weights, ld, count, sums, ldo);
      } else if (values.type == Float::bf16) {
        sum_rows<Float::bf16>(s, from, to, weights, ld, count, sums, ldo);
      } else {
        sum_rows<Float::f16>(s, from, to, weights, ld, count, sums, ldo);
      }
    });
  });
}

void divide(const float* from, float divisor, int64_t n, void* to, Float type) {
  F d = set1(divisor);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store_any(to, type, i, load(from + i) / d);
  if (i < n) store_any_first(to, type, i, load_any_first(from, Float::f32, i, (int)(n - i)) / d, (int)(n - i));
}

void scale(const void* x, Float type, float factor, int64_t n, float* q) {
  F f = set1(factor);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store(q + i, load_any(x, type, i) * f);
  if (i < n) store_any_first(q, Float::f32, i, load_any_first(x, type, i, (int)(n - i)) * f, (int)(n - i));
}

}  // namespace
}  // namespace mlx_lm::MLX_LM_ISA
