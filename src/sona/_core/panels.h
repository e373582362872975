// Packs the small side of a product for the tile kernels. For plain C++ files only.
#pragma once

#include <stdlib.h>

#include <new>
#include <vector>

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

// The same from 8-bit codes of the columns, for the coded tiles.
class CodePanels {
   public:
    // Columns of length at most 1. Throws std::bad_alloc.
    CodePanels(const float* columns, Index k, Index dim, Index width, const Kernels& kernels);

    Index count() const { return count_; }
    Index columns() const { return count_ * lanes_; }
    const uint8_t* codes() const { return codes_.get(); }
    // per column; 0 for those that only fill up the last panel
    const float* scales() const { return scales_.data(); }
    const float* errors() const { return errors_.data(); }
    float largest_error() const;

   private:
    Index lanes_, count_;
    Block<uint8_t> codes_;
    std::vector<float> scales_, errors_;
};

}  // namespace sona
