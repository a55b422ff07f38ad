// A small pool of std::thread: parallel(n, work, context) runs work(0) .. work(n - 1), work(0) on
// the calling thread. Work must not throw. A forked child, whose threads are gone, gets a new pool.
//
// The interface is a plain function pointer, because the kernels are compiled once for each
// instruction-set level: a standard template instantiated there would be one symbol for all
// levels, and the linker might keep the copy with instructions that the chip lacks.
#pragma once

namespace crossfm {

void parallel(int threads, void (*work)(int thread, void* context), void* context);

}  // namespace crossfm
