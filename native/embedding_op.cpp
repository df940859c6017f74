// MLX primitive for rows of a matrix by index, dequantized: an embedding's lookup as one node, where MLX's plain
// operations need a hundred for each decoded token.
//
// The result is what `mx.dequantize` gives, to the last bit: codes times scales, rounded to the type of the scales, plus
// biases, rounded again. None where an input is being traced.
#include <algorithm>
#include <limits>
#include <memory>
#include <optional>

#include "bind.h"
#include "elementwise.h"
#include "linear.h"
#include "primitive.h"
#include "stages.h"
#include "workspace.h"

namespace nb = nanobind;

namespace mlx_lm {

namespace {

// `count` elements of `item` bytes of row `row` of a matrix (rows, count); interleaved ones are 16 rows apart.
template <class T>
void take(const char* matrix, int64_t row, int64_t count, bool interleaved, T* to) {
  const T* from = reinterpret_cast<const T*>(matrix) + (interleaved ? row / 16 * 16 * count + row % 16 : row * count);
  const int64_t step = interleaved ? 16 : 1;
  for (int64_t i = 0; i < count; ++i) {
    to[i] = from[i * step];
  }
}

// Element i has the bits from i * bits on, in little-endian order, at every width.
void unpack(const uint32_t* words, int64_t n, int bits, float* codes) {
  const uint32_t mask = (1u << bits) - 1;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t at = i * bits, word = at / 32, shift = at % 32;
    uint64_t pair = words[word];
    if (shift + bits > 32) {
      pair |= static_cast<uint64_t>(words[word + 1]) << 32;
    }
    codes[i] = static_cast<float>(static_cast<uint32_t>(pair >> shift) & mask);
  }
}

class EmbeddingRows : public CpuPrimitive {
 public:
  EmbeddingRows(mx::Stream stream, int bits, int group, bool interleaved)
      : CpuPrimitive(stream), bits_(bits), group_(group), interleaved_(interleaved) {}

  // inputs: ids int32, w (N, words) uint32 or (N, K) of floats, and for words scales and biases (N, K / group)
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    allocate(outputs[0]);
    if (outputs[0].size() == 0) {
      return;
    }
    std::vector<Operand> in;
    for (const auto& input : inputs) {
      in.push_back(Operand::of(input));
    }
    const bool packed = inputs.size() > 2;
    submit([in = std::move(in), type = float_type(inputs[packed ? 2 : 1].dtype()), y = outputs[0].data<char>(),
            y_type = float_type(outputs[0].dtype()), k = static_cast<int64_t>(outputs[0].shape(-1)), bits = bits_,
            group = static_cast<int64_t>(group_), interleaved = interleaved_, packed] {
      std::vector<char> copies[4];
      const auto* ids = in[0].contiguous<int32_t>(copies[0]);
      const char* w = in[1].contiguous<char>(copies[1]);
      const char* scales = packed ? in[2].contiguous<char>(copies[2]) : nullptr;
      const char* biases = packed ? in[3].contiguous<char>(copies[3]) : nullptr;
      const int64_t count = static_cast<int64_t>(in[0].size()), rows = in[1].shape[0];
      const int64_t words = packed ? in[1].shape[1] : k * float_bytes(type) / 4, groups = packed ? k / group : 0;
      const auto& convert = row_kernels().convert;
      parallel_phases([&](Phases& run) {
        run.each(count, 1, [&](int64_t begin, int64_t end) {
          auto* word = reinterpret_cast<uint32_t*>(workspace(static_cast<size_t>(words * 4 + 3 * k * 4 + 64)));
          auto* x = reinterpret_cast<float*>(word + words);  // codes, products, sums
          float *scale = x + k, *half = scale + k;           // one for each group; x in the scales' type
          for (int64_t i = begin; i < end; ++i) {
            char* to = y + i * k * float_bytes(y_type);
            const int64_t row = ids[i] < 0 ? ids[i] + rows : ids[i];
            if (row < 0 || row >= rows) {
              std::fill(x, x + k, std::numeric_limits<float>::quiet_NaN());
              convert(x, Float::f32, k, to, y_type);
              continue;
            }
            if (!packed && !interleaved) {
              convert(w + row * k * float_bytes(type), type, k, to, y_type);
              continue;
            }
            take(w, row, words, interleaved, word);
            if (!packed) {
              convert(word, type, k, to, y_type);
              continue;
            }
            unpack(word, k, bits, x);
            numbers(scales, type, row, groups, interleaved, half, scale);
            for (int64_t g = 0; g < groups; ++g) {
              for (int64_t j = g * group; j < (g + 1) * group; ++j) {
                x[j] *= scale[g];
              }
            }
            convert(x, Float::f32, k, half, type);
            convert(half, type, k, x, Float::f32);
            numbers(biases, type, row, groups, interleaved, half, scale);
            for (int64_t g = 0; g < groups; ++g) {
              for (int64_t j = g * group; j < (g + 1) * group; ++j) {
                x[j] += scale[g];
              }
            }
            convert(x, Float::f32, k, half, type);
            convert(half, type, k, to, y_type);
          }
        });
      }, count == 1 ? 1 : threads_for(static_cast<double>(count * k) * 4));
    });
  }

  const char* name() const override { return "MlxLmEmbeddingRows"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const EmbeddingRows&>(other);
    return bits_ == o.bits_ && group_ == o.group_ && interleaved_ == o.interleaved_;
  }

 private:
  // A row's scales or biases as floats.
  static void numbers(const char* from, Float type, int64_t row, int64_t groups, bool interleaved, void* space,
                      float* to) {
    if (type == Float::f32) {
      take(from, row, groups, interleaved, to);
      return;
    }
    take(from, row, groups, interleaved, static_cast<uint16_t*>(space));
    row_kernels().convert(space, type, groups, to, Float::f32);
  }

  int bits_, group_;
  bool interleaved_;
};

std::optional<mx::array> embedding_rows(const mx::array& ids, const mx::array& w, const std::optional<mx::array>& scales,
                                        const std::optional<mx::array>& biases, int group, int bits, bool interleaved,
                                        mx::Dtype dtype) {
  const bool packed = scales.has_value();
  if (w.ndim() != 2 || !is_kernel_float(dtype) || (interleaved && w.shape(0) % 16 != 0) || packed != biases.has_value()) {
    throw std::invalid_argument("embedding_rows: a matrix, of whole panels when interleaved, and a float type are needed");
  }
  int k = w.shape(1);
  std::vector<mx::array> inputs{mx::astype(ids, mx::int32, cpu_stream()), w};
  if (packed) {
    k = scales->shape(-1) * group;
    if (w.dtype() != mx::uint32 || bits < 2 || bits > 8 || group < 1 || scales->ndim() != 2 ||
        scales->shape(0) != w.shape(0) || scales->shape() != biases->shape() || scales->dtype() != biases->dtype() ||
        !is_kernel_float(scales->dtype()) || static_cast<int64_t>(k) * bits != static_cast<int64_t>(w.shape(1)) * 32) {
      throw std::invalid_argument("embedding_rows: words, scales and biases do not belong together");
    }
    inputs.push_back(*scales);
    inputs.push_back(*biases);
  } else if (!is_kernel_float(w.dtype()) || (interleaved && static_cast<size_t>(k) * w.itemsize() % 4 != 0)) {
    throw std::invalid_argument("embedding_rows: a dense matrix has floats, in pairs when interleaved");
  }
  for (const auto& input : inputs) {
    if (input.is_tracer()) {
      return std::nullopt;
    }
  }
  mx::Shape shape(ids.shape().begin(), ids.shape().end());
  shape.push_back(k);
  return mx::array(std::move(shape), dtype, std::make_shared<EmbeddingRows>(cpu_stream(), bits, group, interleaved),
                   std::move(inputs));
}

}  // namespace

}  // namespace mlx_lm

MLX_LM_BIND(m) {
  using namespace nb::literals;
  m.def("embedding_rows", &mlx_lm::embedding_rows, "ids"_a, "w"_a, "scales"_a.none(), "biases"_a.none(), "group_size"_a,
        "bits"_a, "interleaved"_a, "dtype"_a);
}
