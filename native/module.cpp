// The Python module `mlx_lm.kernels._native`. `import mlx.core` must come first: it registers the array type.
#include "bind.h"
#include "dispatch.h"
#include "mlx/version.h"
#include "pool.h"

namespace nb = nanobind;

namespace mlx_lm {

namespace {
constexpr int max_binders = 64;
void (*binders[max_binders])(nb::module_&);
int num_binders = 0;
}  // namespace

Binder::Binder(void (*bind)(nb::module_&)) {
  if (num_binders < max_binders) {
    binders[num_binders++] = bind;
  }
}

}  // namespace mlx_lm

#define MLX_LM_STRING2(x) #x
#define MLX_LM_STRING(x) MLX_LM_STRING2(x)

NB_MODULE(_native, m) {
  using namespace mlx_lm;
  // Read before any MLX type is touched: kernels/native.py compares it with the installed version.
  m.attr("mlx_version") = MLX_LM_STRING(MLX_VERSION_MAJOR) "." MLX_LM_STRING(MLX_VERSION_MINOR) "." MLX_LM_STRING(
      MLX_VERSION_PATCH);
  m.attr("interface") = MLX_LM_INTERFACE;
  m.def("isa", [] { return std::string(isa_name(active_isa())); });
  m.def("set_isa", [](const std::string& name) { set_isa(name.c_str()); });
  m.def("supported_isas", [] {
    std::vector<std::string> names;
    for (Isa isa : all_isas) {
      if (isa_supported(isa)) {
        names.emplace_back(isa_name(isa));
      }
    }
    return names;
  });
  m.def("num_threads", &num_threads);
  m.def("set_num_threads", &set_num_threads);
  m.def("default_num_threads", &default_num_threads);
  m.def("cgroup_quota", &cgroup_quota);
  for (int i = 0; i < num_binders; ++i) {
    binders[i](m);
  }
}
