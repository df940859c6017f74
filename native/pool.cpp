#include "pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <mutex>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace mlx_lm {

namespace {

inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void futex_wait(std::atomic<uint32_t>& word, uint32_t expected) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

void futex_wake(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

// Returns when word != seen. Spinning covers the gap between two graph nodes; yielding hands the CPU to a runnable
// thread when there are more threads than CPUs; the futex ends the cost of an idle pool.
void await_change(std::atomic<uint32_t>& word, uint32_t seen, std::atomic<int>& sleepers, int spins, int yields) {
  for (int i = 0; i < spins; ++i) {
    if (word.load(std::memory_order_acquire) != seen) {
      return;
    }
    pause_cpu();
  }
  for (int i = 0; i < yields; ++i) {
    if (word.load(std::memory_order_acquire) != seen) {
      return;
    }
    sched_yield();
  }
  sleepers.fetch_add(1, std::memory_order_seq_cst);
  while (word.load(std::memory_order_seq_cst) == seen) {
    futex_wait(word, seen);
  }
  sleepers.fetch_sub(1, std::memory_order_relaxed);
}

std::string read_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

double quota_of(const std::string& folder, bool v2) {
  if (v2) {
    std::istringstream line(read_line(folder + "/cpu.max"));
    std::string quota;
    double period = 0;
    if (line >> quota >> period && quota != "max" && period > 0) {
      return std::atof(quota.c_str()) / period;
    }
    return 1e9;
  }
  double quota = std::atof(read_line(folder + "/cpu.cfs_quota_us").c_str());
  double period = std::atof(read_line(folder + "/cpu.cfs_period_us").c_str());
  return quota > 0 && period > 0 ? quota / period : 1e9;
}

}  // namespace

double cgroup_quota(const std::string& membership, const std::string& mount) {
  double best = 1e9;
  std::ifstream file(membership);
  std::string line;
  while (std::getline(file, line)) {
    size_t first = line.find(':');
    size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) {
      continue;
    }
    std::string controllers = line.substr(first + 1, second - first - 1);
    bool v2 = controllers.empty();
    if (!v2 && ("," + controllers + ",").find(",cpu,") == std::string::npos) {
      continue;
    }
    std::string root = v2 ? mount : mount + "/cpu";
    std::string path = line.substr(second + 1);
    while (true) {
      best = std::min(best, quota_of(root + (path == "/" ? "" : path), v2));
      size_t slash = path.rfind('/');
      if (path.size() <= 1 || slash == std::string::npos) {
        break;
      }
      path = slash == 0 ? "/" : path.substr(0, slash);
    }
  }
  return best;
}

namespace {

int physical_cores() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof(mask), &mask) != 0) {
    return std::max(1u, std::thread::hardware_concurrency());
  }
  std::set<std::string> cores;
  int cpus = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &mask)) {
      ++cpus;
      std::string siblings =
          read_line("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
      cores.insert(siblings.empty() ? "cpu" + std::to_string(cpu) : siblings);
    }
  }
  return std::max(1, std::min(cpus, static_cast<int>(cores.size())));
}

thread_local bool inside_team = false;

class Pool {
 public:
  explicit Pool(int size) : size_(size) {
    for (int rank = 1; rank < size; ++rank) {
      workers_.emplace_back([this, rank] { work(rank); });
    }
  }

  ~Pool() {
    stop_.store(true);
    announce();
    for (auto& worker : workers_) {
      worker.join();
    }
  }

  int size() const { return size_; }

  // Every rank below `threads` runs the function once.
  void run(TeamFunction function, void* context, int threads) {
    function_ = function;
    phases_function_ = nullptr;
    context_ = context;
    threads_ = threads;
    barrier_.reset(threads);
    finished_.store(0, std::memory_order_relaxed);
    open();
    Team team(0, threads, &barrier_);
    function(context, team);
    wait_until([this] { return finished_.load(std::memory_order_acquire) == size_ - 1; });
    close();
  }

  // Whoever arrives before the caller is done helps; nobody has to.
  void run(PhasesFunction function, void* context, int threads) {
    phases_function_ = function;
    context_ = context;
    threads_ = threads;
    phases_.ticket.store(0, std::memory_order_relaxed);
    phases_.done.store(0, std::memory_order_relaxed);
    phases_.phase.store(0, std::memory_order_relaxed);
    open();
    Phases phases(threads, &phases_);
    function(context, phases);
    close();
  }

 private:
  static constexpr uint64_t closed = uint64_t{1} << 31;

  template <class Condition>
  static void wait_until(Condition&& condition) {
    for (int i = 0; !condition(); ++i) {
      if (i < 2000) {
        pause_cpu();
      } else {
        sched_yield();
      }
    }
  }

  // gate_: number of the job << 32 | closed flag | workers inside.
  void open() {
    ++job_number_;
    gate_.store(uint64_t{job_number_} << 32, std::memory_order_release);
    announce();
  }

  void close() {
    wait_until([this] {
      uint64_t empty = uint64_t{job_number_} << 32;
      return gate_.compare_exchange_strong(empty, empty | closed, std::memory_order_acq_rel);
    });
  }

  void announce() {
    job_.fetch_add(1, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) {
      futex_wake(job_);
    }
  }

  bool enter(uint32_t& last) {
    uint64_t gate = gate_.load(std::memory_order_acquire);
    while (static_cast<uint32_t>(gate >> 32) != last && (gate & closed) == 0) {
      if (gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acq_rel)) {
        last = static_cast<uint32_t>(gate >> 32);
        return true;
      }
    }
    return false;
  }

  void work(int rank) {
    inside_team = true;
    pthread_setname_np(pthread_self(), "mlx_lm pool");
    uint32_t seen = 0, last = 0;
    while (true) {
      await_change(job_, seen, sleepers_, 1000, 60);
      seen = job_.load(std::memory_order_acquire);
      if (stop_.load()) {
        return;
      }
      if (!enter(last)) {
        continue;
      }
      if (rank < threads_) {
        if (phases_function_ != nullptr) {
          Phases phases(threads_, &phases_);
          phases_function_(context_, phases);
        } else {
          Team team(rank, threads_, &barrier_);
          function_(context_, team);
        }
      }
      finished_.fetch_add(1, std::memory_order_release);
      gate_.fetch_sub(1, std::memory_order_release);
    }
  }

  const int size_;
  TeamFunction function_{nullptr};
  PhasesFunction phases_function_{nullptr};
  void* context_{nullptr};
  int threads_{1};
  uint32_t job_number_{0};
  Barrier barrier_;
  PhaseState phases_;
  alignas(64) std::atomic<uint32_t> job_{0};
  alignas(64) std::atomic<uint64_t> gate_{closed};
  alignas(64) std::atomic<int> finished_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;  // last: they use everything above
};

struct Process {
  std::mutex mutex;
  std::unique_ptr<Pool> pool;
  std::atomic<int> size{0};
};

int initial_size() {
  const char* wanted = std::getenv("MLX_LM_NUM_THREADS");
  int n = wanted != nullptr ? std::atoi(wanted) : 0;
  return n >= 1 ? std::min(n, 1024) : default_num_threads();
}

// Never destroyed: MLX's stream threads may still run kernels while static objects are torn down.
Process& process() {
  static Process* state = [] {
    auto* made = new Process;
    made->size = initial_size();
    // The child of a fork has no worker threads: it starts with a fresh pool.
    pthread_atfork(
        [] { process().mutex.lock(); },
        [] { process().mutex.unlock(); },
        [] {
          (void)process().pool.release();
          process().mutex.unlock();
        });
    return made;
  }();
  return *state;
}

}  // namespace

void Barrier::reset(int size) {
  size_ = size;
  arrived_.store(0, std::memory_order_relaxed);
}

void Barrier::wait() {
  uint32_t phase = phase_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) {
      futex_wake(phase_);
    }
    return;
  }
  await_change(phase_, phase, sleepers_, 4000, 200);
}

int64_t Phases::claim(int64_t chunks) {
  uint64_t ticket = state_->ticket.load(std::memory_order_acquire);
  while (static_cast<uint32_t>(ticket >> 32) == phase_ && static_cast<int64_t>(ticket & 0xffffffff) < chunks) {
    if (state_->ticket.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) {
      return static_cast<int64_t>(ticket & 0xffffffff);
    }
  }
  return -1;
}

void Phases::finish(int64_t chunks) {
  // The holder of an unfinished chunk keeps the phase open, so `done` belongs to this phase.
  if (state_->done.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<uint32_t>(chunks)) {
    state_->done.store(0, std::memory_order_relaxed);
    state_->ticket.store(uint64_t{phase_ + 1} << 32, std::memory_order_release);
    state_->phase.store(phase_ + 1, std::memory_order_seq_cst);
    if (state_->sleepers.load(std::memory_order_seq_cst) > 0) {
      futex_wake(state_->phase);
    }
  }
}

void Phases::await() {
  for (uint32_t now; static_cast<int32_t>((now = state_->phase.load(std::memory_order_acquire)) - phase_) < 0;) {
    await_change(state_->phase, now, state_->sleepers, 4000, 200);
  }
}

int default_num_threads() {
  int cores = physical_cores();
  double quota = cgroup_quota("/proc/self/cgroup", "/sys/fs/cgroup");
  return quota < cores ? std::max(1, static_cast<int>(quota)) : cores;
}

int num_threads() {
  return process().size.load(std::memory_order_relaxed);
}

void set_num_threads(int n) {
  Process& state = process();
  std::lock_guard<std::mutex> lock(state.mutex);
  state.pool.reset();
  state.size = std::max(1, std::min(n, 1024));
}

namespace {

// False when the region belongs on the calling thread alone: nested, small, or a pool of one.
template <class Function>
bool run_on_pool(Function function, void* context, int max_threads) {
  Process& state = process();
  if (inside_team || max_threads <= 1 || num_threads() == 1) {
    return false;
  }
  std::lock_guard<std::mutex> lock(state.mutex);
  int size = state.size.load();
  if (!state.pool) {
    state.pool = std::make_unique<Pool>(size);
  }
  inside_team = true;
  state.pool->run(function, context, std::min(size, max_threads));
  inside_team = false;
  return true;
}

}  // namespace

void run_team(TeamFunction function, void* context, int max_threads) {
  if (!run_on_pool(function, context, max_threads)) {
    Team alone(0, 1, nullptr);
    function(context, alone);
  }
}

void run_phases(PhasesFunction function, void* context, int max_threads) {
  if (!run_on_pool(function, context, max_threads)) {
    Phases alone(1, nullptr);
    function(context, alone);
  }
}

}  // namespace mlx_lm
