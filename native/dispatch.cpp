#include "dispatch.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#ifndef HWCAP_ASIMDDP
#define HWCAP_ASIMDDP (1 << 20)
#endif
#endif

namespace mlx_lm {

namespace {

#if defined(__x86_64__)
// A 256-bit vpdpbusd outside AVX-512 (leaf 7, subleaf 1). Asked for directly: not every compiler knows its name.
bool has_avxvnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & (1u << 4)) != 0;
}
#endif

Isa initial_isa() {
  const char* wanted = std::getenv("MLX_LM_ISA");
  if (wanted != nullptr) {
    for (Isa isa : all_isas) {
      if (std::strcmp(wanted, isa_name(isa)) == 0 && isa_supported(isa)) {
        return isa;
      }
    }
  }
  return detected_isa();
}

std::atomic<int>& current() {
  static std::atomic<int> isa{static_cast<int>(initial_isa())};
  return isa;
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::dotprod:
      return "dotprod";
    case Isa::avx2:
      return "avx2";
    case Isa::avxvnni:
      return "avxvnni";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512bf16:
      return "avx512bf16";
    default:
      return "base";
  }
}

bool isa_supported(Isa isa) {
  switch (isa) {
    case Isa::base:
      return true;
#if defined(__x86_64__)
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    case Isa::avx512:
      return isa_supported(Isa::avx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
          __builtin_cpu_supports("avx512vnni");
    case Isa::avxvnni:
      return isa_supported(Isa::avx2) && has_avxvnni();
    case Isa::avx512bf16:
      return isa_supported(Isa::avx512) && __builtin_cpu_supports("avx512bf16");
#elif defined(__aarch64__)
    case Isa::dotprod:
      return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#endif
    default:
      return false;
  }
}

Isa detected_isa() {
  Isa best = Isa::base;
  for (Isa isa : all_isas) {
    if (isa_supported(isa)) {
      best = isa;
    }
  }
  return best;
}

Isa active_isa() {
  return static_cast<Isa>(current().load(std::memory_order_relaxed));
}

void set_isa(const char* name) {
  for (Isa isa : all_isas) {
    if (std::strcmp(name, isa_name(isa)) == 0) {
      if (!isa_supported(isa)) {
        throw std::invalid_argument(std::string("this CPU or binary has no kernels for ") + name);
      }
      current().store(static_cast<int>(isa), std::memory_order_relaxed);
      return;
    }
  }
  std::string known;
  for (Isa isa : all_isas) {
    known += std::string(known.empty() ? "" : ", ") + isa_name(isa);
  }
  throw std::invalid_argument(std::string("unknown instruction set ") + name + "; known: " + known);
}

}  // namespace mlx_lm
