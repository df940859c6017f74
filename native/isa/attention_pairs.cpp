// Scores and weighted sums of bf16 keys and values in pairs: two products and two sums in one instruction.
#include "attention.h"

#if defined(MLX_LM_ISA_avx512bf16)
#include "attention_tiles.h"
#endif

namespace mlx_lm::MLX_LM_ISA {

#if defined(MLX_LM_ISA_avx512bf16)
namespace {

MLX_INLINE I as_words(__m512i v) {
  I w;
  w.v[0] = (ni)v;
  return w;
}

// Blocks of up to max_rows rows, [pair][row] inside a block.
void pack_rows(const float* q, int64_t rows, int64_t dim, float* to) {
  for (int64_t first = 0; first < rows; first += max_rows) {
    int64_t n = rows - first < max_rows ? rows - first : max_rows;
    char* block = (char*)(to + first * dim);
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t d = 0; d < dim; d += 16) {
        uint16_t half[16];
        int64_t left = dim - d < 16 ? dim - d : 16;
        store_bf16(half, left == 16 ? load(q + (first + r) * dim + d)
                                    : load_any_first(q + (first + r) * dim, Float::f32, d, (int)left));
        for (int64_t i = 0; i < left / 2; ++i) std::memcpy(block + 4 * ((d / 2 + i) * n + r), half + 2 * i, 4);
      }
    }
  }
}

MLX_INLINE I pair_at(const float* q, int64_t i) {
  int32_t w;
  std::memcpy(&w, q + i, 4);
  return set1_i(w);
}

template <int R>
__attribute__((noinline)) void score_tile(const uint32_t* keys, const float* q, int64_t dim, float* to, int64_t ld) {
  constexpr int V = key_vectors;
  F a[R][V];
  _Pragma("GCC unroll 12") for (int r = 0; r < R; ++r)
  _Pragma("GCC unroll 2") for (int v = 0; v < V; ++v) a[r][v] = zero();
  for (int64_t d = 0; d < dim / 2; ++d) {
    I k[V];
    _Pragma("GCC unroll 2") for (int v = 0; v < V; ++v) k[v] = load_i(keys + v * dim * 8 + 16 * d);
    _Pragma("GCC unroll 12") for (int r = 0; r < R; ++r) {
      I x = pair_at(q, d * R + r);
      _Pragma("GCC unroll 2") for (int v = 0; v < V; ++v) a[r][v] = dot2_bf16(a[r][v], k[v], x);
    }
  }
  _Pragma("GCC unroll 12") for (int r = 0; r < R; ++r)
  _Pragma("GCC unroll 2") for (int v = 0; v < V; ++v) store(to + r * ld + 16 * v, a[r][v]);
}

// The rows of a decode step against 32 keys, transposed in registers; the next keys are fetched line by line, because
// reading 16 bytes of every token is no stream that the hardware would follow. Same order of sums as score_tile.
template <int R>
__attribute__((noinline)) void score_direct(const char* from, int64_t token_bytes, const float* q, int64_t dim,
                                            float* to, int64_t ld) {
  constexpr int V = 2;
  F a[R][V];
  _Pragma("GCC unroll 8") for (int r = 0; r < R; ++r)
  _Pragma("GCC unroll 2") for (int v = 0; v < V; ++v) a[r][v] = zero();
  const char* next = from + 16 * V * token_bytes;
  for (int64_t d = 0; d < dim; d += 8) {
    __m512i words[V][4];
    _Pragma("GCC unroll 8") for (int i = 0; i < 4 * V; ++i) __builtin_prefetch(next + 64 * i);
    next += 64 * 4 * V;
    _Pragma("GCC unroll 2") for (int v = 0; v < V; ++v) {
      transpose_quad(from + 16 * v * token_bytes + d * 2, token_bytes, words[v]);
    }
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; ++i)
    _Pragma("GCC unroll 8") for (int r = 0; r < R; ++r) {
      I x = pair_at(q, i * R + r);
      _Pragma("GCC unroll 2") for (int v = 0; v < V; ++v) a[r][v] = dot2_bf16(a[r][v], as_words(words[v][i]), x);
    }
    q += 4 * R;
  }
  _Pragma("GCC unroll 8") for (int r = 0; r < R; ++r)
  _Pragma("GCC unroll 2") for (int v = 0; v < V; ++v) store(to + r * ld + 16 * v, a[r][v]);
}

void scores(const TokenRows& keys, const float* q, int64_t rows, int64_t dim, int64_t begin, int64_t end, float* to,
            int64_t ld, char* scratch) {
  constexpr int direct_rows = 8;
  if (rows <= direct_rows) {
    with_rows<direct_rows>((int)rows, [&](auto r) {
      for (; begin + 32 <= end; begin += 32) {
        score_direct<decltype(r)::value>(keys.data + begin * keys.token_bytes, keys.token_bytes, q, dim, to + begin, ld);
      }
    });
  }
  uint32_t* tile = (uint32_t*)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
  for (int64_t k = begin; k < end; k += key_tile) {
    for (int v = 0; v < key_vectors; ++v) {
      int64_t at = k + 16 * v, count = end - at < 16 ? end - at : 16;
      if (count > 0) {
        transpose_tokens(keys.data + at * keys.token_bytes, keys.token_bytes, count, dim * 2, tile + v * dim * 8);
      } else {
        std::memset(tile + v * dim * 8, 0, (size_t)dim * 32);
      }
    }
    for (int64_t first = 0; first < rows; first += max_rows) {
      with_rows<max_rows>((int)(rows - first < max_rows ? rows - first : max_rows), [&](auto r) {
        score_tile<decltype(r)::value>(tile, q + first * dim, dim, to + first * ld + k, ld);
      });
    }
  }
}

// 32 columns of a sum as the interleaved pairs have them: 0-3, 8-11, ... and 4-7, 12-15, ...
MLX_INLINE void load_sums(const float* from, F* a) {
  __m512 low = _mm512_loadu_ps(from), high = _mm512_loadu_ps(from + 16);
  a[0].v[0] = (nf)_mm512_shuffle_f32x4(low, high, 0b10001000);
  a[1].v[0] = (nf)_mm512_shuffle_f32x4(low, high, 0b11011101);
}
MLX_INLINE void store_sums(const F* a, float* to) {
  __m512 even = (__m512)a[0].v[0], odd = (__m512)a[1].v[0];
  __m512 low = _mm512_shuffle_f32x4(even, odd, 0b01000100), high = _mm512_shuffle_f32x4(even, odd, 0b11101110);
  _mm512_storeu_ps(to, _mm512_shuffle_f32x4(low, low, 0b11011000));
  _mm512_storeu_ps(to + 16, _mm512_shuffle_f32x4(high, high, 0b11011000));
}

// Pairs of tokens 2i and 2i + 1 of 32 C columns; a pair of which one token is not summed has zeros in its place.
template <int R, int C>
MLX_INLINE void add_pair(const char* even, const char* odd, const uint32_t* p, int64_t ld, uint32_t mask, F a[R][2 * C]) {
  I lo[C], hi[C];
  _Pragma("GCC unroll 2") for (int c = 0; c < C; ++c) {
    __m512i x = even == nullptr ? _mm512_setzero_si512() : _mm512_loadu_si512(even + 64 * c);
    __m512i y = odd == nullptr ? _mm512_setzero_si512() : _mm512_loadu_si512(odd + 64 * c);
    lo[c] = as_words(_mm512_unpacklo_epi16(x, y));
    hi[c] = as_words(_mm512_unpackhi_epi16(x, y));
  }
  _Pragma("GCC unroll 12") for (int r = 0; r < R; ++r) {
    I w = set1_i((int32_t)(p[r * ld] & mask));
    _Pragma("GCC unroll 2") for (int c = 0; c < C; ++c) {
      a[r][2 * c] = dot2_bf16(a[r][2 * c], lo[c], w);
      a[r][2 * c + 1] = dot2_bf16(a[r][2 * c + 1], hi[c], w);
    }
  }
}

constexpr int64_t fetched_tokens = 32;  // that many are read ahead: the hardware stops at every page

// out[r][0..32C) += sum over keys [k0, k1) of p[r] * v; p holds pairs of bf16, the first that of keys `base`, an even one.
template <int R, int C>
__attribute__((noinline)) void sum_tile(const char* v, int64_t token_bytes, int64_t base, int64_t k0, int64_t k1,
                                        const uint32_t* p, int64_t ld, float* out, int64_t ldo) {
  F a[R][2 * C];
  _Pragma("GCC unroll 12") for (int r = 0; r < R; ++r)
  _Pragma("GCC unroll 2") for (int c = 0; c < C; ++c) load_sums(out + r * ldo + 32 * c, a[r] + 2 * c);
  int64_t k = k0;
  v += k0 * token_bytes;
  p += (k0 - base) / 2;
  if (k % 2 != 0) {
    add_pair<R, C>(nullptr, v, p, ld, 0xffff0000u, a);
    ++k;
    ++p;
    v += token_bytes;
  }
  const int64_t ahead = fetched_tokens * token_bytes;
  for (; k + 2 <= k1; k += 2) {
    if constexpr (C > 1 || R <= 6) {  // few rows: bound by memory
      _Pragma("GCC unroll 4") for (int c = 0; c < C; ++c) {
        __builtin_prefetch(v + ahead + 64 * c);
        __builtin_prefetch(v + ahead + token_bytes + 64 * c);
      }
    }
    add_pair<R, C>(v, v + token_bytes, p, ld, 0xffffffffu, a);
    ++p;
    v += 2 * token_bytes;
  }
  if (k < k1) {
    add_pair<R, C>(v, nullptr, p, ld, 0xffffu, a);
  }
  _Pragma("GCC unroll 12") for (int r = 0; r < R; ++r)
  _Pragma("GCC unroll 2") for (int c = 0; c < C; ++c) store_sums(a[r] + 2 * c, out + r * ldo + 32 * c);
}

constexpr int64_t pair_chunk = 512;

void values(const TokenRows& values, const float* p, int64_t ld, const Visible* visible, int64_t rows, int64_t begin,
            int64_t end, float* out, int64_t ldo, char*) {
  alignas(64) uint32_t pairs[max_rows][pair_chunk / 2 + 16];
  constexpr int64_t line = pair_chunk / 2 + 16;
  each_part(visible, rows, pair_chunk, [&](int64_t row, int n, int64_t k0, int64_t k1, const int64_t* first,
                                           const int64_t* last) {
    const int64_t base = k0 / 2 * 2;
    for (int r = 0; r < n; ++r) {
      const float* from = p + (row + r) * ld;
      for (int64_t k = base; k < k1; k += 16) store_bf16((uint16_t*)pairs[r] + (k - base), load(from + k));
    }
    sum_block<2>(k0, k1, first, last, n, [&](int64_t from, int64_t to, int r, int count) {
      int64_t c = begin;
      float* sums = out + (row + r) * ldo;
      auto columns = [&](auto r_, auto c_) {
        constexpr int C = decltype(c_)::value;
        for (; c + 32 * C <= end; c += 32 * C) {
          sum_tile<decltype(r_)::value, C>(values.data + 2 * c, values.token_bytes, base, from, to, pairs[r], line,
                                           sums + c, ldo);
        }
      };
      if (count <= 6) {
        with_rows<6>(count, [&](auto r_) { columns(r_, Rows_<2>{}); });
      }
      with_rows<max_rows>(count, [&](auto r_) { columns(r_, Rows_<1>{}); });
    });
  });
}

}  // namespace

extern const AttentionPairs attention_pairs_table = {true, pack_rows, scores, values};
#else
extern const AttentionPairs attention_pairs_table = {false, nullptr, nullptr, nullptr};
#endif

}  // namespace mlx_lm::MLX_LM_ISA
