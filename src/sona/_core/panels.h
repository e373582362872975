// Packs the small side of a product for the tile kernels. For plain C++ files only.
#pragma once

#include <stdlib.h>

#include <new>

#include "kernels.h"

namespace sona {

// A block of memory on cache-line boundaries; empty where there is none to be had.
template <class T>
class Block {
   public:
    explicit Block(Index size)
        : raw_(malloc((size_t)size * sizeof(T) + 64)),
          data_(raw_ ? (T*)(((uintptr_t)raw_ + 63) & ~(uintptr_t)63) : nullptr) {}
    ~Block() { free(raw_); }
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;
    T* get() const { return data_; }

   private:
    void* raw_;
    T* data_;
};

inline Index panel_count(Index columns, Index lanes) { return (columns + lanes - 1) / lanes; }

// columns (k, dim) -> panels (ceil(k / lanes), dim + 1, lanes); see simd/tiles.cpp
void pack_panels(const float* columns, Index k, Index dim, Index lanes, float* panels);

}  // namespace sona
