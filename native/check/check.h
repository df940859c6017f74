// What the checks of kernels share: random numbers, counting failures, memory whose end a checker sees.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "dispatch.h"
#include "elementwise.h"
#include "types.h"

namespace mlx_lm {

inline std::mt19937 random_bits(7);
inline int failures = 0;
inline long checks = 0;

inline float normal() {
  static std::normal_distribution<float> distribution;
  return distribution(random_bits);
}
inline int64_t below(int64_t n) {
  return static_cast<int64_t>(random_bits() % static_cast<uint32_t>(n));
}
inline std::vector<float> normals(int64_t n) {
  std::vector<float> v(static_cast<size_t>(n));
  std::generate(v.begin(), v.end(), normal);
  return v;
}

inline void expect(bool good, const char* what, double found = 0, double expected = 0) {
  ++checks;
  if (!good && ++failures < 20) {
    std::printf("FAILED %s on %s: %.9g, expected %.9g\n", what, isa_name(active_isa()), found, expected);
  }
}
inline void near(double found, double expected, double tolerance, const char* what) {
  expect(std::abs(found - expected) <= tolerance * std::max(1.0, std::abs(expected)), what, found, expected);
}

// Memory of its own size, so that a checker sees every step over its end; 64-byte aligned.
struct Memory {
  explicit Memory(size_t bytes) : data(static_cast<char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64))) {}
  Memory(const Memory&) = delete;
  ~Memory() { std::free(data); }
  char* data;
};

// Values as stored in a type, and what the stored ones stand for.
struct Stored {
  std::vector<char> bytes;
  std::vector<double> values;
  Stored(const std::vector<float>& from, Float type) : bytes(from.size() * static_cast<size_t>(float_bytes(type))) {
    auto n = static_cast<int64_t>(from.size());
    row_kernels().convert(from.data(), Float::f32, n, bytes.data(), type);
    std::vector<float> back(from.size());
    row_kernels().convert(bytes.data(), type, n, back.data(), Float::f32);
    values.assign(back.begin(), back.end());
  }
};

void products(bool small);  // products.cpp

}  // namespace mlx_lm
