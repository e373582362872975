// Splits a range of rows over threads. For plain C++ files only.
#pragma once

#include <exception>
#include <thread>
#include <vector>

#include "kernels.h"

namespace sona {

// Calls work(begin, end) on slices of [0, n); the caller's thread takes the first slice, and those
// for which the system grants no thread.
template <class Work>
void parallel_rows(Index n, int n_threads, const Work& work) {
    const Index parts = n_threads < n ? n_threads : n;
    if (parts < 2) {
        work(0, n);
        return;
    }
    std::vector<std::thread> others;
    Index p = 1;
    try {
        others.reserve((size_t)(parts - 1));
        for (; p < parts; ++p)
            others.emplace_back([=, &work] { work(n * p / parts, n * (p + 1) / parts); });
    } catch (const std::exception&) {
        work(n * p / parts, n);
    }
    work(0, n / parts);
    for (std::thread& other : others) other.join();
}

}  // namespace sona
