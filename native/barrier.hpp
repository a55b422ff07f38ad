// Threads of one parallel() that wait for each other.
#pragma once

#include <atomic>
#include <thread>

#include "simd.hpp"

namespace crossfm::CROSSFM_LEVEL {

class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads) {}
  CROSSFM_INLINE void wait() {
    if (threads_ == 1) return;
    const int round = round_.load();
    if (arrived_.fetch_add(1) + 1 == threads_) {
      arrived_.store(0);
      round_.store(round + 1);
    } else {
      for (int spins = 0; round_.load() == round;) {
        if (++spins > 2000) std::this_thread::yield();
      }
    }
  }

 private:
  const int threads_;
  std::atomic<int> arrived_{0}, round_{0};
};

}  // namespace crossfm::CROSSFM_LEVEL
