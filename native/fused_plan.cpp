// Python's side of fused layers: token stores, plans, the watch over a model's weights, and the MLX primitive.
#include <Python.h>

#include <atomic>
#include <cstdlib>

#include "bind.h"
#include "fused.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"

#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/tuple.h>

namespace nb = nanobind;

namespace mlx_lm {

// ---------------------------------------------------------------- token stores

namespace {

// Memory for an array whose content is written at once.
mx::array unwritten(mx::Shape shape, mx::Dtype type, SteadyMemory* memory) {
  if (shape.size() != 4 || !is_kernel_float(type)) {
    throw std::invalid_argument("token store: a float shape (B, H, capacity, D) is needed");
  }
  mx::array a(std::move(shape), type, nullptr, {});
  if (memory == nullptr || !memory->give(a)) {
    a.set_data(mx::allocator::malloc(a.nbytes()));
  }
  a.set_status(mx::array::Status::available);
  return a;
}

}  // namespace

std::shared_ptr<TokenStore> TokenStore::allocate(mx::Shape shape, mx::Dtype type, SteadyMemory* memory) {
  mx::array a = unwritten(std::move(shape), type, memory);
  std::memset(a.data<char>(), 0, a.nbytes());
  return std::make_shared<TokenStore>(std::move(a));
}

std::shared_ptr<TokenStore> TokenStore::adopt(const mx::array& a) {
  if (a.ndim() != 4 || !is_kernel_float(a.dtype()) || !a.is_available()) {
    throw std::invalid_argument("token store: an evaluated float array (B, H, capacity, D) is needed");
  }
  if (a.is_donatable() && a.flags().row_contiguous && a.data_size() == a.size()) {
    return std::make_shared<TokenStore>(a);
  }
  mx::array own = unwritten(a.shape(), a.dtype(), nullptr);
  std::vector<char> copy;
  std::memcpy(own.data<char>(), Operand::of(a).contiguous<char>(copy), a.nbytes());
  return std::make_shared<TokenStore>(std::move(own));
}

void TokenStore::grow(int capacity, int length, SteadyMemory* memory) {
  mx::Shape shape = array_.shape();
  const auto token = static_cast<size_t>(shape[3]) * array_.itemsize();
  const size_t heads = static_cast<size_t>(shape[0]) * static_cast<size_t>(shape[1]), old = shape[2];
  shape[2] = capacity;
  mx::array larger = unwritten(shape, array_.dtype(), memory);
  const size_t kept = static_cast<size_t>(length) * token, room = static_cast<size_t>(capacity) * token;
  for (size_t h = 0; h < heads; ++h) {
    char* to = larger.data<char>() + h * room;
    std::memcpy(to, array_.data<char>() + h * old * token, kept);
    std::memset(to + kept, 0, room - kept);
  }
  array_ = std::move(larger);
}

// ---------------------------------------------------------------- plans

void FusedPlan::add(FusedLayer layer) {
  if (!layer.rope.inverse.empty()) {
    for (size_t i = 0; i < ropes.size() && layer.rope_index < 0; ++i) {
      if (ropes[i] == layer.rope) {
        layer.rope_index = static_cast<int>(i);
      }
    }
    if (layer.rope_index < 0) {
      layer.rope_index = static_cast<int>(ropes.size());
      ropes.push_back(layer.rope);
    }
  }
  layers.push_back(std::move(layer));
}

namespace {

std::vector<float> floats_of(const std::optional<mx::array>& a) {
  std::vector<float> to;
  if (a) {
    mx::array flat = mx::contiguous(mx::astype(*a, mx::float32, cpu_stream()), false, cpu_stream());
    flat.eval();
    to.assign(flat.data<float>(), flat.data<float>() + flat.size());
  }
  return to;
}

FusedNorm norm_of(const mx::array& weight, float eps, float offset) {
  FusedNorm norm{floats_of(weight), eps, true};
  for (float& w : norm.weight) {
    w += offset;
  }
  return norm;
}

// Arrays must be evaluated and row-contiguous; rows [first, first + count) of the weight.
FusedLinear linear_of(const mx::array& w, const std::optional<mx::array>& scales,
                      const std::optional<mx::array>& biases, const std::optional<mx::array>& bias,
                      const std::string& mode, int bits, int group, bool interleaved, int first, int count) {
  static const std::pair<const char*, Format> formats[] = {{"affine", Format::affine}, {"mxfp4", Format::mxfp4},
                                                           {"mxfp8", Format::mxfp8},   {"nvfp4", Format::nvfp4},
                                                           {"dense", Format::dense}};
  FusedLinear linear;
  Matrix& m = linear.matrix;
  bool known = false;
  for (const auto& [name, format] : formats) {
    if (mode == name) {
      m.format = format;
      known = true;
    }
  }
  const bool dense = m.format == Format::dense, affine = m.format == Format::affine;
  if (!known || w.ndim() != 2 || dense != !scales || affine != biases.has_value() ||
      (interleaved && (first % 16 != 0 || w.shape(0) % 16 != 0)) || first + count > w.shape(0)) {
    throw std::invalid_argument("fused linear: unsupported weight");
  }
  m.k = dense ? w.shape(1) : static_cast<int64_t>(w.shape(1)) * 32 / bits;
  m.n = count;
  m.type = dense ? float_type(w.dtype()) : (affine ? float_type(scales->dtype()) : Float::f32);
  m.bits = dense ? 0 : bits;
  m.group = dense ? 0 : group;
  m.interleaved = interleaved;
  linear.there = true;
  auto rows_at = [&](const mx::array& a) {
    if (!a.is_available() || !a.flags().row_contiguous) {
      throw std::invalid_argument("fused linear: weights must be evaluated and contiguous");
    }
    linear.arrays.push_back(a);
    return a.data<char>() + static_cast<size_t>(first) * static_cast<size_t>(a.shape(1)) * a.itemsize();
  };
  m.w = rows_at(w);
  m.scales = scales ? rows_at(*scales) : nullptr;
  m.biases = biases ? rows_at(*biases) : nullptr;
  std::vector<float> all = floats_of(bias);
  if (bias) {
    linear.bias.assign(all.begin() + first, all.begin() + first + count);
  }
  return linear;
}

// One content of an array; an update in place gives the same Python object another one.
class ArrayMark {
 public:
  explicit ArrayMark(mx::array a) : array_(std::move(a)) {}
  bool same(const mx::array& other) const { return array_.id() == other.id(); }
  bool evaluated() const { return array_.status() != mx::array::Status::unscheduled; }

 private:
  mx::array array_;  // held, so that no other array gets its address
};

// Dictionary entries that a plan was made from: whether each still holds the same object (and array content), and no
// array that was lazy has been computed: regrouped weights would be there twice.
class Watch {
 public:
  void add(nb::handle owner, nb::handle key, nb::handle value) {
    std::optional<ArrayMark> mark;
    bool lazy = false;
    if (nb::isinstance<mx::array>(value)) {
      mark.emplace(*nb::inst_ptr<mx::array>(value));
      lazy = !mark->evaluated();
    }
    entries_.push_back({nb::borrow(owner), nb::borrow(key), nb::borrow(value), std::move(mark), lazy});
  }
  bool unchanged() const {
    for (const Entry& e : entries_) {
      PyObject* now = PyDict_GetItemWithError(e.owner.ptr(), e.key.ptr());
      if (now != e.value.ptr() || (e.mark && !e.mark->same(*nb::inst_ptr<mx::array>(nb::handle(now)))) ||
          (e.lazy && e.mark->evaluated())) {
        PyErr_Clear();
        return false;
      }
    }
    return true;
  }

 private:
  struct Entry {
    nb::object owner, key, value;
    std::optional<ArrayMark> mark;
    bool lazy;
  };
  std::vector<Entry> entries_;
};

// ---------------------------------------------------------------- the primitive

class FusedLayers : public CpuPrimitive {
 public:
  FusedLayers(mx::Stream stream, std::shared_ptr<FusedPlan> plan, FusedStates states, bool fast)
      : CpuPrimitive(stream), plan_(std::move(plan)), states_(std::move(states)), fast_(fast) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    allocate(outputs[0]);
    submit([plan = plan_, states = states_, fast = fast_, x = Operand::of(inputs[0]),
            x_type = float_type(inputs[0].dtype()), y = outputs[0].data<char>(),
            y_type = float_type(outputs[0].dtype())] {
      std::vector<char> copy;
      FusedStep step{plan.get(), &states, fast, x.shape[0], x.shape[1], x.contiguous<char>(copy), x_type, y, y_type};
      run_fused(step);
    });
  }
  const char* name() const override { return "MlxLmFusedLayers"; }
  // Each evaluation writes its states: no two nodes are the same.
  bool is_equivalent(const mx::Primitive& other) const override { return this == &other; }

 private:
  std::shared_ptr<FusedPlan> plan_;
  FusedStates states_;
  bool fast_;
};

void check_states(const FusedPlan& plan, const FusedStates& states, const mx::array& x) {
  const size_t layers = plan.layers.size();
  if (x.ndim() != 3 || x.shape(2) != plan.hidden || layers == 0 || states.keys.size() % layers != 0) {
    throw std::invalid_argument("fused layers: shapes of input and states do not fit the plan");
  }
  const size_t count = states.keys.size() / layers;
  if (states.values.size() != states.keys.size() || states.lengths.size() != states.keys.size() ||
      states.windows.size() != states.keys.size() || states.keeps.size() != states.keys.size() ||
      static_cast<int>(states.positions.size()) != x.shape(0) ||
      (count != 1 && static_cast<int>(count) != x.shape(0))) {
    throw std::invalid_argument("fused layers: one state for each layer, or one for each layer and row, is needed");
  }
  for (size_t i = 0; i < states.keys.size(); ++i) {
    const FusedLayer& layer = plan.layers[i / count];
    for (const auto* store : {&states.keys[i], &states.values[i]}) {
      const mx::Shape& shape = (*store)->array().shape();
      if (shape[0] != (count == 1 ? x.shape(0) : 1) || shape[1] != layer.kv_heads || shape[3] != layer.head_dim ||
          states.lengths[i] < 0 || states.lengths[i] + x.shape(1) > shape[2]) {
        throw std::invalid_argument("fused layers: a state has another shape or too little room");
      }
    }
  }
}

mx::array fused_layers(std::shared_ptr<FusedPlan> plan, const mx::array& x, FusedStates states,
                       const std::vector<mx::array>& after, mx::Dtype type, bool fast) {
  check_states(*plan, states, x);
  std::vector<mx::array> inputs = {x};
  inputs.insert(inputs.end(), after.begin(), after.end());
  auto stream = cpu_stream();
  mx::Shape shape = x.shape();
  return mx::array(std::move(shape), type,
                   std::make_shared<FusedLayers>(stream, std::move(plan), std::move(states), fast), std::move(inputs));
}

}  // namespace

}  // namespace mlx_lm

MLX_LM_BIND(m) {
  using namespace mlx_lm;
  using namespace nb::literals;
  // Of functions that wait for MLX's stream: it may be letting go of Python's objects.
  using waits = nb::call_guard<nb::gil_scoped_release>;
  nb::class_<SteadyMemory>(m, "SteadyMemory")
      .def(nb::init<size_t, bool>(), "bytes"_a, "at_once"_a)
      .def("settle", &SteadyMemory::settle);
  nb::class_<TokenStore>(m, "TokenStore")
      .def_static("allocate", [](const std::vector<int>& shape, mx::Dtype type, SteadyMemory* memory) {
        return TokenStore::allocate(mx::Shape(shape.begin(), shape.end()), type, memory);
      }, "shape"_a, "type"_a, "memory"_a.none() = nb::none())
      .def_static("adopt", &TokenStore::adopt)
      .def("grow", &TokenStore::grow, "capacity"_a, "length"_a, "memory"_a.none() = nb::none())
      .def("array", [](const TokenStore& s) { return s.array(); })
      .def_prop_ro("capacity", &TokenStore::capacity)
      .def_prop_ro("nbytes", [](const TokenStore& s) { return s.array().nbytes(); });
  nb::class_<FusedNorm>(m, "FusedNorm")
      .def(nb::init<>())
      .def_static("make", &norm_of, "weight"_a, "eps"_a, "offset"_a, waits());
  nb::class_<FusedLinear>(m, "FusedLinear")
      .def(nb::init<>())
      .def_static("make", &linear_of, "w"_a, "scales"_a.none(), "biases"_a.none(), "bias"_a.none(), "mode"_a, "bits"_a,
                  "group"_a, "interleaved"_a, "first"_a, "count"_a, waits());
  nb::class_<FusedLayer>(m, "FusedLayer")
      .def(nb::init<>())
      .def_rw("pre_mixer", &FusedLayer::pre_mixer)
      .def_rw("post_mixer", &FusedLayer::post_mixer)
      .def_rw("pre_feed_forward", &FusedLayer::pre_feed_forward)
      .def_rw("post_feed_forward", &FusedLayer::post_feed_forward)
      .def_rw("q_norm", &FusedLayer::q_norm)
      .def_rw("k_norm", &FusedLayer::k_norm)
      .def_prop_rw("q", [](FusedLayer& l) { return l.qkv[0]; }, [](FusedLayer& l, FusedLinear w) { l.qkv[0] = w; })
      .def_prop_rw("k", [](FusedLayer& l) { return l.qkv[1]; }, [](FusedLayer& l, FusedLinear w) { l.qkv[1] = w; })
      .def_prop_rw("v", [](FusedLayer& l) { return l.qkv[2]; }, [](FusedLayer& l, FusedLinear w) { l.qkv[2] = w; })
      .def_rw("out", &FusedLayer::out)
      .def_rw("gate", &FusedLayer::gate)
      .def_rw("up", &FusedLayer::up)
      .def_rw("down", &FusedLayer::down)
      .def_rw("heads", &FusedLayer::heads)
      .def_rw("kv_heads", &FusedLayer::kv_heads)
      .def_rw("head_dim", &FusedLayer::head_dim)
      .def_rw("scale", &FusedLayer::scale)
      .def_rw("softcap", &FusedLayer::softcap)
      .def_rw("residual_scale", &FusedLayer::residual_scale)
      .def_rw("qk_norm_full", &FusedLayer::qk_norm_full)
      .def("set_act", [](FusedLayer& l, const std::string& name) { l.act = act_by_name(name); })
      .def("set_sinks", [](FusedLayer& l, const mx::array& a) { l.sinks = floats_of(a); }, waits())
      .def("set_rope", [](FusedLayer& l, const mx::array& inverse, float scale, bool traditional) {
        l.rope = {floats_of(inverse), scale, traditional};
      }, waits());
  nb::class_<FusedPlan>(m, "FusedPlan")
      .def(nb::init<>())
      .def_rw("hidden", &FusedPlan::hidden)
      .def_rw("final_norm", &FusedPlan::final_norm)
      .def("add", &FusedPlan::add, "layer"_a);
  nb::class_<ArrayMark>(m, "ArrayMark").def(nb::init<mx::array>()).def("same", &ArrayMark::same).def(
      "evaluated", &ArrayMark::evaluated);
  nb::class_<Watch>(m, "Watch")
      .def(nb::init<>())
      .def("add", &Watch::add, "owner"_a, "key"_a, "value"_a)
      .def("unchanged", &Watch::unchanged);
  m.def("fused_layers",
        [](std::shared_ptr<FusedPlan> plan, const mx::array& x, std::vector<std::shared_ptr<TokenStore>> keys,
           std::vector<std::shared_ptr<TokenStore>> values, std::vector<int> lengths, std::vector<int> windows,
           std::vector<int> keeps, std::vector<int> positions, const std::vector<mx::array>& after, mx::Dtype type,
           bool fast) {
          FusedStates states{std::move(keys),    std::move(values), std::move(lengths),
                             std::move(windows), std::move(keeps),  std::move(positions)};
          return fused_layers(std::move(plan), x, std::move(states), after, type, fast);
        },
        "plan"_a, "x"_a, "keys"_a, "values"_a, "lengths"_a, "windows"_a, "keeps"_a, "positions"_a, "after"_a, "type"_a,
        "fast"_a);
  m.def("traced", [](const mx::array& a) { return a.is_tracer(); });
}
