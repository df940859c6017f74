// Run-time choice of the instruction set.
//
// A kernel family is a struct of function pointers. Its implementation, native/isa/<family>.cpp, is compiled once per
// instruction set into the namespace mlx_lm::<isa> and defines `extern const Table <name>_table` there. Callers use
// `<name>()`, which returns the table of the active set.
//
//     // family.h                                            // isa/family.cpp
//     struct NormKernels { void (*rms)(...); };              #include "family.h"
//     MLX_LM_KERNEL_TABLE(NormKernels, norm_kernels)         #include "simd.h"
//                                                            namespace mlx_lm::MLX_LM_ISA {
//                                                            static void rms(...) {...}
//                                                            extern const NormKernels norm_kernels_table = {rms}; }
//
// Files under native/isa must not use inline library templates (std::vector, std::sort, ...): the linker could keep
// the copy compiled for a CPU that this machine is not.
#pragma once

namespace mlx_lm {

enum class Isa : int { base = 0, dotprod = 1, avx2 = 2, avx512 = 3 };

// The best set that both this binary and this CPU have.
Isa detected_isa();
// detected_isa(), or what MLX_LM_ISA / set_isa asked for when that is supported here.
Isa active_isa();
const char* isa_name(Isa isa);
bool isa_supported(Isa isa);
// Throws std::invalid_argument for an unknown or unsupported name. Not for use while kernels run.
void set_isa(const char* name);

}  // namespace mlx_lm

#if defined(__x86_64__)
#define MLX_LM_TABLE_CASES(name)      \
  case ::mlx_lm::Isa::avx512:         \
    return avx512::name##_table;      \
  case ::mlx_lm::Isa::avx2:           \
    return avx2::name##_table;
#define MLX_LM_TABLE_DECLS(Table, name)            \
  namespace avx2 { extern const Table name##_table; }   \
  namespace avx512 { extern const Table name##_table; }
#elif defined(__aarch64__)
#define MLX_LM_TABLE_CASES(name)  \
  case ::mlx_lm::Isa::dotprod:    \
    return dotprod::name##_table;
#define MLX_LM_TABLE_DECLS(Table, name) \
  namespace dotprod { extern const Table name##_table; }
#else
#define MLX_LM_TABLE_CASES(name)
#define MLX_LM_TABLE_DECLS(Table, name)
#endif

// Inside namespace mlx_lm.
#define MLX_LM_KERNEL_TABLE(Table, name)           \
  namespace base { extern const Table name##_table; }   \
  MLX_LM_TABLE_DECLS(Table, name)                  \
  inline const Table& name() {                     \
    switch (::mlx_lm::active_isa()) {              \
      MLX_LM_TABLE_CASES(name)                     \
      default:                                     \
        return base::name##_table;                 \
    }                                              \
  }
