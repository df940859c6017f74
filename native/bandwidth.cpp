// Measures how fast the pool's threads read memory: the ceiling that benchmarks compare with.
#include <chrono>
#include <cstring>
#include <memory>

#include "bind.h"
#include "pool.h"

namespace mlx_lm {

namespace {

// Bytes per second of one parallel read of `bytes` of fresh memory, vectorised sums of 64-bit words.
double read_bandwidth(size_t bytes) {
  typedef uint64_t words8 __attribute__((vector_size(64)));
  size_t blocks = bytes / 64;
  std::unique_ptr<void, void (*)(void*)> memory(std::aligned_alloc(64, blocks * 64), std::free);
  auto* data = static_cast<words8*>(memory.get());
  std::memset(static_cast<void*>(data), 1, blocks * 64);
  std::atomic<uint64_t> total{0};
  auto start = std::chrono::steady_clock::now();
  parallel([&](Team& team) {
    Range r = team.share(static_cast<int64_t>(blocks));
    words8 a{}, b{}, c{}, d{};
    int64_t i = r.begin;
    for (; i + 4 <= r.end; i += 4) {
      for (int j = 0; j < 4; ++j) {  // 8 KB ahead, as products read their weights
        __builtin_prefetch(data + i + 128 + j, 0, 2);
      }
      a += data[i];
      b += data[i + 1];
      c += data[i + 2];
      d += data[i + 3];
    }
    a += b + c + d;
    total += a[0] + a[7];
  });
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return total.load() == 0 ? 0.0 : static_cast<double>(blocks * 64) / seconds;
}

}  // namespace

}  // namespace mlx_lm

MLX_LM_BIND(m) {
  m.def("read_bandwidth", &mlx_lm::read_bandwidth, nanobind::arg("bytes"));
}
