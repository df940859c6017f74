// MLX primitive for the k largest along the last axis: one node, outputs (values, indices).
#include <algorithm>
#include <memory>
#include <optional>

#include "bind.h"
#include "mlx/ops.h"
#include "primitive.h"
#include "stages.h"
#include "top_k.h"
#include "workspace.h"

namespace nb = nanobind;

namespace mlx_lm {

namespace {

class TopK : public CpuPrimitive {
 public:
  TopK(mx::Stream stream, int k) : CpuPrimitive(stream), k_(k) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    allocate(outputs[0]);
    allocate(outputs[1]);
    if (outputs[0].size() == 0) {
      return;
    }
    submit([x = Operand::of(inputs[0]), type = float_type(inputs[0].dtype()), k = static_cast<int64_t>(k_),
            values = outputs[0].data<char>(), indices = outputs[1].data<uint32_t>()] {
      run(x, type, k, values, indices);
    });
  }

  static void run(const Operand& x, Float type, int64_t k, char* values, uint32_t* indices) {
    std::vector<char> copy;
    const char* data = x.contiguous<char>(copy);
    const int64_t width = x.shape.back(), rows = static_cast<int64_t>(x.size()) / width, item = float_bytes(type);
    // Parts of a row long enough that their k best are few; the choice does not depend on the cut.
    const int64_t most = std::max<int64_t>(1, std::min<int64_t>(num_threads(), width / (16 * k)));
    const int64_t parts = rows >= num_threads() ? 1 : most;
    std::vector<Choice> found(static_cast<size_t>(rows * parts * k));
    std::vector<int64_t> counts(static_cast<size_t>(rows * parts));
    parallel_stages(false, [&](Stages& run) {
      run.each(rows * parts, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t part = i % parts;
          counts[static_cast<size_t>(i)] = top_kernels().top(data + i / parts * width * item, type, width * part / parts,
                                                             width * (part + 1) / parts, k, found.data() + i * k);
        }
      });
      run.each(rows, 1, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          Choice* all = found.data() + row * parts * k;
          int64_t n = 0;
          for (int64_t p = 0; p < parts; ++p) {
            const int64_t count = counts[static_cast<size_t>(row * parts + p)];
            std::copy(all + p * k, all + p * k + count, all + n);
            n += count;
          }
          std::partial_sort(all, all + k, all + n);
          for (int64_t j = 0; j < k; ++j) {
            indices[row * k + j] = all[j].index;
            std::memcpy(values + (row * k + j) * item, data + (row * width + all[j].index) * item,
                        static_cast<size_t>(item));
          }
        }
      });
    }, threads_for(static_cast<double>(rows * width)));
  }
  const char* name() const override { return "MlxLmTopK"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return k_ == static_cast<const TopK&>(other).k_;
  }

 private:
  int k_;
};

std::optional<std::pair<mx::array, mx::array>> top_k(const mx::array& x, int k) {
  if (x.ndim() < 1 || !is_kernel_float(x.dtype()) || k < 1 || k > x.shape(-1)) {
    throw std::invalid_argument("top_k: a float array and 1 <= k <= its last axis are needed");
  }
  if (x.is_tracer()) {
    return std::nullopt;
  }
  mx::Shape shape(x.shape().begin(), x.shape().end());
  shape.back() = k;
  auto made = mx::array::make_arrays({shape, shape}, {x.dtype(), mx::uint32},
                                     std::make_shared<TopK>(cpu_stream(), k), {x});
  return std::make_pair(made[0], made[1]);
}

}  // namespace

}  // namespace mlx_lm

MLX_LM_BIND(m) {
  using namespace nb::literals;
  m.def("top_k", &mlx_lm::top_k, "x"_a, "k"_a);
}
