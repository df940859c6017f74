// MLX primitive for attention over a list of views: unlike lengths, strided, plain or packed, grouped heads, windows.
#include <atomic>
#include <memory>
#include <optional>
#include <tuple>

#include "attention.h"
#include "bind.h"

#include <nanobind/stl/tuple.h>

#include "mlx/ops.h"
#include "stages.h"
#include "primitive.h"
#include "workspace.h"

namespace nb = nanobind;

namespace mlx_lm {

namespace {

// How one view's keys or values are stored: one array, or words, scales and biases.
struct Storage {
  int bits = 0;
  int group = 0;
  bool operator==(const Storage& o) const { return bits == o.bits && group == o.group; }
  size_t arrays() const { return bits > 0 ? 3 : 1; }
};

struct View {
  Storage keys, values;
  int64_t window, keep;
  bool operator==(const View& o) const {
    return keys == o.keys && values == o.values && window == o.window && keep == o.keep;
  }
};

struct Options {
  float scale;
  float softcap;
  bool sinks;
  bool latent;  // keys are latents and values at once; the second part holds shared rotary keys
  bool operator==(const Options& o) const {
    return scale == o.scale && softcap == o.softcap && sinks == o.sinks && latent == o.latent;
  }
};

// An operand (b, heads, tokens, width) whose last axis is contiguous; copied where it is not.
struct Plane {
  Operand operand;
  Float type;
  std::vector<char> copy;
  const char* data = nullptr;
  int64_t batch_bytes = 0, head_bytes = 0, token_bytes = 0;

  explicit Plane(const mx::array& a)
      : operand(Operand::of(a)), type(a.dtype() == mx::uint32 ? Float::f32 : float_type(a.dtype())) {}

  void resolve() {
    const auto& shape = operand.shape;
    auto item = static_cast<int64_t>(operand.item);
    if (shape[3] == 1 || operand.strides[3] == 1) {
      data = operand.data;
      batch_bytes = operand.strides[0] * item;
      head_bytes = operand.strides[1] * item;
      token_bytes = operand.strides[2] * item;
      return;
    }
    data = operand.contiguous<char>(copy);
    token_bytes = shape[3] * item;
    head_bytes = shape[2] * token_bytes;
    batch_bytes = shape[1] * head_bytes;
  }
};

// The arrays of one side of a view, starting at planes[at].
TokenRows rows_of(const std::vector<Plane>& planes, size_t at, Storage storage, int64_t b, int64_t* head_bytes,
                  int64_t* scale_head_bytes) {
  const Plane& data = planes[at];
  TokenRows rows{};
  rows.data = data.data + b * data.batch_bytes;
  rows.token_bytes = data.token_bytes;
  rows.bits = storage.bits;
  rows.group = storage.group;
  rows.type = data.type;
  *head_bytes = data.head_bytes;
  if (storage.bits > 0) {
    const Plane &scales = planes[at + 1], &biases = planes[at + 2];
    rows.type = scales.type;
    rows.scales = scales.data + b * scales.batch_bytes;
    rows.biases = biases.data + b * biases.batch_bytes;
    rows.scale_token_bytes = scales.token_bytes;
    *scale_head_bytes = scales.head_bytes;
  }
  return rows;
}

class Attention : public CpuPrimitive {
 public:
  Attention(mx::Stream stream, Options options, std::vector<View> views)
      : CpuPrimitive(stream), options_(options), views_(std::move(views)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::array& out = outputs[0];
    allocate(out);
    if (out.size() == 0) {
      return;
    }
    auto planes = std::make_shared<std::vector<Plane>>();
    size_t next = 0;
    planes->emplace_back(inputs[next++]);
    if (options_.latent) {
      planes->emplace_back(inputs[next++]);
    }
    std::optional<Operand> sinks;
    if (options_.sinks) {
      sinks = Operand::of(inputs[next++]);
    }
    for (; next < inputs.size(); ++next) {
      planes->emplace_back(inputs[next]);
    }
    submit([options = options_, views = views_, planes, sinks, y = out.data<char>(),
            y_type = float_type(out.dtype()), shape = out.shape()] {
      run(options, views, *planes, sinks, y, y_type, shape);
    });
  }

  static void run(const Options& options, const std::vector<View>& views, std::vector<Plane>& planes,
                  const std::optional<Operand>& sinks, char* y, Float y_type, const mx::Shape& shape) {
    for (Plane& plane : planes) {
      plane.resolve();
    }
    const Plane& q = planes[0];
    AttentionWork work{};
    work.batch = shape[0];
    work.heads = shape[1];
    work.length = shape[2];
    work.value_dim = shape[3];
    work.key_dim = q.operand.shape[3];
    work.scale = options.scale;
    work.softcap = options.softcap;
    set_query(q, &work.q, &work.q_batch, &work.q_head, &work.q_token);
    work.q_type = q.type;
    std::vector<char> sink_copy;
    work.sinks = sinks ? sinks->contiguous<float>(sink_copy) : nullptr;
    size_t at = 1;
    if (options.latent) {
      const Plane& extra = planes[at++];
      set_query(extra, &work.extra_q, &work.extra_q_batch, &work.extra_q_head, &work.extra_q_token);
      work.extra_dim = extra.operand.shape[3];
    }
    std::vector<AttentionRow> rows;
    for (const View& view : views) {
      const Plane& keys = planes[at];
      work.kv_heads = keys.operand.shape[1];
      for (int64_t b = 0; b < keys.operand.shape[0]; ++b) {
        AttentionRow row{};
        row.keys = rows_of(planes, at, view.keys, b, &row.key_head_bytes, &row.key_scale_head_bytes);
        TokenRows second = rows_of(planes, at + view.keys.arrays(), view.values, b, &row.value_head_bytes,
                                   &row.value_scale_head_bytes);
        if (options.latent) {
          row.extra = second;
          row.values = row.keys;
        } else {
          row.values = second;
        }
        row.total = keys.operand.shape[2];
        row.window = view.window;
        row.keep = view.keep;
        rows.push_back(row);
      }
      at += view.keys.arrays() + view.values.arrays();
    }
    work.rows = rows.data();
    work.out = y;
    work.out_type = y_type;
    work.out_token = work.value_dim;
    work.out_head = work.length * work.out_token;
    work.out_batch = work.heads * work.out_head;
    AttentionCut cut = cut_attention(work, num_threads());
    char* scratch = workspace(cut.bytes);
    std::atomic<int> slots{0};
    double keys = 0;
    for (const AttentionRow& row : rows) {
      keys += static_cast<double>(row.total);
    }
    parallel_stages(false,
        [&](Stages& run) { attend(work, cut, run, slots.fetch_add(1, std::memory_order_relaxed), scratch); },
        threads_for(keys * static_cast<double>(work.heads * work.length * (work.key_dim + work.value_dim))));
  }

  const char* name() const override { return "MlxLmAttention"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const Attention&>(other);
    return options_ == o.options_ && views_ == o.views_;
  }

 private:
  static void set_query(const Plane& q, const void** data, int64_t* batch, int64_t* head, int64_t* token) {
    auto item = static_cast<int64_t>(q.operand.item);
    *data = q.data;
    *batch = q.batch_bytes / item;
    *head = q.head_bytes / item;
    *token = q.token_bytes / item;
  }

  Options options_;
  std::vector<View> views_;
};

// (arrays of the keys, arrays of the values, key bits, key group, value bits, value group, window, keep)
using PythonView = std::tuple<std::vector<mx::array>, std::vector<mx::array>, int, int, int, int, int64_t, int64_t>;

int64_t width_of(const std::vector<mx::array>& side, Storage storage) {
  return storage.bits > 0 ? static_cast<int64_t>(side[1].shape(-1)) * storage.group : side[0].shape(-1);
}

void check_side(const std::vector<mx::array>& side, Storage storage) {
  bool good = side.size() == storage.arrays();
  for (const mx::array& a : side) {
    good = good && a.ndim() == 4;
  }
  if (!good) {
    throw std::invalid_argument("attention: keys and values must be four-dimensional, packed ones with scales and biases");
  }
  if (storage.bits > 0 ? side[1].dtype() != side[2].dtype() || !is_kernel_float(side[1].dtype()) ||
              side[0].shape(-1) * 32 != side[1].shape(-1) * storage.group * storage.bits || storage.group % 32 != 0
                       : !is_kernel_float(side[0].dtype())) {
    throw std::invalid_argument("attention: unsupported types of keys and values");
  }
}

// None where an input is being traced (gradients, vmap, compile): callers then use the plain expression.
std::optional<mx::array> attention(const mx::array& q, const std::optional<mx::array>& extra_q,
                                   const std::vector<PythonView>& python_views, float scale, float softcap,
                                   const std::optional<mx::array>& sinks) {
  bool traced = q.is_tracer() || (extra_q && extra_q->is_tracer()) || (sinks && sinks->is_tracer());
  if (q.ndim() != 4 || !is_kernel_float(q.dtype()) || python_views.empty()) {
    throw std::invalid_argument("attention: queries must be a four-dimensional float array");
  }
  Options options{scale, softcap, sinks.has_value(), extra_q.has_value()};
  std::vector<mx::array> inputs = {q};
  if (extra_q) {
    inputs.push_back(*extra_q);
  }
  if (sinks) {
    inputs.push_back(mx::astype(*sinks, mx::float32, cpu_stream()));
    if (static_cast<int64_t>(sinks->size()) != q.shape(1)) {
      throw std::invalid_argument("attention: one sink for each head is needed");
    }
  }
  std::vector<View> views;
  int64_t rows = 0, value_dim = 0;
  for (const auto& [keys, values, key_bits, key_group, value_bits, value_group, window, keep] : python_views) {
    View view{{key_bits, key_group}, {value_bits, value_group}, window, keep};
    check_side(keys, view.keys);
    check_side(values, view.values);
    value_dim = extra_q ? width_of(keys, view.keys) : width_of(values, view.values);
    if (width_of(keys, view.keys) != q.shape(3) || keys[0].shape(2) != values[0].shape(2) ||
        keys[0].shape(2) < q.shape(2) || keys[0].shape(0) != values[0].shape(0) || q.shape(1) % keys[0].shape(1) != 0 ||
        keys[0].shape(1) != values[0].shape(1) ||
        keys[0].shape(1) != std::get<0>(python_views[0])[0].shape(1) || width_of(keys, view.keys) != width_of(std::get<0>(python_views[0]), {std::get<2>(python_views[0]), std::get<3>(python_views[0])})) {
      throw std::invalid_argument("attention: shapes of queries, keys and values do not fit");
    }
    rows += keys[0].shape(0);
    for (const auto* side : {&keys, &values}) {
      for (const mx::array& a : *side) {
        traced = traced || a.is_tracer();
        inputs.push_back(a);
      }
    }
    views.push_back(view);
  }
  if (rows != q.shape(0)) {
    throw std::invalid_argument("attention: the views do not hold as many rows as there are queries");
  }
  if (traced) {
    return std::nullopt;
  }
  mx::Shape shape = {q.shape(0), q.shape(1), q.shape(2), static_cast<int>(value_dim)};
  auto stream = cpu_stream();
  return mx::array(std::move(shape), q.dtype(), std::make_shared<Attention>(stream, options, std::move(views)),
                   std::move(inputs));
}

}  // namespace

}  // namespace mlx_lm

MLX_LM_BIND(m) {
  using namespace nb::literals;
  m.def("attention", &mlx_lm::attention, "q"_a, "extra_q"_a.none(), "views"_a, "scale"_a, "softcap"_a,
        "sinks"_a.none());
}
