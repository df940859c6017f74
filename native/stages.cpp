// Watches whether the scheduler takes cores away from this process.
#include "stages.h"

#include <sys/resource.h>

#include <atomic>

namespace mlx_lm {

bool undisturbed() {
  constexpr int memory = 64;  // steps that a preemption is remembered for
  static std::atomic<long> seen{0};
  static std::atomic<int> wary{0};
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  if (seen.exchange(usage.ru_nivcsw, std::memory_order_relaxed) != usage.ru_nivcsw) {
    wary.store(memory, std::memory_order_relaxed);
  } else if (int left = wary.load(std::memory_order_relaxed); left > 0) {
    wary.store(left - 1, std::memory_order_relaxed);
  }
  return wary.load(std::memory_order_relaxed) == 0;
}

}  // namespace mlx_lm
