// The inner loops of matrix products: R rows of activations against P panels of 16 outputs.
//
// `few_*` read packed words directly (one panel); `block_*` read words unpacked once for many rows. Both keep the
// accumulation order that linear.h promises, so they agree to the last bit.
#pragma once

#include "linear_formats.h"

namespace mlx_lm::MLX_LM_ISA {

// Register tiles: few_rows rows straight from packed words; beyond that P panels x block rows.
#if defined(MLX_LM_ISA_avx512)
constexpr int few_rows = 8;
constexpr int tile_panels = 2;
constexpr int float_block = 12;
constexpr int byte_block = 6;
#elif defined(MLX_LM_ISA_avx2)
constexpr int few_rows = 4;
constexpr int tile_panels = 1;
constexpr int float_block = 6;
constexpr int byte_block = 4;
#else
constexpr int few_rows = 2;
constexpr int tile_panels = 1;
constexpr int float_block = 3;
constexpr int byte_block = 2;
#endif

// Calls body(std::integral_constant-like<R>) for 1 <= r <= Max.
template <int R>
struct Count {
  static constexpr int value = R;
};
template <int Max, class Body>
MLX_INLINE void with_count(int r, Body&& body) {
  if constexpr (Max > 1) {
    if (r < Max) {
      return with_count<Max - 1>(r, body);
    }
  }
  body(Count<Max>{});
}

// acc (R x 16) += the product over `units` units. x: [input][R], sums: [unit][R], s and b: [unit's group][16].
template <class Fmt, int R>
__attribute__((noinline)) void few_exact(const uint32_t* w, int64_t units, int64_t unit, int64_t units_per_group,
                                         const float* s, const float* b, const float* x, const float* sums,
                                         float* acc) {
  F a[R];
  _Pragma("GCC unroll 8") for (int r = 0; r < R; ++r) a[r] = load(acc + 16 * r);
  int64_t in_group = 0;
  for (int64_t u = 0; u < units; ++u) {
    F t[R];
    _Pragma("GCC unroll 8") for (int r = 0; r < R; ++r) t[r] = zero();
    for (int64_t c = 0; c < unit; c += Fmt::codes) {
      _Pragma("GCC unroll 32") for (int j = 0; j < Fmt::codes; ++j) {
        F q = Fmt::value(w, j);
        _Pragma("GCC unroll 8") for (int r = 0; r < R; ++r) t[r] = fma(q, set1(x[j * R + r]), t[r]);
      }
      w += 16 * Fmt::words;
      x += Fmt::codes * R;
    }
    if constexpr (Fmt::scaled) {
      F scale = load(s);
      _Pragma("GCC unroll 8") for (int r = 0; r < R; ++r) a[r] = fma(t[r], scale, a[r]);
      if constexpr (Fmt::biased) {
        F bias = load(b);
        _Pragma("GCC unroll 8") for (int r = 0; r < R; ++r) a[r] = fma(set1(sums[r]), bias, a[r]);
        sums += R;
      }
      if (++in_group == units_per_group) {
        in_group = 0;
        s += 16;
        b += 16;
      }
    } else {
      _Pragma("GCC unroll 8") for (int r = 0; r < R; ++r) a[r] = a[r] + t[r];
    }
  }
  _Pragma("GCC unroll 8") for (int r = 0; r < R; ++r) store(acc + 16 * r, a[r]);
}

MLX_INLINE I broadcast4(const void* p) {
  int32_t v;
  std::memcpy(&v, p, 4);
  return set1_i(v);
}

// As few_exact with int8 activations: x is [dword][R] of four int8, scales and sums [unit][R].
template <class Fmt, int R>
__attribute__((noinline)) void few_int8(const uint32_t* w, int64_t units, int64_t unit, int64_t units_per_group,
                                        const float* s, const float* b, const char* x, const float* scales,
                                        const float* sums, float* acc) {
  F a[R];
  _Pragma("GCC unroll 8") for (int r = 0; r < R; ++r) a[r] = load(acc + 16 * r);
  int64_t in_group = 0;
  for (int64_t u = 0; u < units; ++u) {
    I t[R];
    _Pragma("GCC unroll 8") for (int r = 0; r < R; ++r) t[r] = zero_i();
    for (int64_t c = 0; c < unit; c += 32) {
      _Pragma("GCC unroll 8") for (int d = 0; d < 8; ++d) {
        I q = Fmt::bytes(w, d);
        _Pragma("GCC unroll 8") for (int r = 0; r < R; ++r)
          t[r] = dot4<(Fmt::bits < 8)>(t[r], q, broadcast4(x + 4 * (d * R + r)));
      }
      w += 16 * Fmt::words;
      x += 32 * R;
    }
    F scale = load(s), bias = load(b);
    _Pragma("GCC unroll 8") for (int r = 0; r < R; ++r) {
      a[r] = fma(to_float(t[r]) * set1(scales[r]), scale, a[r]);
      a[r] = fma(set1(sums[r]), bias, a[r]);
    }
    scales += R;
    sums += R;
    if (++in_group == units_per_group) {
      in_group = 0;
      s += 16;
      b += 16;
    }
  }
  _Pragma("GCC unroll 8") for (int r = 0; r < R; ++r) store(acc + 16 * r, a[r]);
}

// bf16 weights and activations in pairs: x is [pair][R] of two bf16.
template <int R>
__attribute__((noinline)) void few_bf16(const uint32_t* w, int64_t units, const char* x, float* acc) {
  F a[R];
  _Pragma("GCC unroll 8") for (int r = 0; r < R; ++r) a[r] = load(acc + 16 * r);
  for (int64_t u = 0; u < units; ++u) {
    F t[R];
    _Pragma("GCC unroll 8") for (int r = 0; r < R; ++r) t[r] = zero();
    _Pragma("GCC unroll 4") for (int d = 0; d < 32; ++d) {
      I q = load_i(w + 16 * d);
      _Pragma("GCC unroll 8") for (int r = 0; r < R; ++r) t[r] = dot2_bf16(t[r], q, broadcast4(x + 4 * (d * R + r)));
    }
    w += 16 * 32;
    x += 4 * 32 * R;
    _Pragma("GCC unroll 8") for (int r = 0; r < R; ++r) a[r] = a[r] + t[r];
  }
  _Pragma("GCC unroll 8") for (int r = 0; r < R; ++r) store(acc + 16 * r, a[r]);
}

// ---------------------------------------------------------------- unpacked words

// [input][16] floats of one panel.
template <class Fmt>
__attribute__((noinline)) void unpack_floats(const uint32_t* w, int64_t inputs, float* to) {
  for (int64_t c = 0; c < inputs; c += Fmt::codes) {
    _Pragma("GCC unroll 32") for (int j = 0; j < Fmt::codes; ++j) store(to + 16 * j, Fmt::value(w, j));
    w += 16 * Fmt::words;
    to += 16 * Fmt::codes;
  }
}

// [dword][16] of four codes each.
template <class Fmt>
__attribute__((noinline)) void unpack_bytes(const uint32_t* w, int64_t inputs, uint32_t* to) {
  for (int64_t c = 0; c < inputs; c += 32) {
    _Pragma("GCC unroll 8") for (int d = 0; d < 8; ++d) store_i(to + 16 * d, Fmt::bytes(w, d));
    w += 16 * Fmt::words;
    to += 16 * 8;
  }
}

// One tile: P panels (`stride` apart in w, `group_stride` in s and b) x R rows of a block stored with B rows.
struct Tile {
  const void* w;
  int64_t stride;        // elements between panels of w
  const float* s;
  const float* b;
  int64_t group_stride;  // floats between panels of s and b
  const void* x;         // the block, at this range of inputs
  const float* sums;
  const float* scales;
  float* acc;            // [row][P][16]
  int64_t units;
  int64_t unit;
  int64_t units_per_group;
};

#define MLX_TILE(p, r)                              \
  _Pragma("GCC unroll 2") for (int p = 0; p < P; ++p) \
  _Pragma("GCC unroll 12") for (int r = 0; r < R; ++r)

template <int P, int R, int B, bool scaled, bool biased>
__attribute__((noinline)) void block_exact(const Tile& tile) {
  const float *w = (const float*)tile.w, *x = (const float*)tile.x, *sums = tile.sums;
  int64_t in_group = 0, g = 0;
  for (int64_t u = 0; u < tile.units; ++u) {
    F t[P][R];
    MLX_TILE(p, r) t[p][r] = zero();
    for (int64_t k = 0; k < tile.unit; ++k) {
      F q[P];
      _Pragma("GCC unroll 2") for (int p = 0; p < P; ++p) q[p] = load(w + p * tile.stride);
      _Pragma("GCC unroll 12") for (int r = 0; r < R; ++r) {
        F v = set1(x[r]);
        _Pragma("GCC unroll 2") for (int p = 0; p < P; ++p) t[p][r] = fma(q[p], v, t[p][r]);
      }
      w += 16;
      x += B;
    }
    _Pragma("GCC unroll 2") for (int p = 0; p < P; ++p) {
      if constexpr (scaled) {
        F scale = load(tile.s + p * tile.group_stride + 16 * g);
        F bias = biased ? load(tile.b + p * tile.group_stride + 16 * g) : zero();
        _Pragma("GCC unroll 12") for (int r = 0; r < R; ++r) {
          float* a = tile.acc + 16 * (r * P + p);
          F v = fma(t[p][r], scale, load(a));
          if constexpr (biased) {
            v = fma(set1(sums[r]), bias, v);
          }
          store(a, v);
        }
      } else {
        _Pragma("GCC unroll 12") for (int r = 0; r < R; ++r) {
          float* a = tile.acc + 16 * (r * P + p);
          store(a, load(a) + t[p][r]);
        }
      }
    }
    sums += B;
    if (++in_group == tile.units_per_group) {
      in_group = 0;
      ++g;
    }
  }
}

template <int P, int R, int B, bool small>
__attribute__((noinline)) void block_int8(const Tile& tile) {
  const uint32_t* w = (const uint32_t*)tile.w;
  const char* x = (const char*)tile.x;
  const float *sums = tile.sums, *scales = tile.scales;
  F a[P][R];
  MLX_TILE(p, r) a[p][r] = load(tile.acc + 16 * (r * P + p));
  int64_t in_group = 0, g = 0;
  for (int64_t u = 0; u < tile.units; ++u) {
    I t[P][R];
    MLX_TILE(p, r) t[p][r] = zero_i();
    for (int64_t c = 0; c < tile.unit; c += 16) {
      _Pragma("GCC unroll 4") for (int d = 0; d < 4; ++d) {
        I q[P];
        _Pragma("GCC unroll 2") for (int p = 0; p < P; ++p) q[p] = load_i(w + p * tile.stride + 16 * d);
        _Pragma("GCC unroll 12") for (int r = 0; r < R; ++r) {
          I v = broadcast4(x + 4 * (d * B + r));
          _Pragma("GCC unroll 2") for (int p = 0; p < P; ++p) t[p][r] = dot4<small>(t[p][r], q[p], v);
        }
      }
      w += 16 * 4;
      x += 4 * 4 * B;
    }
    F scale[P], bias[P];
    _Pragma("GCC unroll 2") for (int p = 0; p < P; ++p) {
      scale[p] = load(tile.s + p * tile.group_stride + 16 * g);
      bias[p] = load(tile.b + p * tile.group_stride + 16 * g);
    }
    _Pragma("GCC unroll 12") for (int r = 0; r < R; ++r) {
      F row_scale = set1(scales[r]), row_sum = set1(sums[r]);
      _Pragma("GCC unroll 2") for (int p = 0; p < P; ++p) {
        a[p][r] = fma(to_float(t[p][r]) * row_scale, scale[p], a[p][r]);
        a[p][r] = fma(row_sum, bias[p], a[p][r]);
      }
    }
    sums += B;
    scales += B;
    if (++in_group == tile.units_per_group) {
      in_group = 0;
      ++g;
    }
  }
  MLX_TILE(p, r) store(tile.acc + 16 * (r * P + p), a[p][r]);
}

template <int P, int R, int B>
__attribute__((noinline)) void block_bf16(const Tile& tile) {
  const uint32_t* w = (const uint32_t*)tile.w;
  const char* x = (const char*)tile.x;
  for (int64_t u = 0; u < tile.units; ++u) {
    F t[P][R];
    MLX_TILE(p, r) t[p][r] = zero();
    _Pragma("GCC unroll 2") for (int d = 0; d < 32; ++d) {
      I q[P];
      _Pragma("GCC unroll 2") for (int p = 0; p < P; ++p) q[p] = load_i(w + p * tile.stride);
      _Pragma("GCC unroll 12") for (int r = 0; r < R; ++r) {
        I v = broadcast4(x + 4 * r);
        _Pragma("GCC unroll 2") for (int p = 0; p < P; ++p) t[p][r] = dot2_bf16(t[p][r], q[p], v);
      }
      w += 16;
      x += 4 * B;
    }
    MLX_TILE(p, r) {
      float* a = tile.acc + 16 * (r * P + p);
      store(a, load(a) + t[p][r]);
    }
  }
}

}  // namespace mlx_lm::MLX_LM_ISA
