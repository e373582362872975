// k-means: nearest centroid by inner product, and sums per cluster.
#include "core.h"
#include "panels.h"
#include "parallel.h"

namespace sona {

bool assign(const float* points, Index n, const float* centroids, Index k, Index dim,
            int32_t* labels, float* similarities, int n_threads) noexcept {
    const TileKernels& tiles = *active().tiles;
    const Index n_panels = panel_count(k, tiles.lanes);
    const Block<float> panels(n_panels * (dim + 1) * tiles.lanes);
    if (!panels.get()) return false;
    pack_panels(centroids, k, dim, tiles.lanes, panels.get());
    parallel_rows(n, n_threads, [&](Index begin, Index end) {
        tiles.nearest(points + begin * dim, end - begin, dim, panels.get(), n_panels,
                      labels + begin, similarities + begin);
    });
    return true;
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
