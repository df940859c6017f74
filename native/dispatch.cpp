#include "dispatch.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#if defined(__aarch64__)
#include <sys/auxv.h>
#ifndef HWCAP_ASIMDDP
#define HWCAP_ASIMDDP (1 << 20)
#endif
#endif

namespace mlx_lm {

namespace {

constexpr Isa all_isas[] = {Isa::base, Isa::dotprod, Isa::avx2, Isa::avx512};

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
    case Isa::avx512:
      return "avx512";
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
          __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
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
  throw std::invalid_argument(std::string("unknown instruction set ") + name + "; known: base, dotprod, avx2, avx512");
}

}  // namespace mlx_lm
