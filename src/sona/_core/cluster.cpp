// k-means: nearest centroid by inner product, sums per cluster, distances to new seeds.
#include <math.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <vector>

#include "core.h"
#include "panels.h"
#include "parallel.h"

namespace sona {

namespace {

// Values of the n x k products that are held at a time, small enough for L2.
const Index HELD = 32768;
// Candidates per centroid from which rescoring costs more than the float32 tiles would have.
const Index CROWDED = 6;
// Points of one chapter: where its first block is crowded, the rest goes straight to float32.
// Threads share out whole chapters, so that the path, and with it the last bit, is not theirs.
const Index CHAPTER = 1536;

struct Assignment {
    const float* points;
    const float* centroids;
    Index k, dim;
    int32_t* labels;
    float* similarities;  // may be null
    const Kernels& kernels;
    const float* panels;
    Index n_panels;

    void by_float(Index begin, Index end) const {
        float unwanted[256];
        for (Index i = begin; i < end; i += 256) {
            const Index m = std::min((Index)256, end - i);
            kernels.tiles->nearest(points + i * dim, m, dim, panels, n_panels, labels + i,
                                   similarities ? similarities + i : unwanted);
        }
    }

    // The codes leave each point a few candidates, mostly one; float32 decides between them.
    void by_codes(Index begin, Index end, const Codes& codes, const CodePanels& columns) const {
        const CodeTileKernels& tiles = *kernels.code_tiles;
        const Index block = std::max((Index)8, std::min(tiles.block, HELD / columns.columns()));
        const float column_error = columns.largest_error();
        std::vector<float> values((size_t)(block * columns.columns()));
        std::vector<int32_t> hits((size_t)k);
        std::vector<int64_t> candidates((size_t)k);
        std::vector<float> exact((size_t)k);
        for (Index i = begin, m; i < end; i += m) {
            m = std::min({block, end - i, CHAPTER - i % CHAPTER});
            tiles.products(codes.codes + i * codes.width, m, codes.width, columns.codes(),
                           columns.count(), columns.scales(), values.data());
            Index rescored = 0;
            for (Index r = 0; r < m; ++r) {
                const float* point = points + (i + r) * dim;
                const float scale = codes.scales[i + r], error = codes.errors[i + r];
                // |x.c - x'.c'| <= |x| |c - c'| + |x - x'| |c'|, twice, and the rounding of float32.
                const float bound = (column_error * (1.0f + error) + error) * 1.00001f + 4e-6f +
                                    (float)(dim + 8) * 6e-8f;
                const float margin = scale > 0.0f ? 2.0f * bound / scale : INFINITY;
                const Index found =
                    tiles.near_best(values.data() + r * columns.columns(), k, margin, hits.data());
                Index best = 0;
                if (found > 1 || similarities) {
                    for (Index j = 0; j < found; ++j) candidates[(size_t)j] = hits[(size_t)j];
                    kernels.rows->dots_at(centroids, dim, candidates.data(), found, point,
                                          exact.data());
                    for (Index j = 1; j < found; ++j)
                        if (exact[(size_t)j] > exact[(size_t)best]) best = j;
                    if (similarities) similarities[i + r] = exact[(size_t)best];
                }
                rescored += found;
                labels[i + r] = hits[(size_t)best];
            }
            if (i % CHAPTER == 0 && rescored * CROWDED > m * k) {
                by_float(i + m, std::min(end, i + CHAPTER));
                m = std::min(end - i, CHAPTER);
            }
        }
    }
};

}  // namespace

bool assign(const float* points, Index n, const float* centroids, Index k, Index dim,
            const Codes* codes, int32_t* labels, float* similarities, int n_threads) noexcept {
    const Kernels& kernels = active();
    const Index lanes = kernels.tiles->lanes, n_panels = panel_count(k, lanes);
    // A handful of centroids fills no panel: float32 is as fast.
    const bool screened = codes && kernels.code_tiles->lanes > 0 && k > 4;
    std::atomic<bool> done(true);
    try {
        const Block<float> panels(n_panels * (dim + 1) * lanes);
        if (!panels.get()) return false;
        pack_panels(centroids, k, dim, lanes, panels.get());
        const Assignment work{points,       centroids, k,           dim,     labels,
                              similarities, kernels,   panels.get(), n_panels};
        const std::unique_ptr<CodePanels> columns(
            screened ? new CodePanels(centroids, k, dim, codes->width, kernels) : nullptr);
        parallel_rows((n + CHAPTER - 1) / CHAPTER, n_threads, [&](Index first, Index last) {
            const Index begin = first * CHAPTER, end = std::min(n, last * CHAPTER);
            try {
                if (columns)
                    work.by_codes(begin, end, *codes, *columns);
                else
                    work.by_float(begin, end);
            } catch (const std::exception&) {
                done = false;
            }
        });
    } catch (const std::exception&) {
        done = false;
    }
    return done;
}

Index accumulate(const float* points, Index n, Index dim, const int32_t* labels,
                 const double* weights, const int32_t* before, Index k, double* sums,
                 double* counts) noexcept {
    for (Index i = 0; i < n; ++i) {
        if (labels[i] < 0 || labels[i] >= k) return i;
        if (before && (before[i] < -1 || before[i] >= k)) return i;
    }
    const RowKernels& rows = *active().rows;
    for (Index i = 0; i < n; ++i) {
        const Index to = labels[i], from = before ? before[i] : -1;
        if (to == from) continue;
        const double weight = weights ? weights[i] : 1.0;
        rows.add_row(points + i * dim, dim, weight, sums + to * dim);
        counts[to] += weight;
        if (from < 0) continue;
        rows.add_row(points + i * dim, dim, -weight, sums + from * dim);
        counts[from] -= weight;
    }
    return n;
}

void nearer(const float* points, Index n, Index dim, const float* seeds, Index m,
            const float* distances, float* out) noexcept {
    const RowKernels& rows = *active().rows;
    for (Index i = 0; i < n; ++i) {
        float products[16];
        for (Index first = 0; first < m; first += 16) {
            const Index part = std::min((Index)16, m - first);
            rows.dots(seeds + first * dim, part, dim, points + i * dim, products);
            for (Index j = 0; j < part; ++j) {
                const float square = 2.0f - 2.0f * products[j];
                // Below this it is what rounding leaves of equal rows.
                const float own = square < 1e-6f ? 0.0f : square;
                out[(first + j) * n + i] = own < distances[i] ? own : distances[i];
            }
        }
    }
}

}  // namespace sona
