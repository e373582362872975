// k-means: nearest centroid by inner product, and sums per cluster.
#include "core.h"
#include "parallel.h"

namespace sona {

namespace {
const Index BLOCK = 256;
}

void assign(const float* points, Index n, const float* centroids, Index k, Index dim,
            int32_t* labels, float* similarities, int n_threads) noexcept {
    const RowKernels& rows = *active().rows;
    parallel_rows(n, n_threads, [=, &rows](Index begin, Index end) {
        float products[BLOCK];
        for (Index i = begin; i < end; ++i) {
            Index label = 0;
            float best = 0.0f;
            for (Index c = 0; c < k; c += BLOCK) {
                const Index m = k - c < BLOCK ? k - c : BLOCK;
                rows.dots(centroids + c * dim, m, dim, points + i * dim, products);
                for (Index j = 0; j < m; ++j)
                    if (products[j] > best || (c == 0 && j == 0)) best = products[j], label = c + j;
            }
            labels[i] = (int32_t)label;
            similarities[i] = best;
        }
    });
}

Index accumulate(const float* points, Index n, Index dim, const int32_t* labels,
                 const double* weights, Index k, double* sums, double* counts) noexcept {
    for (Index i = 0; i < n; ++i)
        if (labels[i] < 0 || labels[i] >= k) return i;
    const RowKernels& rows = *active().rows;
    for (Index i = 0; i < n; ++i) {
        const double weight = weights ? weights[i] : 1.0;
        rows.add_row(points + i * dim, dim, weight, sums + labels[i] * dim);
        counts[labels[i]] += weight;
    }
    return n;
}

}  // namespace sona
