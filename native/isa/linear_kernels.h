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

// Units at once when a few rows meet codes of up to 4 bits: enough independent sums to hide the latency of a
// multiply-add (4 cycles). Wider weights are bound by memory, and one stream per panel, in order, is what the
// hardware prefetchers follow best (8-bit and dense weights: 32 GB/s on one core against 12 with four units).
template <class Fmt, int R>
constexpr int few_units = Fmt::words * 32 > Fmt::codes * 4
    ? 1
    : (native_lanes == 16 ? (R == 1 ? 4 : (R <= 3 ? 2 : 1)) : (native_lanes == 8 && R == 1 ? 2 : 1));

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
  const float* outliers;
  const int32_t* places;
  float* acc;            // [row][P][16]
  int64_t units;
  int64_t unit;
  int group_shift;       // unit u belongs to group u >> group_shift
  Ahead* ahead;          // few_* only
  int64_t far;           // few_* only: dwords from the words in use to those to fetch
};

// Fetches lines of packed words that are far ahead into the second-level cache. The hardware prefetchers keep fewer lines
// in flight than the memory could answer while other cores use it too (LOG.md: a fifth to a third more GB/s; a distance of
// 4 to 10 KB is best, the first-level cache has too few places for it).
template <int lines>
MLX_INLINE void fetch_far(const uint32_t* w, int64_t far) {
  _Pragma("GCC unroll 32") for (int i = 0; i < lines; ++i) __builtin_prefetch(w + far + 16 * i, 0, 2);
}

MLX_INLINE I broadcast4(const void* p) {
  int32_t v;
  std::memcpy(&v, p, 4);
  return set1_i(v);
}

#define MLX_PANELS(p) _Pragma("GCC unroll 4") for (int p = 0; p < P; ++p)
#define MLX_UNITS(i) _Pragma("GCC unroll 4") for (int i = 0; i < U; ++i)
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

// The same for int8 sums, where t is float(t) * row scale, plus outlier * its code; `slot` is the unit's first row in
// sums, scales, outliers and places, and code(p, place) reads codes of the unit.
template <int P, int R, class Code>
MLX_INLINE void fold_int8(const Tile& tile, const I t[P][R], int64_t group, int64_t slot, Code&& code) {
  F scale[P], bias[P];
  MLX_PANELS(p) {
    scale[p] = load(tile.s + p * tile.group_stride + 16 * group);
    bias[p] = load(tile.b + p * tile.group_stride + 16 * group);
  }
  MLX_ROWS(r) {
    F row_scale = set1(tile.scales[slot + r]), row_sum = set1(tile.sums[slot + r]);
    F sum[P];
    MLX_PANELS(p) sum[p] = to_float(t[p][r]) * row_scale;
    if (__builtin_expect(tile.places[slot + r] >= 0, 0)) {
      F outlier = set1(tile.outliers[slot + r]);
      MLX_PANELS(p) sum[p] = fma(to_float(code(p, tile.places[slot + r])), outlier, sum[p]);
    }
    MLX_PANELS(p) {
      float* acc = tile.acc + 16 * (r * P + p);
      store(acc, fma(row_sum, bias[p], fma(sum[p], scale[p], load(acc))));
    }
  }
}

// Keeps a pointer in one register; the compiler would otherwise precompute an offset per access and spill them all.
template <class T>
MLX_INLINE T* pin(T* p) {
  asm("" : "+r"(p));
  return p;
}

// U units at once from unit u on: their sums are independent, so U * R multiply-adds overlap, and the words of the
// panel are still read in order, which the hardware prefetchers follow (two panels side by side ran at half the
// bandwidth).
template <class Fmt, int R, int U>
MLX_INLINE void few_exact_units(const Tile& tile, int64_t u) {
  const int64_t unit = tile.unit, unit_words = unit / Fmt::codes * Fmt::words * 16;
  const uint32_t* w[U];
  const float* x[U];
  // units side by side are separate streams to the hardware prefetchers: read the next ones ahead, in memory order
  const uint32_t* next = (const uint32_t*)tile.w + (u + U) * unit_words;
  F t[U][1][R];
  I word[U];
  MLX_UNITS(i) {
    w[i] = (const uint32_t*)tile.w + (u + i) * unit_words;
    x[i] = (const float*)tile.x + (u + i) * unit * R;
    MLX_ROWS(r) t[i][0][r] = zero();
  }
  for (int64_t c = 0; c < unit; c += Fmt::codes) {
    if (tile.ahead != nullptr) {
      tile.ahead->fetch();
    }
    if constexpr (U > 1) {
      _Pragma("GCC unroll 32") for (int i = 0; i < U * Fmt::words; ++i) __builtin_prefetch(next + 16 * i);
    }
    fetch_far<U * Fmt::words>(next, tile.far);
    next = pin(next + 16 * U * Fmt::words);
    _Pragma("GCC unroll 32") for (int j = 0; j < Fmt::codes; ++j) {
      MLX_UNITS(i) {
        F q = Fmt::value(word[i], w[i], j);
        MLX_ROWS(r) t[i][0][r] = fma(q, set1(x[i][j * R + r]), t[i][0][r]);
      }
    }
    MLX_UNITS(i) {
      w[i] = pin(w[i] + 16 * Fmt::words);
      x[i] = pin(x[i] + Fmt::codes * R);
    }
  }
  MLX_UNITS(i) {
    fold<1, R, Fmt::scaled, Fmt::biased>(tile, t[i], (u + i) >> tile.group_shift, tile.sums + (u + i) * R);
  }
}

template <class Fmt, int R>
__attribute__((noinline)) void few_exact(const Tile& tile) {
  constexpr int U = few_units<Fmt, R>;
  int64_t u = 0;
  for (; u + U <= tile.units; u += U) few_exact_units<Fmt, R, U>(tile, u);
  if constexpr (U > 1) {
    for (; u < tile.units; ++u) few_exact_units<Fmt, R, 1>(tile, u);
  }
}

// As few_exact with int8 activations: x is [dword][R] of four int8.
template <class Fmt, int R>
MLX_INLINE void few_int8_unit(const Tile& tile, int64_t u) {
  const int64_t unit = tile.unit;
  const uint32_t* start = (const uint32_t*)tile.w + u * (unit / 32 * Fmt::words * 16);
  const uint32_t* w = start;
  const char* x = (const char*)tile.x + u * unit * R;
  I t[1][R];
  I word;
  MLX_ROWS(r) t[0][r] = zero_i();
  for (int64_t c = 0; c < unit; c += 32) {
    if (tile.ahead != nullptr) {
      tile.ahead->fetch();
    }
    fetch_far<Fmt::words>(w, tile.far);
    _Pragma("GCC unroll 8") for (int d = 0; d < 8; ++d) {
      I q = Fmt::bytes(word, w, d);
      MLX_ROWS(r) t[0][r] = dot4<(Fmt::bits < 8)>(t[0][r], q, broadcast4(x + 4 * (d * R + r)));
    }
    w += 16 * Fmt::words;
    x += 32 * R;
  }
  fold_int8<1, R>(tile, t, u >> tile.group_shift, u * R, [start](int, int place) { return Fmt::code(start, place); });
}

template <class Fmt, int R>
__attribute__((noinline)) void few_int8(const Tile& tile) {
  for (int64_t u = 0; u < tile.units; ++u) {
    few_int8_unit<Fmt, R>(tile, u);
  }
}

// bf16 weights and activations in pairs: x is [pair][R] of two bf16.
template <int R>
MLX_INLINE void few_bf16_unit(const Tile& tile, int64_t u) {
  const uint32_t* w = (const uint32_t*)tile.w + u * 32 * 16;
  const char* x = (const char*)tile.x + u * 4 * 32 * R;
  F t[1][R];
  MLX_ROWS(r) t[0][r] = zero();
  for (int c = 0; c < 32; c += 16) {
    if (tile.ahead != nullptr) {
      tile.ahead->fetch();
    }
    fetch_far<16>(w + 16 * c, tile.far);
    _Pragma("GCC unroll 4") for (int d = c; d < c + 16; ++d) {
      I q = load_i(w + 16 * d);
      MLX_ROWS(r) t[0][r] = dot2_bf16(t[0][r], q, broadcast4(x + 4 * (d * R + r)));
    }
  }
  fold<1, R, false, false>(tile, t, 0, nullptr);
}

template <int R>
__attribute__((noinline)) void few_bf16(const Tile& tile) {
  for (int64_t u = 0; u < tile.units; ++u) few_bf16_unit<R>(tile, u);
}

// ---------------------------------------------------------------- unpacked words

// [input][16] floats of one panel.
template <class Fmt>
__attribute__((noinline)) void unpack_floats(const uint32_t* w, int64_t inputs, float* to) {
  for (int64_t c = 0; c < inputs; c += Fmt::codes) {
    I word;
    _Pragma("GCC unroll 32") for (int j = 0; j < Fmt::codes; ++j) store(to + 16 * j, Fmt::value(word, w, j));
    w += 16 * Fmt::words;
    to += 16 * Fmt::codes;
  }
}

// [dword][16] of four codes each.
template <class Fmt>
__attribute__((noinline)) void unpack_bytes(const uint32_t* w, int64_t inputs, uint32_t* to) {
  for (int64_t c = 0; c < inputs; c += 32) {
    I word;
    _Pragma("GCC unroll 8") for (int d = 0; d < 8; ++d) store_i(to + 16 * d, Fmt::bytes(word, w, d));
    w += 16 * Fmt::words;
    to += 16 * 8;
  }
}

template <int P, int R, int B, bool scaled, bool biased>
__attribute__((noinline)) void block_exact(const Tile& tile) {
  const float *w = (const float*)tile.w, *x = (const float*)tile.x, *sums = tile.sums;
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
    fold<P, R, scaled, biased>(tile, t, u >> tile.group_shift, sums);
    sums += B;
  }
}

template <int P, int R, int B, bool small>
__attribute__((noinline)) void block_int8(const Tile& tile, int bits) {
  const uint32_t* w = (const uint32_t*)tile.w;
  const char* x = (const char*)tile.x;
  for (int64_t u = 0; u < tile.units; ++u) {
    const uint32_t* start = w;
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
    fold_int8<P, R>(tile, t, u >> tile.group_shift, u * B, [&](int p, int place) {
      const int at = byte_place(bits, place);
      return shr(load_i(start + p * tile.stride + 16 * (at / 4)), 8 * (at % 4)) & set1_i(255);
    });
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
