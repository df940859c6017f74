// One thread pool for the whole process: the caller of `parallel` is thread 0 of the team.
//
//     parallel([&](Team& team) {
//       for (rows of this thread: team.share(n)) ...
//       team.barrier();                      // everything written before is visible after
//       ...
//     });
//
// Size: MLX_LM_NUM_THREADS, else the physical cores in the affinity mask, limited by the cgroup v1/v2 CPU quota.
// Several engines share the pool: a second caller waits until the running team is done. A call from inside a team
// runs on the calling thread alone. The work split must only decide who computes an output, never how: results are
// then bit-identical for every size.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>

namespace mlx_lm {

// Waiting point for a team: spins, then yields, then sleeps on a futex.
class Barrier {
 public:
  void reset(int size);
  void wait();

 private:
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  std::atomic<int> sleepers_{0};
  int size_{1};
};

struct Range {
  int64_t begin;
  int64_t end;
};

class Team {
 public:
  Team(int rank, int size, Barrier* barrier) : rank_(rank), size_(size), barrier_(barrier) {}
  int rank() const { return rank_; }
  int size() const { return size_; }
  void barrier() {
    if (size_ > 1) {
      barrier_->wait();
    }
  }
  // This thread's part of 0..count, as even as possible; parts start at multiples of `unit`.
  Range share(int64_t count, int64_t unit = 1) const {
    int64_t units = (count + unit - 1) / unit;
    int64_t begin = units * rank_ / size_ * unit;
    int64_t end = units * (rank_ + 1) / size_ * unit;
    return {begin < count ? begin : count, end < count ? end : count};
  }

 private:
  int rank_;
  int size_;
  Barrier* barrier_;
};

// A region whose work is claimed in chunks, phase by phase. Every thread runs the same sequence of `each` calls; a
// phase ends when its last chunk is done, not when every thread has arrived, so a thread that the scheduler has not
// started (or has suspended between chunks) delays nobody. Prefer it to `parallel` wherever the work allows.
//
//     parallel_phases([&](Phases& run) {
//       run.each(count, 16, [&](int64_t begin, int64_t end) { ... });   // begin is a multiple of 16
//       run.each(...);                      // sees everything that the first phase wrote
//     });
struct PhaseState {
  alignas(64) std::atomic<uint64_t> ticket{0};  // phase << 32 | next chunk
  alignas(64) std::atomic<uint32_t> done{0};    // chunks finished in the current phase
  alignas(64) std::atomic<uint32_t> phase{0};   // the current phase
  std::atomic<int> sleepers{0};
};

class Phases {
 public:
  Phases(int size, PhaseState* state) : size_(size), state_(state) {}
  int size() const { return size_; }

  template <class Body>
  void each(int64_t count, int64_t unit, Body&& body) {
    if (size_ == 1) {
      if (count > 0) {
        body(int64_t{0}, count);
      }
      return;
    }
    const int64_t units = (count + unit - 1) / unit;
    int64_t chunks = units < 4 * size_ ? units : 4 * size_;
    chunks = chunks < 1 ? 1 : chunks;
    for (int64_t i; (i = claim(chunks)) >= 0;) {
      int64_t begin = units * i / chunks * unit, end = units * (i + 1) / chunks * unit;
      end = end < count ? end : count;
      if (begin < end) {
        body(begin, end);
      }
      finish(chunks);
    }
    ++phase_;
    await();
  }

 private:
  int64_t claim(int64_t chunks);
  void finish(int64_t chunks);
  void await();

  int size_;
  PhaseState* state_;
  uint32_t phase_{0};
};

int num_threads();
// For tests and settings; n >= 1. Waits for a running team.
void set_num_threads(int n);
// What the pool would choose without MLX_LM_NUM_THREADS.
int default_num_threads();
// CPUs that the control groups of a process grant, the smallest quota on the way up to the root; 1e9 without one.
// `membership` is its /proc/PID/cgroup, `mount` where groups are mounted (version 2, or version 1 with /cpu below).
double cgroup_quota(const std::string& membership, const std::string& mount);

using TeamFunction = void (*)(void* context, Team& team);
void run_team(TeamFunction function, void* context, int max_threads);

// Runs body(Team&) on up to max_threads threads and returns when all are done. body must not throw.
template <class Body>
void parallel(Body&& body, int max_threads = 1 << 20) {
  using Plain = std::remove_reference_t<Body>;
  run_team([](void* context, Team& team) { (*static_cast<Plain*>(context))(team); }, (void*)&body, max_threads);
}

using PhasesFunction = void (*)(void* context, Phases& run);
void run_phases(PhasesFunction function, void* context, int max_threads);

template <class Body>
void parallel_phases(Body&& body, int max_threads = 1 << 20) {
  using Plain = std::remove_reference_t<Body>;
  run_phases([](void* context, Phases& run) { (*static_cast<Plain*>(context))(run); }, (void*)&body, max_threads);
}

// Threads worth waking for this many multiply-adds (a wake and a barrier cost about 2 us).
inline int threads_for(double work) {
  return work < 20000.0 ? 1 : 1 << 20;
}

}  // namespace mlx_lm
