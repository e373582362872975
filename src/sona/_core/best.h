// A bounded heap: the k largest keys seen so far, the smallest of them at the root.
#pragma once

#include <math.h>

#include "kernels.h"

namespace sona {

// Keeps its entries in the caller's arrays, which end up sorted, best first.
struct Best {
    int64_t* index;
    float* similarity;
    Index k;

    void clear() const {
        for (Index i = 0; i < k; ++i) index[i] = -1, similarity[i] = -INFINITY;
    }

    // Rows must come in ascending order: of equal ones the first stays.
    void offer(int64_t row, float value) const {
        if (!(value > similarity[0])) return;
        index[0] = row;
        similarity[0] = value;
        sink(0, k);
    }

    // Repeatedly moving the worst to the end leaves the best first.
    void sort() const {
        for (Index size = k; size-- > 1;) {
            swap(0, size);
            sink(0, size);
        }
    }

   private:
    // Equal similarities: the later row is the worse one.
    bool worse(Index a, Index b) const {
        return similarity[a] < similarity[b] ||
               (similarity[a] == similarity[b] && index[a] > index[b]);
    }

    void swap(Index a, Index b) const {
        const int64_t i = index[a];
        const float s = similarity[a];
        index[a] = index[b], similarity[a] = similarity[b];
        index[b] = i, similarity[b] = s;
    }

    void sink(Index root, Index size) const {
        for (Index child; (child = 2 * root + 1) < size; root = child) {
            if (child + 1 < size && worse(child + 1, child)) ++child;
            if (!worse(child, root)) return;
            swap(root, child);
        }
    }
};

}  // namespace sona
