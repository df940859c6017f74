// One product, plain or gathered by expert, on raw pointers: what the primitive in linear.cpp runs on its stream.
#pragma once

#include <algorithm>
#include <vector>

#include "linear.h"
#include "pool.h"
#include "workspace.h"

namespace mlx_lm {

struct Weight {
  Format format = Format::dense;
  int bits = 0;
  int group = 0;
  bool interleaved = false;

  bool operator==(const Weight& o) const {
    return format == o.format && bits == o.bits && group == o.group && interleaved == o.interleaved;
  }
};

// One expert's (or the only) matrix inside stacked arrays.
inline Matrix matrix_at(const Weight& weight, Float type, const char* w, const char* scales, const char* biases, int64_t n,
                 int64_t k, int64_t expert) {
  int64_t item = weight.format == Format::affine ? float_bytes(type) : 1;
  int64_t w_bytes = weight.format == Format::dense ? k * float_bytes(type) : k * weight.bits / 8;
  int64_t groups = weight.group > 0 ? k / weight.group : 0;
  Matrix m{};
  m.w = w + expert * n * w_bytes;
  m.scales = scales == nullptr ? nullptr : scales + expert * n * groups * item;
  m.biases = biases == nullptr ? nullptr : biases + expert * n * groups * item;
  m.n = n;
  m.k = k;
  m.format = weight.format;
  m.type = type;
  m.bits = weight.bits;
  m.group = weight.group;
  m.interleaved = weight.interleaved;
  return m;
}

// The rows [begin, begin + count) of the gathered work that use one expert.
struct Segment {
  int64_t expert;
  int64_t begin;
  int64_t count;
};

struct Product {
  Weight weight;
  bool transpose = true;
  bool fast = false;
  bool gathered = false;

  bool operator==(const Product& o) const {
    return weight == o.weight && transpose == o.transpose && fast == o.fast && gathered == o.gathered;
  }
};

struct Buffers {
  std::vector<char> x, w, scales, biases, indices, plain_w, plain_scales, plain_biases;
};

// Undoes the interleaving of stacked matrices: only products without transposition need it.
inline const char* undo_interleaving(const char* from, int64_t rows, int64_t columns, int64_t item, std::vector<char>& to) {
  to.resize(static_cast<size_t>(rows * columns * item));
  parallel_phases([&](Phases& run) {
    run.each(rows / 16, 1, [&](int64_t begin, int64_t end) {
      linear_kernels().interleave(from, to.data(), columns, static_cast<int>(item), true, begin, end);
    });
  });
  return to.data();
}

// Calls body(segment, first, last) for every segment that [begin, end) of the concatenated ranges touches.
template <class Body>
void for_segments(const std::vector<int64_t>& starts, int64_t begin, int64_t end, Body&& body) {
  auto i = static_cast<size_t>(std::upper_bound(starts.begin(), starts.end(), begin) - starts.begin()) - 1;
  for (; i + 1 < starts.size() && starts[i] < end; ++i) {
    int64_t first = std::max(begin, starts[i]) - starts[i], last = std::min(end, starts[i + 1]) - starts[i];
    if (first < last) {
      body(i, first, last);
    }
  }
}

// Prepares and multiplies all segments; x rows are picked by index, y rows are in segment order.
inline void run_segments(const std::vector<Matrix>& matrices, const std::vector<Segment>& segments, const Product& product,
                  const void* x, Float x_type, int64_t ldx, const int32_t* index, void* y, Float y_type,
                  int64_t columns) {
  const LinearKernels& kernels = linear_kernels();
  std::vector<Rows> rows(segments.size());
  std::vector<Matrix> views(segments.size());
  size_t bytes = 0;
  double work = 0;
  for (size_t i = 0; i < segments.size(); ++i) {
    views[i] = product.transpose ? matrices[i] : dense_view(matrices[i]);
    Activation kind = product.transpose ? activation_for(matrices[i], product.fast) : Activation::exact;
    rows[i] = rows_shape(views[i], kind, segments[i].count);
    bytes += rows_bytes(views[i], kind, segments[i].count);
    work += static_cast<double>(segments[i].count) * static_cast<double>(views[i].k) * static_cast<double>(columns);
  }
  char* space = workspace(bytes);
  for (size_t i = 0; i < segments.size(); ++i) {
    rows[i] = lay_out_rows(views[i], rows[i].kind, segments[i].count, space);
    space += rows_bytes(views[i], rows[i].kind, segments[i].count);
  }
  // Two phases for all segments together: a decode step of 8 experts would otherwise wait 16 times.
  std::vector<int64_t> pieces = {0}, parts = {0};
  const int64_t part = product.transpose ? 1 : 64;
  for (size_t i = 0; i < segments.size(); ++i) {
    pieces.push_back(pieces.back() + pieces_of(rows[i]));
    parts.push_back(parts.back() + (product.transpose ? panels_of(matrices[i]) : (columns + part - 1) / part));
  }
  auto body = [&](Phases& run) {
    run.each(pieces.back(), 4, [&](int64_t begin, int64_t end) {
      for_segments(pieces, begin, end, [&](size_t i, int64_t first, int64_t last) {
        const int32_t* rows_index = index == nullptr ? nullptr : index + segments[i].begin;
        kernels.prepare(views[i], rows[i], x, x_type, ldx, rows_index, first, last);
      });
    });
    run.each(parts.back(), segments.size() == 1 && segments[0].count > 8 && product.transpose ? 2 : 1,
             [&](int64_t begin, int64_t end) {
      for_segments(parts, begin, end, [&](size_t i, int64_t first, int64_t last) {
        char* to = static_cast<char*>(y) + segments[i].begin * columns * float_bytes(y_type);
        if (product.transpose) {
          kernels.multiply(matrices[i], rows[i], to, y_type, columns, first, last);
        } else {
          kernels.multiply_plain(matrices[i], rows[i], to, y_type, columns, first * part,
                                 std::min(last * part, columns));
        }
      });
    });
  };
  parallel_phases(body, threads_for(work));
}

}  // namespace mlx_lm
