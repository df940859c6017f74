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
// Sets that differ from another one only in products of bytes or bf16 pairs (avxvnni from avx2, avx512bf16 from avx512)
// compile what uses these (MLX_LM_PRODUCT_TABLE, MLX_LM_PAIR_TABLE); every other table is that of the set they extend.
//
// Files under native/isa must not use inline library templates (std::vector, std::sort, ...): the linker could keep
// the copy compiled for a CPU that this machine is not.
#pragma once

namespace mlx_lm {

// In order of preference, worst first.
enum class Isa : int { base, dotprod, avx2, avxvnni, avx512, avx512bf16 };
constexpr Isa all_isas[] = {Isa::base, Isa::dotprod, Isa::avx2, Isa::avxvnni, Isa::avx512, Isa::avx512bf16};

// The best set that both this binary and this CPU have.
Isa detected_isa();
// detected_isa(), or what MLX_LM_ISA / set_isa asked for when that is supported here.
Isa active_isa();
const char* isa_name(Isa isa);
bool isa_supported(Isa isa);
// Throws std::invalid_argument for an unknown or unsupported name. Not for use while kernels run.
void set_isa(const char* name);

}  // namespace mlx_lm

// Inside namespace mlx_lm; each case returns the table of one set.
#define MLX_LM_TABLE_CASE(isa, from, name) \
  case ::mlx_lm::Isa::isa:                 \
    return from::name##_table;
#define MLX_LM_TABLE_DECL(Table, name, isa) \
  namespace isa {                           \
  extern const Table name##_table;          \
  }
#define MLX_LM_TABLE_SWITCH(Table, name, cases) \
  MLX_LM_TABLE_DECL(Table, name, base)          \
  inline const Table& name() {                  \
    switch (::mlx_lm::active_isa()) {           \
      cases default : return base::name##_table; \
    }                                           \
  }

#if defined(__x86_64__)
#define MLX_LM_KERNEL_TABLE(Table, name)                                                               \
  MLX_LM_TABLE_DECL(Table, name, avx2)                                                                 \
  MLX_LM_TABLE_DECL(Table, name, avx512)                                                               \
  MLX_LM_TABLE_SWITCH(Table, name,                                                                     \
                      MLX_LM_TABLE_CASE(avx512bf16, avx512, name) MLX_LM_TABLE_CASE(avx512, avx512, name) \
                          MLX_LM_TABLE_CASE(avxvnni, avx2, name) MLX_LM_TABLE_CASE(avx2, avx2, name))
#define MLX_LM_PRODUCT_TABLE(Table, name)                                                                     \
  MLX_LM_TABLE_DECL(Table, name, avx2)                                                                        \
  MLX_LM_TABLE_DECL(Table, name, avxvnni)                                                                     \
  MLX_LM_TABLE_DECL(Table, name, avx512)                                                                      \
  MLX_LM_TABLE_DECL(Table, name, avx512bf16)                                                                  \
  MLX_LM_TABLE_SWITCH(Table, name,                                                                            \
                      MLX_LM_TABLE_CASE(avx512bf16, avx512bf16, name) MLX_LM_TABLE_CASE(avx512, avx512, name) \
                          MLX_LM_TABLE_CASE(avxvnni, avxvnni, name) MLX_LM_TABLE_CASE(avx2, avx2, name))
#define MLX_LM_PAIR_TABLE(Table, name)                                                                         \
  MLX_LM_TABLE_DECL(Table, name, avx2)                                                                         \
  MLX_LM_TABLE_DECL(Table, name, avx512)                                                                       \
  MLX_LM_TABLE_DECL(Table, name, avx512bf16)                                                                   \
  MLX_LM_TABLE_SWITCH(Table, name,                                                                             \
                      MLX_LM_TABLE_CASE(avx512bf16, avx512bf16, name) MLX_LM_TABLE_CASE(avx512, avx512, name)  \
                          MLX_LM_TABLE_CASE(avxvnni, avx2, name) MLX_LM_TABLE_CASE(avx2, avx2, name))
#elif defined(__aarch64__)
#define MLX_LM_KERNEL_TABLE(Table, name)  \
  MLX_LM_TABLE_DECL(Table, name, dotprod) \
  MLX_LM_TABLE_SWITCH(Table, name, MLX_LM_TABLE_CASE(dotprod, dotprod, name))
#define MLX_LM_PRODUCT_TABLE(Table, name) MLX_LM_KERNEL_TABLE(Table, name)
#define MLX_LM_PAIR_TABLE(Table, name) MLX_LM_KERNEL_TABLE(Table, name)
#else
#define MLX_LM_KERNEL_TABLE(Table, name) MLX_LM_TABLE_SWITCH(Table, name, )
#define MLX_LM_PRODUCT_TABLE(Table, name) MLX_LM_KERNEL_TABLE(Table, name)
#define MLX_LM_PAIR_TABLE(Table, name) MLX_LM_KERNEL_TABLE(Table, name)
#endif
