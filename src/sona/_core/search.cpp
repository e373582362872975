// Exact top-k by inner product: a running heap over blocks of products.
#include "core.h"
#include "parallel.h"

namespace sona {

namespace {

const Index BLOCK = 256;

// The k best so far, worst at the root, kept in the caller's own output arrays.
struct Best {
    int64_t* index;
    float* similarity;
    Index k;

    // Equal similarities: the later row is the worse one.
    bool worse(Index a, Index b) const {
        return similarity[a] < similarity[b] ||
               (similarity[a] == similarity[b] && index[a] > index[b]);
    }

    void swap(Index a, Index b) {
        const int64_t i = index[a];
        const float s = similarity[a];
        index[a] = index[b], similarity[a] = similarity[b];
        index[b] = i, similarity[b] = s;
    }

    void sink(Index root, Index size) {
        for (Index child; (child = 2 * root + 1) < size; root = child) {
            if (child + 1 < size && worse(child + 1, child)) ++child;
            if (!worse(child, root)) return;
            swap(root, child);
        }
    }

    void heapify() {
        for (Index i = k / 2; i-- > 0;) sink(i, k);
    }

    // Repeatedly moving the worst to the end leaves the best first.
    void sort() {
        for (Index size = k; size-- > 1;) {
            swap(0, size);
            sink(0, size);
        }
    }
};

void search_one(const RowKernels& kernels, const float* rows, Index n, Index dim,
                const float* query, Best best) {
    kernels.dots(rows, best.k, dim, query, best.similarity);
    for (Index i = 0; i < best.k; ++i) best.index[i] = i;
    best.heapify();
    float products[BLOCK];
    for (Index i = best.k; i < n; i += BLOCK) {
        const Index m = n - i < BLOCK ? n - i : BLOCK;
        kernels.dots(rows + i * dim, m, dim, query, products);
        for (Index j = 0; j < m; ++j) {
            if (products[j] > best.similarity[0]) {
                best.similarity[0] = products[j];
                best.index[0] = i + j;
                best.sink(0, best.k);
            }
        }
    }
    best.sort();
}

}  // namespace

void top_k(const float* rows, Index n, Index dim, const float* queries, Index n_queries, Index k,
           int64_t* indices, float* similarities, int n_threads) noexcept {
    const RowKernels& kernels = *active().rows;
    parallel_rows(n_queries, n_threads, [=, &kernels](Index begin, Index end) {
        for (Index q = begin; q < end; ++q)
            search_one(kernels, rows, n, dim, queries + q * dim,
                       Best{indices + q * k, similarities + q * k, k});
    });
}

}  // namespace sona
