#include "pool.hpp"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#ifndef _WIN32
#include <unistd.h>
#endif

namespace crossfm {
namespace {

using Work = void (*)(int, void*);

class Pool {
 public:
  void run(int threads, Work work, void* context) {
    {
      std::lock_guard lock(mutex_);
      while (static_cast<int>(workers_.size()) < threads - 1) {
        const int index = static_cast<int>(workers_.size()) + 1;
        workers_.emplace_back([this, index, seen = round_]() mutable { serve(index, seen); });
      }
      work_ = work;
      context_ = context;
      threads_ = threads;
      pending_ = threads - 1;
      ++round_;
    }
    start_.notify_all();
    work(0, context);
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return pending_ == 0; });
  }

  std::mutex busy;  // one caller at a time

 private:
  void serve(int index, uint64_t seen) {
    for (;;) {
      Work work;
      void* context;
      {
        std::unique_lock lock(mutex_);
        start_.wait(lock, [&] { return round_ != seen; });
        seen = round_;
        if (index >= threads_) continue;
        work = work_;
        context = context_;
      }
      work(index, context);
      std::lock_guard lock(mutex_);
      if (--pending_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable start_, done_;
  std::vector<std::thread> workers_;
  Work work_ = nullptr;
  void* context_ = nullptr;
  int threads_ = 0, pending_ = 0;
  uint64_t round_ = 0;
};

// Never destroyed: its threads wait for ever, and end with the process.
Pool& pool() {
#ifdef _WIN32
  static Pool* instance = new Pool;
#else
  static std::mutex mutex;
  static Pool* instance = nullptr;
  static pid_t owner = 0;
  std::lock_guard lock(mutex);
  if (owner != getpid()) instance = new Pool, owner = getpid();
#endif
  return *instance;
}

}  // namespace

void parallel(int threads, Work work, void* context) {
  if (threads <= 1) return work(0, context);
  Pool& shared = pool();
  if (std::unique_lock lock(shared.busy, std::try_to_lock); lock) {
    return shared.run(threads, work, context);
  }
  // The pool serves another caller. Threads of our own start work only once all are there, since
  // some work waits for all of its threads.
  std::vector<std::thread> own;
  std::atomic<int> go{0};
  const auto release = [&](int how) {
    go = how;
    go.notify_all();
    for (auto& thread : own) thread.join();
  };
  try {
    own.reserve(static_cast<std::size_t>(threads));
    for (int t = 1; t < threads; ++t) {
      own.emplace_back([&go, work, context, t] {
        go.wait(0);
        if (go > 0) work(t, context);
      });
    }
  } catch (...) {
    release(-1);
    throw;
  }
  go = 1;
  go.notify_all();
  work(0, context);
  release(1);
}

}  // namespace crossfm
