// Splits a range of rows over threads. For plain C++ files only.
#pragma once

#include <thread>
#include <vector>

#include "kernels.h"

namespace sona {

// Calls work(begin, end) on slices of [0, n); the caller's thread takes the first slice.
template <class Work>
void parallel_rows(Index n, int n_threads, const Work& work) {
    const Index parts = n_threads < n ? (n_threads > 1 ? n_threads : 1) : (n > 1 ? n : 1);
    std::vector<std::thread> others;
    others.reserve((size_t)(parts - 1));
    for (Index p = 1; p < parts; ++p)
        others.emplace_back([=, &work] { work(n * p / parts, n * (p + 1) / parts); });
    work(0, n / parts);
    for (std::thread& other : others) other.join();
}

}  // namespace sona
