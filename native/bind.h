// Python bindings without a central list: every plain source file registers its own functions.
//
//     MLX_LM_BIND(m) { m.def("name", &function, ...); }
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

namespace mlx_lm {

struct Binder {
  explicit Binder(void (*bind)(nanobind::module_&));
};

}  // namespace mlx_lm

#define MLX_LM_BIND(m)                                             \
  static void mlx_lm_bind_functions(nanobind::module_& m);         \
  static const ::mlx_lm::Binder mlx_lm_binder(mlx_lm_bind_functions); \
  static void mlx_lm_bind_functions(nanobind::module_& m)
