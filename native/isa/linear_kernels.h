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
constexpr int byte_block = 12;
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

// Panels side by side for a few rows: enough independent sums to hide the latency of a multiply-add (4 cycles).
template <int R>
constexpr int few_panels = native_lanes == 16 ? (R <= 3 ? 4 : 2) : (native_lanes == 8 && R <= 2 ? 2 : 1);

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

// A range of inputs of P panels x a block of rows. few_*: w holds packed words, block_*: unpacked ones.
struct Tile {
  const void* w;
  int64_t stride;        // dwords between panels of w
  const float* s;        // [group][16]
  const float* b;
  int64_t group_stride;  // floats between panels of s and b
  const void* x;         // the block of rows, at this range of inputs
  const float* sums;
  const float* scales;
  float* acc;            // [row][P][16]
  int64_t units;
  int64_t unit;
  int64_t units_per_group;
};

MLX_INLINE I broadcast4(const void* p) {
  int32_t v;
  std::memcpy(&v, p, 4);
  return set1_i(v);
}

#define MLX_PANELS(p) _Pragma("GCC unroll 4") for (int p = 0; p < P; ++p)
#define MLX_ROWS(r) _Pragma("GCC unroll 12") for (int r = 0; r < R; ++r)

// Folds the sums of one unit, t, into acc: the one place that decides the order (linear.h).
template <int P, int R, bool scaled, bool biased>
MLX_INLINE void fold(const Tile& tile, const F t[P][R], int64_t group, const float* sums) {
  MLX_PANELS(p) {
    float* acc = tile.acc + 16 * p;
    if constexpr (scaled) {
      F scale = load(tile.s + p * tile.group_stride + 16 * group);
      F bias = biased ? load(tile.b + p * tile.group_stride + 16 * group) : zero();
      MLX_ROWS(r) {
        F v = fma(t[p][r], scale, load(acc + 16 * r * P));
        if constexpr (biased) {
          v = fma(set1(sums[r]), bias, v);
        }
        store(acc + 16 * r * P, v);
      }
    } else {
      MLX_ROWS(r) store(acc + 16 * r * P, load(acc + 16 * r * P) + t[p][r]);
    }
  }
}

template <class Fmt, int P, int R>
__attribute__((noinline)) void few_exact(const Tile& tile) {
  const uint32_t* w = (const uint32_t*)tile.w;
  const float *x = (const float*)tile.x, *sums = tile.sums;
  const int64_t stride = tile.stride, unit = tile.unit;
  int64_t in_group = 0, group = 0;
  for (int64_t u = 0; u < tile.units; ++u) {
    F t[P][R];
    MLX_PANELS(p) MLX_ROWS(r) t[p][r] = zero();
    for (int64_t c = 0; c < unit; c += Fmt::codes) {
      _Pragma("GCC unroll 32") for (int j = 0; j < Fmt::codes; ++j) {
        F q[P];
        MLX_PANELS(p) q[p] = Fmt::value(w + p * stride, j);
        MLX_ROWS(r) {
          F v = set1(x[j * R + r]);
          MLX_PANELS(p) t[p][r] = fma(q[p], v, t[p][r]);
        }
      }
      w += 16 * Fmt::words;
      x += Fmt::codes * R;
    }
    fold<P, R, Fmt::scaled, Fmt::biased>(tile, t, group, sums);
    sums += R;
    if (++in_group == tile.units_per_group) {
      in_group = 0;
      ++group;
    }
  }
}

// As few_exact with int8 activations: x is [dword][R] of four int8, scales and sums [unit][R].
template <class Fmt, int P, int R>
__attribute__((noinline)) void few_int8(const Tile& tile) {
  const uint32_t* w = (const uint32_t*)tile.w;
  const char* x = (const char*)tile.x;
  const float *sums = tile.sums, *scales = tile.scales;
  const int64_t stride = tile.stride, unit = tile.unit;
  int64_t in_group = 0, group = 0;
  for (int64_t u = 0; u < tile.units; ++u) {
    I t[P][R];
    MLX_PANELS(p) MLX_ROWS(r) t[p][r] = zero_i();
    for (int64_t c = 0; c < unit; c += 32) {
      _Pragma("GCC unroll 8") for (int d = 0; d < 8; ++d) {
        I q[P];
        MLX_PANELS(p) q[p] = Fmt::bytes(w + p * stride, d);
        MLX_ROWS(r) {
          I v = broadcast4(x + 4 * (d * R + r));
          MLX_PANELS(p) t[p][r] = dot4<(Fmt::bits < 8)>(t[p][r], q[p], v);
        }
      }
      w += 16 * Fmt::words;
      x += 32 * R;
    }
    F v[P][R];
    MLX_ROWS(r) {
      F row_scale = set1(scales[r]);
      MLX_PANELS(p) v[p][r] = to_float(t[p][r]) * row_scale;
    }
    fold<P, R, true, true>(tile, v, group, sums);
    scales += R;
    sums += R;
    if (++in_group == tile.units_per_group) {
      in_group = 0;
      ++group;
    }
  }
}

// bf16 weights and activations in pairs: x is [pair][R] of two bf16.
template <int P, int R>
__attribute__((noinline)) void few_bf16(const Tile& tile) {
  const uint32_t* w = (const uint32_t*)tile.w;
  const char* x = (const char*)tile.x;
  for (int64_t u = 0; u < tile.units; ++u) {
    F t[P][R];
    MLX_PANELS(p) MLX_ROWS(r) t[p][r] = zero();
    _Pragma("GCC unroll 4") for (int d = 0; d < 32; ++d) {
      I q[P];
      MLX_PANELS(p) q[p] = load_i(w + p * tile.stride + 16 * d);
      MLX_ROWS(r) {
        I v = broadcast4(x + 4 * (d * R + r));
        MLX_PANELS(p) t[p][r] = dot2_bf16(t[p][r], q[p], v);
      }
    }
    w += 16 * 32;
    x += 4 * 32 * R;
    fold<P, R, false, false>(tile, t, 0, nullptr);
  }
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

template <int P, int R, int B, bool scaled, bool biased>
__attribute__((noinline)) void block_exact(const Tile& tile) {
  const float *w = (const float*)tile.w, *x = (const float*)tile.x, *sums = tile.sums;
  int64_t in_group = 0, group = 0;
  for (int64_t u = 0; u < tile.units; ++u) {
    F t[P][R];
    MLX_PANELS(p) MLX_ROWS(r) t[p][r] = zero();
    for (int64_t k = 0; k < tile.unit; ++k) {
      F q[P];
      MLX_PANELS(p) q[p] = load(w + p * tile.stride);
      MLX_ROWS(r) {
        F v = set1(x[r]);
        MLX_PANELS(p) t[p][r] = fma(q[p], v, t[p][r]);
      }
      w += 16;
      x += B;
    }
    fold<P, R, scaled, biased>(tile, t, group, sums);
    sums += B;
    if (++in_group == tile.units_per_group) {
      in_group = 0;
      ++group;
    }
  }
}

template <int P, int R, int B, bool small>
__attribute__((noinline)) void block_int8(const Tile& tile) {
  const uint32_t* w = (const uint32_t*)tile.w;
  const char* x = (const char*)tile.x;
  const float *sums = tile.sums, *scales = tile.scales;
  int64_t in_group = 0, group = 0;
  for (int64_t u = 0; u < tile.units; ++u) {
    I t[P][R];
    MLX_PANELS(p) MLX_ROWS(r) t[p][r] = zero_i();
    for (int64_t c = 0; c < tile.unit; c += 16) {
      _Pragma("GCC unroll 4") for (int d = 0; d < 4; ++d) {
        I q[P];
        MLX_PANELS(p) q[p] = load_i(w + p * tile.stride + 16 * d);
        MLX_ROWS(r) {
          I v = broadcast4(x + 4 * (d * B + r));
          MLX_PANELS(p) t[p][r] = dot4<small>(t[p][r], q[p], v);
        }
      }
      w += 16 * 4;
      x += 4 * 4 * B;
    }
    F v[P][R];
    MLX_ROWS(r) {
      F row_scale = set1(scales[r]);
      MLX_PANELS(p) v[p][r] = to_float(t[p][r]) * row_scale;
    }
    fold<P, R, true, true>(tile, v, group, sums);
    sums += B;
    scales += B;
    if (++in_group == tile.units_per_group) {
      in_group = 0;
      ++group;
    }
  }
}

template <int P, int R, int B>
__attribute__((noinline)) void block_bf16(const Tile& tile) {
  const uint32_t* w = (const uint32_t*)tile.w;
  const char* x = (const char*)tile.x;
  for (int64_t u = 0; u < tile.units; ++u) {
    F t[P][R];
    MLX_PANELS(p) MLX_ROWS(r) t[p][r] = zero();
    _Pragma("GCC unroll 2") for (int d = 0; d < 32; ++d) {
      I q[P];
      MLX_PANELS(p) q[p] = load_i(w + p * tile.stride);
      MLX_ROWS(r) {
        I v = broadcast4(x + 4 * r);
        MLX_PANELS(p) t[p][r] = dot2_bf16(t[p][r], q[p], v);
      }
      w += 16;
      x += 4 * B;
    }
    fold<P, R, false, false>(tile, t, 0, nullptr);
  }
}

}  // namespace mlx_lm::MLX_LM_ISA
