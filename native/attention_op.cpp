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
  bool fast;
  bool operator==(const Options& o) const {
    return scale == o.scale && softcap == o.softcap && sinks == o.sinks && latent == o.latent &&
        fast == o.fast;
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
    pack();
  }

  void pack() {
    const auto& shape = operand.shape;
    data = operand.contiguous<char>(copy);
    token_bytes = shape[3] * static_cast<int64_t>(operand.item);
    head_bytes = shape[2] * token_bytes;
    batch_bytes = shape[1] * head_bytes;
  }

  bool strides_as(const Plane& o) const {
    return batch_bytes == o.batch_bytes && head_bytes == o.head_bytes && token_bytes == o.token_bytes;
  }
};

// Scales and biases are walked together: both are copied where their strides differ.
void resolve_side(std::vector<Plane>& planes, size_t at, Storage storage) {
  if (storage.bits > 0 && !planes[at + 1].strides_as(planes[at + 2])) {
    planes[at + 1].pack();
    planes[at + 2].pack();
  }
}

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

void set_query(const Plane& q, const void** data, int64_t* batch, int64_t* head, int64_t* token) {
  auto item = static_cast<int64_t>(q.operand.item);
  *data = q.data;
  *batch = q.batch_bytes / item;
  *head = q.head_bytes / item;
  *token = q.token_bytes / item;
}

// The inputs of a node while its task runs: queries, the second part's, sinks, then keys and values of each view.
struct Inputs {
  Options options;
  std::vector<View> views;
  std::vector<Plane> planes;
  std::optional<Operand> sinks;
  std::vector<char> sink_copy;
  std::vector<AttentionRow> rows;

  Inputs(const Options& given, const std::vector<View>& list, const std::vector<mx::array>& inputs, size_t count)
      : options(given), views(list) {
    const size_t sinks_at = options.latent ? 2 : 1;
    for (size_t i = 0; i < count; ++i) {
      if (options.sinks && i == sinks_at) {
        sinks = Operand::of(inputs[i]);
      } else {
        planes.emplace_back(inputs[i]);
      }
    }
  }

  // All but the output, which has `shape`. Valid while this object lives.
  AttentionWork work(const mx::Shape& shape) {
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
    work.fast = options.fast;
    set_query(q, &work.q, &work.q_batch, &work.q_head, &work.q_token);
    work.q_type = q.type;
    work.sinks = sinks ? sinks->contiguous<float>(sink_copy) : nullptr;
    size_t at = 1;
    if (options.latent) {
      const Plane& extra = planes[at++];
      set_query(extra, &work.extra_q, &work.extra_q_batch, &work.extra_q_head, &work.extra_q_token);
      work.extra_dim = extra.operand.shape[3];
    }
    for (const View& view : views) {
      resolve_side(planes, at, view.keys);
      resolve_side(planes, at + view.keys.arrays(), view.values);
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
    return work;
  }

  static double multiply_adds(const AttentionWork& work) {
    double keys = 0;
    for (int64_t b = 0; b < work.batch; ++b) {
      keys += static_cast<double>(work.rows[b].total);
    }
    return keys * static_cast<double>(work.heads * work.length * (work.key_dim + work.value_dim));
  }
};

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
    auto in = std::make_shared<Inputs>(options_, views_, inputs, inputs.size());
    submit([in, y = out.data<char>(), y_type = float_type(out.dtype()), shape = out.shape()] {
      run(*in, y, y_type, shape);
    });
  }

  static void run(Inputs& in, char* y, Float y_type, const mx::Shape& shape) {
    AttentionWork work = in.work(shape);
    work.out = y;
    work.out_type = y_type;
    work.out_token = work.value_dim;
    work.out_head = work.length * work.out_token;
    work.out_batch = work.heads * work.out_head;
    AttentionCut cut = cut_attention(work, num_threads());
    char* scratch = workspace(cut.bytes);
    std::atomic<int> slots{0};
    parallel_stages(false,
        [&](Stages& run) { attend(work, cut, run, slots.fetch_add(1, std::memory_order_relaxed), scratch); },
        threads_for(Inputs::multiply_adds(work)));
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>&) override;

  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) override {
    return looped_vmap(inputs, axes, stream(), [this](std::vector<mx::array> slice) {
      return std::vector<mx::array>{make(stream(), options_, views_, std::move(slice))};
    });
  }

  static mx::array make(mx::Stream stream, const Options& options, const std::vector<View>& views,
                        std::vector<mx::array> inputs) {
    const size_t first = 1 + (options.latent ? 1 : 0) + (options.sinks ? 1 : 0);
    const size_t second = first + (options.latent ? 0 : views[0].keys.arrays());
    const Storage& kind = options.latent ? views[0].keys : views[0].values;
    const mx::array& values = inputs[second];
    const int width = kind.bits > 0 ? inputs[second + 1].shape(3) * kind.group : values.shape(3);
    mx::Shape shape = {inputs[0].shape(0), inputs[0].shape(1), inputs[0].shape(2), width};
    mx::Dtype type = inputs[0].dtype();
    return mx::array(std::move(shape), type, std::make_shared<Attention>(stream, options, views), std::move(inputs));
  }

  const char* name() const override { return "MlxLmAttention"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const Attention&>(other);
    return options_ == o.options_ && views_ == o.views_;
  }

 private:
  Options options_;
  std::vector<View> views_;
};

// One gradient for each input of `Attention`, in its shape and type. Inputs: those, then the result's gradient.
class AttentionGradient : public CpuPrimitive {
 public:
  AttentionGradient(mx::Stream stream, Options options, std::vector<View> views)
      : CpuPrimitive(stream), options_(options), views_(std::move(views)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    std::vector<std::pair<char*, Float>> to;
    for (mx::array& out : outputs) {
      allocate(out);
      std::memset(out.data<char>(), 0, out.nbytes());
      to.emplace_back(out.data<char>(), float_type(out.dtype()));
    }
    if (outputs[0].size() == 0) {
      return;
    }
    auto in = std::make_shared<Inputs>(options_, views_, inputs, inputs.size() - 1);
    auto gradient = std::make_shared<Plane>(inputs.back());
    submit([in, gradient, to, shape = inputs.back().shape()] { run(*in, *gradient, to, shape); });
  }

  static void run(Inputs& in, Plane& gradient, const std::vector<std::pair<char*, Float>>& to,
                  const mx::Shape& shape) {
    AttentionWork work = in.work(shape);
    gradient.resolve();
    AttentionGradients g{};
    set_query(gradient, &g.out, &g.out_batch, &g.out_head, &g.out_token);
    g.out_type = gradient.type;
    g.queries = to[0].first;
    size_t next = in.options.sinks ? 2 : 1;
    std::vector<void*> keys, values;
    std::vector<Float> key_types, value_types;
    for (size_t view = 0, row = 0; view < in.views.size(); ++view, next += 2) {
      for (int b = 0; b < in.planes[1 + 2 * view].operand.shape[0]; ++b, ++row) {
        const int64_t tokens = b * work.kv_heads * work.rows[row].total;
        keys.push_back(to[next].first + tokens * work.key_dim * float_bytes(to[next].second));
        values.push_back(to[next + 1].first + tokens * work.value_dim * float_bytes(to[next + 1].second));
        key_types.push_back(to[next].second);
        value_types.push_back(to[next + 1].second);
      }
    }
    g.keys = keys.data();
    g.values = values.data();
    g.key_types = key_types.data();
    g.value_types = value_types.data();
    std::vector<float> sinks(in.options.sinks ? static_cast<size_t>(work.batch * work.heads) : 0);
    g.sinks = sinks.data();
    const size_t bytes = attention_gradient_bytes(work);
    char* scratch = workspace(bytes * static_cast<size_t>(num_threads()));
    std::atomic<int> slots{0};
    parallel_stages(false, [&](Stages& run) {
      const auto slot = static_cast<size_t>(slots.fetch_add(1, std::memory_order_relaxed));
      attend_backward(work, g, run, scratch + bytes * slot);
    }, threads_for(3 * Inputs::multiply_adds(work)));
    for (size_t i = 0; i < sinks.size(); ++i) {
      reinterpret_cast<float*>(to[1].first)[i % static_cast<size_t>(work.heads)] += sinks[i];
    }
  }

  static std::vector<mx::array> make(mx::Stream stream, const Options& options, const std::vector<View>& views,
                                     std::vector<mx::array> inputs) {
    std::vector<mx::Shape> shapes;
    std::vector<mx::Dtype> types;
    for (size_t i = 0; i + 1 < inputs.size(); ++i) {
      shapes.push_back(inputs[i].shape());
      types.push_back(inputs[i].dtype());
    }
    return mx::array::make_arrays(std::move(shapes), types, std::make_shared<AttentionGradient>(stream, options, views),
                                  std::move(inputs));
  }

  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) override {
    return looped_vmap(inputs, axes, stream(), [this](std::vector<mx::array> slice) {
      return make(stream(), options_, views_, std::move(slice));
    });
  }

  const char* name() const override { return "MlxLmAttentionGradient"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const AttentionGradient&>(other);
    return options_ == o.options_ && views_ == o.views_;
  }

 private:
  Options options_;
  std::vector<View> views_;
};

std::vector<mx::array> Attention::vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                                      const std::vector<int>& argnums, const std::vector<mx::array>&) {
  std::vector<mx::array> inputs = primals;
  inputs.push_back(cotangents[0]);
  auto all = AttentionGradient::make(stream(), options_, views_, std::move(inputs));
  std::vector<mx::array> chosen;
  for (int i : argnums) {
    chosen.push_back(all[static_cast<size_t>(i)]);
  }
  return chosen;
}

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

// None where an input is traced (gradients, vmap, compile) and keys or values are packed or latent, which have no
// gradient here: callers then use the plain expression.
std::optional<mx::array> attention(const mx::array& q, const std::optional<mx::array>& extra_q,
                                   const std::vector<PythonView>& python_views, float scale, float softcap,
                                   const std::optional<mx::array>& sinks) {
  bool traced = q.is_tracer() || (extra_q && extra_q->is_tracer()) || (sinks && sinks->is_tracer());
  if (q.ndim() != 4 || !is_kernel_float(q.dtype()) || python_views.empty()) {
    throw std::invalid_argument("attention: queries must be a four-dimensional float array");
  }
  Options options{scale, softcap, sinks.has_value(), extra_q.has_value(), false};
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
  int64_t rows = 0;
  bool plain = !extra_q;
  for (const auto& [keys, values, key_bits, key_group, value_bits, value_group, window, keep] : python_views) {
    View view{{key_bits, key_group}, {value_bits, value_group}, window, keep};
    check_side(keys, view.keys);
    check_side(values, view.values);
    plain = plain && key_bits == 0 && value_bits == 0;
    if (width_of(keys, view.keys) != q.shape(3) || keys[0].shape(2) != values[0].shape(2) ||
        keys[0].shape(2) < q.shape(2) || keys[0].shape(0) != values[0].shape(0) || q.shape(1) % keys[0].shape(1) != 0 ||
        keys[0].shape(1) != values[0].shape(1) ||
        width_of(values, view.values) != width_of(std::get<1>(python_views[0]), {std::get<4>(python_views[0]), std::get<5>(python_views[0])}) ||
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
  if (traced && !plain) {
    return std::nullopt;
  }
  options.fast = fast_activations() && !traced;
  return Attention::make(cpu_stream(), options, views, std::move(inputs));
}

}  // namespace

}  // namespace mlx_lm

MLX_LM_BIND(m) {
  using namespace nb::literals;
  m.def("attention", &mlx_lm::attention, "q"_a, "extra_q"_a.none(), "views"_a, "scale"_a, "softcap"_a,
        "sinks"_a.none());
}
