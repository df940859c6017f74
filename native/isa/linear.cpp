// Drivers of the matrix product kernels: walking panels and blocks of inputs, writing y, repacking.
#include "linear.h"

#include "linear_formats.h"
#include "linear_kernels.h"
#include "linear_prepare.h"

namespace mlx_lm::MLX_LM_ISA {
namespace {

constexpr int few_inputs = 1024;    // inputs per pass of a few rows, at most
constexpr int few_words = 4096;     // dwords of scratch for a panel of plain layout: 16 KB of L1
constexpr int few_groups = few_inputs / 16;
constexpr int64_t far_words = 2048;  // 8 KB
constexpr int float_inputs = 128;   // inputs per unpacked tile: 16 KB of floats for two panels
constexpr int byte_inputs = 512;    // 16 KB of bytes for two panels
constexpr int pass_rows = 120;      // rows per pass over the panels: their inputs stay in L2 or L3

// ---------------------------------------------------------------- writing y

void write(const float* acc, int64_t row_stride, int64_t count, int64_t columns, void* y, Float type, int64_t ldy,
           int64_t row, int64_t column) {
  for (int64_t i = 0; i < count; ++i) {
    F v = load(acc + i * row_stride);
    int64_t at = (row + i) * ldy + column;
    if (columns >= 16) {
      store_any(y, type, at, v);
    } else {
      store_any_first(y, type, at, v, (int)columns);
    }
  }
}

// What `rows` keeps per unit and row, from `slot` on.
MLX_INLINE void set_row_sums(Tile& tile, const Rows& rows, int64_t slot) {
  tile.sums = rows.sums + slot;
  tile.scales = rows.scales + slot;
  tile.outliers = rows.outliers + slot;
  tile.places = rows.places + slot;
}

// ---------------------------------------------------------------- a few rows

// The scales and biases that follow those of groups [g0, g0 + gn): too short a stream for the hardware to see.
void fetch_next_groups(const Matrix& m, int64_t panel, int64_t g0, int64_t gn) {
  const int64_t item = m.format == Format::affine ? float_bytes(m.type) : 1, bytes = 16 * gn * item;
  const int64_t from = (panel * groups_in(m, m.k) + g0) * 16 * item + bytes;
  for (int i = 0; i < 2; ++i) {
    const void* source = i == 0 ? m.scales : m.biases;
    if (source != nullptr) {
      const char* begin = (const char*)source + from;
      for (const char* at = begin; at < begin + bytes; at += 64) __builtin_prefetch(at);
      __builtin_prefetch(begin + bytes - 1);  // a range that begins inside a line ends in one more
    }
  }
}

// Scales and biases of groups [g0, g0 + gn) of P panels, `stride` floats apart.
template <int P>
void load_groups(const Matrix& m, int64_t panel, int64_t g0, int64_t gn, int64_t stride, float* s, float* b) {
  for (int p = 0; p < P; ++p) {
    panel_scales(m, m.scales, panel + p, g0, gn, s + p * stride);
    if (m.biases != nullptr) {
      panel_scales(m, m.biases, panel + p, g0, gn, b + p * stride);
    }
  }
}

template <int R>
void run_few(const Matrix& m, Activation kind, const Tile& tile) {
  if (kind == Activation::bf16) {
    return few_bf16<R>(tile);
  }
  with_format(m, [&](auto f) {
    using Fmt = decltype(f);
    if constexpr (Fmt::biased) {
      if (kind == Activation::int8) {
        return few_int8<Fmt, R>(tile);
      }
    }
    few_exact<Fmt, R>(tile);
  });
}

template <int R>
void few_panel(const Matrix& m, const Rows& rows, void* y, Float type, int64_t ldy, int64_t panel, int64_t step) {
  alignas(64) uint32_t words[few_words];
  alignas(64) float s[few_groups * 16], b[few_groups * 16];
  alignas(64) float acc[R * 16] = {};
  const bool dense = m.format == Format::dense;
  const int64_t item = rows.kind == Activation::exact ? 4 : (rows.kind == Activation::bf16 ? 2 : 1);
  Tile tile{};
  tile.s = s;
  tile.b = b;
  tile.acc = acc;
  tile.unit = rows.unit;
  tile.group_shift = !dense && m.group > rows.unit ? 1 : 0;
  tile.ahead = rows.ahead;
  tile.far = m.interleaved ? far_words : 0;
  for (int64_t k0 = 0; k0 < rows.k; k0 += step) {
    int64_t kn = rows.k - k0 < step ? rows.k - k0 : step;
    tile.w = panel_words(m, panel, k0, kn, words);
    if (!dense) {
      const int64_t g0 = groups_in(m, k0), gn = groups_in(m, kn);
      load_groups<1>(m, panel, g0, gn, 0, s, b);
      if (m.interleaved) {
        fetch_next_groups(m, panel, g0, gn);
      }
    }
    tile.x = (const char*)rows.x + k0 * R * item;
    const int shift = __builtin_ctzll((uint64_t)rows.unit);
    set_row_sums(tile, rows, (k0 >> shift) * R);
    tile.units = kn >> shift;
    run_few<R>(m, rows.kind, tile);
  }
  write(acc, 16, R, m.n - 16 * panel, y, type, ldy, 0, 16 * panel);
}

void multiply_few(const Matrix& m, const Rows& rows, void* y, Float type, int64_t ldy, int64_t begin, int64_t end) {
  const int64_t most = few_words * 2 / bits_per_code(m);
  const int64_t step = most < few_inputs ? most / 128 * 128 : few_inputs;  // a whole number of groups
  with_count<few_rows>((int)rows.count, [&](auto r) {
    for (int64_t panel = begin; panel < end; ++panel) few_panel<decltype(r)::value>(m, rows, y, type, ldy, panel, step);
  });
}

// ---------------------------------------------------------------- many rows

// All row blocks of one pass against one tile of unpacked words.
template <int P>
void sweep(const Matrix& m, const Rows& rows, Tile tile, int64_t k0, int64_t first_block, int64_t blocks, float* acc) {
  const int64_t units = rows.k / rows.unit;
  const int B = rows.block;
  for (int64_t i = 0; i < blocks; ++i) {
    int64_t block = first_block + i;
    int64_t left = rows.count - block * B;
    int count = left < B ? (int)left : B;
    int64_t item = rows.kind == Activation::exact ? 4 : (rows.kind == Activation::bf16 ? 2 : 1);
    int64_t slot = (block * units + k0 / rows.unit) * B;
    tile.x = (const char*)rows.x + (block * rows.k + k0) * B * item;
    set_row_sums(tile, rows, slot);
    tile.acc = acc + i * B * P * 16;
    if (rows.kind == Activation::int8) {
      with_count<byte_block>(count, [&](auto r) {
        constexpr int R = decltype(r)::value;
        m.bits < 8 ? block_int8<P, R, byte_block, true>(tile, m.bits) : block_int8<P, R, byte_block, false>(tile, m.bits);
      });
    } else {
      with_count<float_block>(count, [&](auto r) {
        constexpr int R = decltype(r)::value;
        if (rows.kind == Activation::bf16) {
          block_bf16<P, R, float_block>(tile);
        } else if (m.format == Format::affine) {
          block_exact<P, R, float_block, true, true>(tile);
        } else if (m.format == Format::dense) {
          block_exact<P, R, float_block, false, false>(tile);
        } else {
          block_exact<P, R, float_block, true, false>(tile);
        }
      });
    }
  }
}

// Unpacks inputs [k0, k0 + kn) of one panel for many rows.
void unpack(const Matrix& m, Activation kind, int64_t panel, int64_t k0, int64_t kn, void* to) {
  alignas(64) uint32_t words[byte_inputs * 16];
  if (kind == Activation::bf16) {
    const uint32_t* w = panel_words(m, panel, k0, kn, (uint32_t*)to);
    if (w != to) {
      std::memcpy(to, w, (size_t)kn * 32);
    }
    return;
  }
  const uint32_t* w = panel_words(m, panel, k0, kn, words);
  with_format(m, [&](auto f) {
    using Fmt = decltype(f);
    if constexpr (Fmt::biased) {
      if (kind == Activation::int8) {
        return unpack_bytes<Fmt>(w, kn, (uint32_t*)to);
      }
    }
    unpack_floats<Fmt>(w, kn, (float*)to);
  });
}

// P panels against row blocks [first, first + now).
template <int P>
void multiply_many(const Matrix& m, const Rows& rows, void* y, Float type, int64_t ldy, int64_t panel, int64_t first,
                   int64_t now) {
  constexpr int tile_bytes = float_inputs * 16 * 4;
  static_assert(tile_bytes >= byte_inputs * 16);
  constexpr int groups = byte_inputs / 16;
  alignas(64) char w[P * tile_bytes];
  alignas(64) float s[P * groups * 16], b[P * groups * 16];
  alignas(64) float acc[pass_rows * P * 16];
  const bool dense = m.format == Format::dense;
  // equal parts, each a whole number of groups
  const int64_t quantum = dense ? rows.unit : m.group;
  const int64_t most = rows.kind == Activation::int8 ? byte_inputs : (rows.kind == Activation::bf16 ? 256 : float_inputs);
  const int64_t passes = (rows.k + most - 1) / most;
  int64_t step = (rows.k / quantum + passes - 1) / passes * quantum;
  Tile tile{};
  tile.w = w;
  tile.s = s;
  tile.b = b;
  tile.group_stride = groups * 16;
  tile.unit = rows.unit;
  tile.group_shift = !dense && m.group > rows.unit ? 1 : 0;
  std::memset(acc, 0, sizeof(float) * 16 * P * (size_t)(now * rows.block));
  for (int64_t k0 = 0; k0 < rows.k; k0 += step) {
    int64_t kn = rows.k - k0 < step ? rows.k - k0 : step;
    for (int p = 0; p < P; ++p) unpack(m, rows.kind, panel + p, k0, kn, w + p * tile_bytes);
    if (!dense) {
      load_groups<P>(m, panel, k0 / m.group, kn / m.group, tile.group_stride, s, b);
    }
    tile.stride = tile_bytes / 4;
    tile.units = kn / rows.unit;
    sweep<P>(m, rows, tile, k0, first, now, acc);
  }
  int64_t row = first * rows.block;
  int64_t count = rows.count - row < now * rows.block ? rows.count - row : now * rows.block;
  for (int p = 0; p < P; ++p) {
    write(acc + 16 * p, 16 * P, count, m.n - 16 * (panel + p), y, type, ldy, row, 16 * (panel + p));
  }
}

void multiply(const Matrix& m, const Rows& rows, void* y, Float type, int64_t ldy, int64_t begin, int64_t end) {
  if (rows.count <= 0) {
    return;
  }
  if (rows.count <= few_rows) {
    return multiply_few(m, rows, y, type, ldy, begin, end);
  }
  const int64_t blocks = row_blocks(rows), per_pass = pass_rows / rows.block;
  for (int64_t first = 0; first < blocks; first += per_pass) {
    int64_t now = blocks - first < per_pass ? blocks - first : per_pass;
    int64_t panel = begin;
    if constexpr (tile_panels == 2) {
      for (; panel + 2 <= end; panel += 2) multiply_many<2>(m, rows, y, type, ldy, panel, first, now);
    }
    for (; panel < end; ++panel) multiply_many<1>(m, rows, y, type, ldy, panel, first, now);
  }
}

// ---------------------------------------------------------------- y = x @ w

// `count` <= 64 consecutive values of row `row` of w, from column `column` (a multiple of 64).
void dequantize(const Matrix& m, int64_t row, int64_t column, int count, float* to) {
  if (m.format == Format::dense) {
    for (int i = 0; i < count; i += 16) {
      int64_t at = row * m.k + column + i;
      store(to + i, count - i >= 16 ? load_any(m.w, m.type, at) : load_any_first(m.w, m.type, at, count - i));
    }
    return;
  }
  // lane-wise: 16 codes per vector from a byte buffer with slack for the last 32-bit read
  uint8_t raw[72] = {};
  const int64_t bits = m.bits, groups = m.k / m.group;
  std::memcpy(raw, (const char*)m.w + (row * m.k + column) * bits / 8, (size_t)((count * bits + 7) / 8));
  alignas(64) int32_t codes[64];
  for (int i = 0; i < count; ++i) {
    int64_t bit = i * bits;
    uint32_t field;
    std::memcpy(&field, raw + bit / 8, 4);
    codes[i] = (int32_t)((field >> (bit % 8)) & ((1u << bits) - 1));
  }
  alignas(64) uint32_t words[16];
  for (int i = 0; i < count; i += 16) {
    int64_t at = row * groups + (column + i) / m.group;
    F q, s;
    if (m.format == Format::affine) {
      q = to_float(load_i(codes + i));
      float scale, bias;
      if (m.type == Float::f32) {
        scale = ((const float*)m.scales)[at];
        bias = ((const float*)m.biases)[at];
      } else {
        uint16_t hs = ((const uint16_t*)m.scales)[at], hb = ((const uint16_t*)m.biases)[at];
        scale = m.type == Float::bf16 ? bf16_to_float(hs) : f16_to_float(hs);
        bias = m.type == Float::bf16 ? bf16_to_float(hb) : f16_to_float(hb);
      }
      store(to + i, fma(q, set1(scale), set1(bias)));
      continue;
    }
    I v = set1_i(((const uint8_t*)m.scales)[at]);
    s = m.format == Format::nvfp4 ? as_float(shl(v & set1_i(0x7f), 20)) * set1(0x1p120f) : e8m0(v);
    store_i(words, load_i(codes + i));
    I word;
    q = m.format == Format::mxfp8 ? Fp8::value(word, words, 0) : Fp4::value(word, words, 0);
    store(to + i, q * s);
  }
}

void multiply_plain(const Matrix& m, const Rows& rows, void* y, Float type, int64_t ldy, int64_t begin, int64_t end) {
  // w[k][n] tiles of 64 columns (4 panels) x 64 inputs; the row kernels are those of dense matrices
  alignas(64) float w[4][64 * 16];
  alignas(64) float acc[4][pass_rows * 16];
  alignas(64) float line[64];
  const Matrix d = dense_view(m);
  Tile tile{};
  tile.unit = rows.unit;
  const bool few = rows.count <= few_rows;
  const int64_t blocks = row_blocks(rows), per_pass = few ? 1 : pass_rows / rows.block;
  for (int64_t column = begin; column < end; column += 64) {
    int columns = end - column < 64 ? (int)(end - column) : 64;
    for (int64_t first = 0; first < blocks; first += per_pass) {
      int64_t now = blocks - first < per_pass ? blocks - first : per_pass;
      std::memset(acc, 0, sizeof(acc));
      for (int64_t k0 = 0; k0 < rows.k; k0 += 64) {
        for (int64_t k = 0; k < 64; ++k) {
          if (k0 + k < m.n) {
            dequantize(m, k0 + k, column, columns, line);
            for (int p = 0; p < 4; ++p) store(w[p] + 16 * k, load(line + 16 * p));
          } else {
            for (int p = 0; p < 4; ++p) store(w[p] + 16 * k, zero());
          }
        }
        for (int p = 0; 16 * p < columns; ++p) {
          if (few) {
            with_count<few_rows>((int)rows.count, [&](auto r) {
              constexpr int R = decltype(r)::value;
              tile.w = w[p];
              tile.x = (const float*)rows.x + k0 * R;
              tile.units = 1;
              tile.acc = acc[p];
              few_exact<DenseF32, R>(tile);
            });
          } else {
            tile.w = w[p];
            tile.units = 1;
            sweep<1>(d, rows, tile, k0, first, now, acc[p]);
          }
        }
      }
      int64_t row = first * rows.block;
      int64_t count = rows.count - row < now * rows.block ? rows.count - row : now * rows.block;
      for (int p = 0; 16 * p < columns; ++p) {
        write(acc[p], 16, count, columns - 16 * p, y, type, ldy, row, column + 16 * p);
      }
    }
  }
}

// ---------------------------------------------------------------- repacking

template <int item>
void interleave_items(const char* from, char* to, int64_t columns, bool undo, int64_t begin, int64_t end) {
  for (int64_t panel = begin; panel < end; ++panel) {
    int64_t base = panel * 16 * columns;
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t i = 0; i < 16; ++i) {
        int64_t plain = (base + i * columns + c) * item, mixed = (base + c * 16 + i) * item;
        std::memcpy(to + (undo ? plain : mixed), from + (undo ? mixed : plain), item);
      }
    }
  }
}

void interleave(const void* from, void* to, int64_t columns, int item, bool undo, int64_t begin, int64_t end) {
  if (item == 4) {
    interleave_items<4>((const char*)from, (char*)to, columns, undo, begin, end);
  } else if (item == 2) {
    interleave_items<2>((const char*)from, (char*)to, columns, undo, begin, end);
  } else {
    interleave_items<1>((const char*)from, (char*)to, columns, undo, begin, end);
  }
}

}  // namespace

extern const LinearKernels linear_kernels_table = {block_rows, prepare, multiply, multiply_plain, interleave};

}  // namespace mlx_lm::MLX_LM_ISA
