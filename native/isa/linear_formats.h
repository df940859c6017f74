// How each weight format turns a chunk of packed words, 16 output rows side by side, into floats or bytes.
//
// A chunk is `codes` consecutive inputs of 16 rows: `words` vectors, word i of every row in vector i. MLX packs codes
// as one little-endian bit stream per row, so 32 codes of b bits are b whole words and every width unpacks lane-wise
// with constant shifts.
#pragma once

#include "linear.h"
#include "simd.h"

namespace mlx_lm::MLX_LM_ISA {

// Keeps a loaded vector in its register: the compiler would rather read memory again for every use, and loads are
// what a few rows run out of first.
MLX_INLINE I keep(I v) {
#if defined(MLX_LM_ISA_avx512)
  asm("" : "+v"(v.v[0]));
#endif
  return v;
}

template <int B>
struct Affine {
  static constexpr int bits = B;
  static constexpr int codes = 32;
  static constexpr int words = B;
  static constexpr bool scaled = true;
  static constexpr bool biased = true;

  // Code j times 2^offset: a code inside its word is masked in place, and its input is scaled by 2^-offset when the
  // row is prepared (`input_scale`). Both are exact, and it saves a shift per 16 codes.
  static MLX_INLINE F value(I& word, const uint32_t* w, int j) {
    I v = field(word, w, j * B, B);
    int offset = (j * B) % 32;
    if (offset + B < 32) {
      return to_float(v & set1_i(((1 << B) - 1) << offset));
    }
    v = shr(v, offset + B == 32 ? offset : 0);
    return to_float(offset + B == 32 ? v : v & set1_i((1 << B) - 1));
  }
  // Four codes as bytes; which four is `byte_order`.
  static MLX_INLINE I bytes(I& word, const uint32_t* w, int d) {
    if constexpr (B == 8) {
      return load_i(w + 16 * d);
    } else if constexpr (B == 4) {
      if (d % 2 == 0) {
        word = keep(load_i(w + 16 * (d / 2)));
      }
      return (d % 2 == 0 ? word : shr(word, 4)) & set1_i(0x0f0f0f0f);
    } else if constexpr (B == 2) {
      if (d % 4 == 0) {
        word = keep(load_i(w + 16 * (d / 4)));
      }
      return (d % 4 == 0 ? word : shr(word, 2 * (d % 4))) & set1_i(0x03030303);
    } else {
      I v = field(word, w, d * 4 * B, 4 * B);
      v = (d * 4 * B) % 32 + 4 * B > 32 ? v : shr(v, (d * 4 * B) % 32);
      constexpr int mask = (1 << B) - 1;
      return (v & set1_i(mask)) | (shl(v, 8 - B) & set1_i(mask << 8)) | (shl(v, 16 - 2 * B) & set1_i(mask << 16)) |
          (shl(v, 24 - 3 * B) & set1_i(mask << 24));
    }
  }
  // Code j of the unit that begins at w.
  static MLX_INLINE I code(const uint32_t* w, int j) {
    const int i = j * B / 32, s = j * B % 32;
    I v = shr(load_i(w + 16 * i), s);
    if (32 % B != 0 && s + B > 32) {
      v = v | shl(load_i(w + 16 * (i + 1)), 32 - s);
    }
    return v & set1_i((1 << B) - 1);
  }

 private:
  // The word that holds bits [offset, offset + width), read once per word: `word` carries it from call to call.
  // Bits that span two words are returned shifted down to bit 0, others in place; neither is masked.
  static MLX_INLINE I field(I& word, const uint32_t* w, int offset, int width) {
    int i = offset / 32, s = offset % 32;
    if (s == 0) {
      word = keep(load_i(w + 16 * i));
    }
    if (s + width <= 32) {
      return word;
    }
    I low = shr(word, s);
    word = keep(load_i(w + 16 * (i + 1)));
    return low | shl(word, 32 - s);
  }
};

// 2^-offset of the 32 codes of a chunk, see Affine::value.
struct InputScale {
  alignas(64) float of[32];
  constexpr explicit InputScale(int bits) : of() {
    for (int j = 0; j < 32; ++j) {
      int offset = (j * bits) % 32;
      of[j] = 1.0f;
      for (int i = 0; offset + bits < 32 && i < offset; ++i) of[j] *= 0.5f;
    }
  }
};
inline const float* input_scale(int bits) {
  static constexpr InputScale scales[9] = {InputScale(1), InputScale(1), InputScale(2), InputScale(3), InputScale(4),
                                           InputScale(5), InputScale(6), InputScale(7), InputScale(8)};
  return scales[bits].of;
}

// Index within its chunk of 32 of the code that byte `byte` of dword `d` holds.
inline int byte_order(int bits, int d, int byte) {
  if (bits == 4) {
    return 8 * (d / 2) + 2 * byte + d % 2;
  }
  if (bits == 2) {
    return 16 * (d / 4) + 4 * byte + d % 4;
  }
  return 4 * d + byte;
}

// Where `byte_order` puts code j of a unit: 4 * dword + byte.
inline int byte_place(int bits, int j) {
  if (bits == 4) {
    return j / 8 * 8 + j % 2 * 4 + j % 8 / 2;
  }
  if (bits == 2) {
    return j / 16 * 16 + j % 4 * 4 + j % 16 / 4;
  }
  return j;
}

struct Fp4 {  // e2m1; mxfp4 and nvfp4 differ only in group and scale
  static constexpr int codes = 16;
  static constexpr int words = 2;
  static constexpr bool scaled = true;
  static constexpr bool biased = false;
  static MLX_INLINE F value(I& word, const uint32_t* w, int j) {
    alignas(64) static constexpr float table[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                                    -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
    if (j % 8 == 0) {
      word = keep(load_i(w + 16 * (j / 8)));
    }
    return lookup16(table, shr(word, 4 * (j % 8)));
  }
};

struct Fp8 {  // e4m3
  static constexpr int codes = 16;
  static constexpr int words = 4;
  static constexpr bool scaled = true;
  static constexpr bool biased = false;
  static MLX_INLINE F value(I& word, const uint32_t* w, int j) {
    if (j % 4 == 0) {
      word = keep(load_i(w + 16 * (j / 4)));
    }
    I v = shr(word, 8 * (j % 4));
    F magnitude = as_float(shl(v & set1_i(0x7f), 20)) * set1(0x1p120f);
    return as_float(as_int(magnitude) | shl(v & set1_i(0x80), 24));
  }
};

struct DenseF32 {
  static constexpr int codes = 16;
  static constexpr int words = 16;
  static constexpr bool scaled = false;
  static constexpr bool biased = false;
  static MLX_INLINE F value(I&, const uint32_t* w, int j) { return as_float(load_i(w + 16 * j)); }
};

struct DenseBf16 {
  static constexpr int codes = 16;
  static constexpr int words = 8;
  static constexpr bool scaled = false;
  static constexpr bool biased = false;
  static MLX_INLINE F value(I& word, const uint32_t* w, int j) {
    if (j % 2 == 0) {
      word = keep(load_i(w + 16 * (j / 2)));
    }
    return as_float(j % 2 == 0 ? shl(word, 16) : word & set1_i((int32_t)0xffff0000));
  }
};

struct DenseF16 {
  static constexpr int codes = 16;
  static constexpr int words = 8;
  static constexpr bool scaled = false;
  static constexpr bool biased = false;
  static MLX_INLINE F value(I& word, const uint32_t* w, int j) {
    if (j % 2 == 0) {
      word = keep(load_i(w + 16 * (j / 2)));
    }
    I v = j % 2 == 0 ? word : shr(word, 16);
#if defined(MLX_LM_ISA_avx512)
    F r;
    r.v[0] = (nf)_mm512_cvtph_ps(_mm512_cvtepi32_epi16((__m512i)v.v[0]));
    return r;
#else
    // exponent and mantissa moved into place and rescaled; 31 is infinity or NaN
    I magnitude = v & set1_i(0x7fff);
    F f = as_float(shl(magnitude, 13)) * set1(0x1p112f);
    I bits = as_int(f);
    MLX_EACH(i) bits.v[i] |= (magnitude.v[i] >= 0x7c00) & 0x7f800000;
    return as_float(bits | shl(v & set1_i(0x8000), 16));
#endif
  }
};

// Calls body(Format{}) for the matrix's format.
template <class Body>
MLX_INLINE void with_format(const Matrix& m, Body&& body) {
  switch (m.format) {
    case Format::mxfp4:
    case Format::nvfp4:
      return body(Fp4{});
    case Format::mxfp8:
      return body(Fp8{});
    case Format::dense:
      switch (m.type) {
        case Float::bf16:
          return body(DenseBf16{});
        case Float::f16:
          return body(DenseF16{});
        default:
          return body(DenseF32{});
      }
    default:
      break;
  }
  switch (m.bits) {
    case 2:
      return body(Affine<2>{});
    case 3:
      return body(Affine<3>{});
    case 5:
      return body(Affine<5>{});
    case 6:
      return body(Affine<6>{});
    case 8:
      return body(Affine<8>{});
    default:
      return body(Affine<4>{});
  }
}

inline int bits_per_code(const Matrix& m) {
  return m.format == Format::dense ? (m.type == Float::f32 ? 32 : 16) : m.bits;
}

// ---------------------------------------------------------------- panels

// Columns [first, first + count) of 16 (or fewer) rows of dwords as `count` vectors; missing rows are 0.
inline void transpose_dwords(const char* from, int64_t row_bytes, int64_t rows, int64_t first_byte, int64_t bytes,
                             uint32_t* to) {
  for (int64_t at = 0; at < bytes; at += 64) {
    int64_t n = bytes - at < 64 ? bytes - at : 64;
    I in[16], out[16];
    for (int i = 0; i < 16; ++i) {
      const char* p = from + i * row_bytes + first_byte + at;
      if (i >= rows) {
        in[i] = zero_i();
      } else if (n == 64) {
        // short rows are no streams that the hardware would follow: fetch the next panel, in memory order
        if (row_bytes <= 2048) {
          __builtin_prefetch(from + 16 * row_bytes + 16 * (first_byte + at) + 64 * i);
        }
        in[i] = load_i(p);
      } else {
#if defined(MLX_LM_ISA_avx512)
        in[i].v[0] = (ni)_mm512_maskz_loadu_epi8(((__mmask64)1 << n) - 1, p);
#else
        alignas(64) char t[64] = {};
        std::memcpy(t, p, (size_t)n);
        in[i] = load_i(t);
#endif
      }
    }
    transpose16(in, out);
    int64_t vectors = (n + 3) / 4;
    if (vectors == 16) {
      for (int i = 0; i < 16; ++i) store_i(to + 4 * at + 16 * i, out[i]);
    } else {
      for (int i = 0; i < vectors; ++i) store_i(to + 4 * at + 16 * i, out[i]);
    }
  }
}

// The words of one panel for inputs [k0, k0 + kn), kn already padded: direct when interleaved, else into scratch.
inline const uint32_t* panel_words(const Matrix& m, int64_t panel, int64_t k0, int64_t kn, uint32_t* scratch) {
  int64_t bits = bits_per_code(m), row_bytes = m.k * bits / 8;
  const char* w = (const char*)m.w + panel * 16 * row_bytes;
  if (m.interleaved) {
    return (const uint32_t*)(w + 16 * (k0 * bits / 8));
  }
  int64_t rows = m.n - panel * 16 < 16 ? m.n - panel * 16 : 16;
  int64_t real = (m.k - k0 < kn ? m.k - k0 : kn) * bits / 8;
  transpose_dwords(w, row_bytes, rows, k0 * bits / 8, real, scratch);
  int64_t filled = (real + 3) / 4, wanted = kn * bits / 32;
  if (filled < wanted) {
    std::memset(scratch + 16 * filled, 0, 64 * (size_t)(wanted - filled));
  }
  return scratch;
}

inline F e8m0(I v) {  // 2^(v - 127); 0 encodes 2^-127, which is subnormal
  F r = as_float(shl(v, 23));
  MLX_EACH(i) r.v[i] = v.v[i] == 0 ? (nf{} + 0x1p-127f) : r.v[i];
  return r;
}

// Groups in `inputs` of a quantized matrix, without a division: the size of a group is a power of two.
inline int64_t groups_in(const Matrix& m, int64_t inputs) {
  return inputs >> __builtin_ctzll((uint64_t)m.group);
}

// Scales or biases of one panel for groups [g0, g0 + gn), as floats [group][16].
inline void panel_scales(const Matrix& m, const void* source, int64_t panel, int64_t g0, int64_t gn, float* to) {
  int64_t groups = groups_in(m, m.k);
  int64_t rows = m.n - panel * 16 < 16 ? m.n - panel * 16 : 16;
  if (m.format != Format::affine) {
    const uint8_t* s = (const uint8_t*)source + panel * 16 * groups;
    for (int64_t g = 0; g < gn; ++g) {
      alignas(64) int32_t t[16] = {};
      for (int i = 0; i < rows; ++i) t[i] = m.interleaved ? s[(g0 + g) * 16 + i] : s[i * groups + g0 + g];
      I v = load_i(t);
      F r = m.format == Format::nvfp4 ? as_float(shl(v & set1_i(0x7f), 20)) * set1(0x1p120f) : e8m0(v);
      store(to + 16 * g, r);
    }
    return;
  }
  int64_t item = float_bytes(m.type);
  const char* s = (const char*)source + panel * 16 * groups * item;
  if (m.interleaved) {
    if (m.type == Float::bf16) {  // the usual one, without asking for each
      for (int64_t g = 0; g < gn; ++g) store(to + 16 * g, load_any(s, Float::bf16, (g0 + g) * 16));
      return;
    }
    for (int64_t g = 0; g < gn; ++g) store(to + 16 * g, load_any(s, m.type, (g0 + g) * 16));
    return;
  }
  if (m.type == Float::f32) {
    transpose_dwords(s, groups * 4, rows, g0 * 4, gn * 4, (uint32_t*)to);
    return;
  }
  constexpr int64_t step = 32;
  for (int64_t g = 0; g < gn; g += step) {
    alignas(64) uint32_t t[16 * 16];
    int64_t n = gn - g < step ? gn - g : step;
    transpose_dwords(s, groups * 2, rows, (g0 + g) * 2, n * 2, t);
    I word;
    for (int64_t j = 0; j < n; ++j) {
      F v = m.type == Float::bf16 ? DenseBf16::value(word, t, (int)j) : DenseF16::value(word, t, (int)j);
      store(to + 16 * (g + j), v);
    }
  }
}

}  // namespace mlx_lm::MLX_LM_ISA
