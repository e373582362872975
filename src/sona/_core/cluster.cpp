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

// The centroids that are not where they were when the labels were found.
struct Moved {
    const uint8_t* flags;  // per centroid; null where nothing is known
    std::vector<int64_t> which;

    bool stays(int32_t label) const { return flags && !flags[label]; }
};

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

    // One chapter. Points whose own centroid did not move go on only to one that did.
    void by_codes(Index begin, Index end, const Codes& codes, const CodePanels& all,
                  const CodePanels* moved, const Moved& changes) const {
        std::vector<int64_t> open, settled;
        for (Index i = begin; i < end; ++i)
            (changes.stays(labels[i]) ? settled : open).push_back(i);
        if (!screen(open, codes, all, nullptr)) {
            by_float(begin, end);
            return;
        }
        if (moved)
            screen(settled, codes, *moved, &changes);
        else if (similarities)
            for (const int64_t i : settled) similarities[i] = own_similarity(i);
    }

   private:
    float own_similarity(Index i) const {
        const int64_t own = labels[i];
        float product;
        kernels.rows->dots_at(centroids, dim, &own, 1, points + i * dim, &product);
        return product;
    }

    // The codes leave each point a few candidates, mostly one; float32 decides between them. With
    // `changes` the columns are the centroids that moved, and a point's own one is a candidate too.
    // False, with nothing decided for good, where the candidates are so many that it does not pay.
    bool screen(const std::vector<int64_t>& rows, const Codes& codes, const CodePanels& columns,
                const Moved* changes) const {
        const CodeTileKernels& tiles = *kernels.code_tiles;
        const Index n = (Index)rows.size(), width = columns.columns();
        const Index n_columns = changes ? (Index)changes->which.size() : k;
        const Index block = std::max((Index)8, std::min(tiles.block, HELD / width));
        const float column_error = columns.largest_error();
        std::vector<float> values((size_t)(block * width)), exact((size_t)n_columns);
        std::vector<int32_t> hits((size_t)n_columns);
        std::vector<int64_t> candidates((size_t)n_columns);
        for (Index first = 0; first < n; first += block) {
            const Index m = std::min(block, n - first);
            tiles.products(codes.codes, rows.data() + first, m, codes.width, columns.codes(),
                           columns.count(), columns.scales(), values.data());
            Index rescored = 0;
            for (Index r = 0; r < m; ++r) {
                const Index i = rows[(size_t)(first + r)];
                const float scale = codes.scales[i], error = codes.errors[i];
                // |x.c - x'.c'| <= |x| |c - c'| + |x - x'| |c'|, twice, and the rounding of float32.
                const float bound = (column_error * (1.0f + error) + error) * 1.00001f + 4e-6f +
                                    (float)(dim + 8) * 6e-8f;
                const float margin = scale > 0.0f ? 2.0f * bound / scale : INFINITY;
                float best = -INFINITY, floor = -INFINITY;
                if (changes) {
                    best = own_similarity(i);
                    floor = scale > 0.0f ? (best - bound) / scale : -INFINITY;
                }
                const Index found = tiles.near_best(values.data() + r * width, n_columns, margin,
                                                    floor, hits.data());
                rescored += found;
                if (!changes && found == 1 && !similarities) {
                    labels[i] = hits[0];
                    continue;
                }
                for (Index j = 0; j < found; ++j)
                    candidates[(size_t)j] =
                        changes ? changes->which[(size_t)hits[(size_t)j]] : hits[(size_t)j];
                kernels.rows->dots_at(centroids, dim, candidates.data(), found, points + i * dim,
                                      exact.data());
                for (Index j = 0; j < found; ++j) {
                    const float value = exact[(size_t)j];
                    const int32_t label = (int32_t)candidates[(size_t)j];
                    if (value < best || (value == best && label > labels[i])) continue;
                    best = value;
                    labels[i] = label;
                }
                if (similarities) similarities[i] = best;
            }
            if (first == 0 && !changes && rescored * CROWDED > m * k) return false;
        }
        return true;
    }
};

}  // namespace

bool screens_assignments(Index k) noexcept {
    // Fewer centroids are done in float32 before their candidates are sorted out.
    return active().code_tiles->lanes > 0 && k >= 64;
}

bool assign(const float* points, Index n, const float* centroids, Index k, Index dim,
            const Codes* codes, const uint8_t* moved, int32_t* labels, float* similarities,
            int n_threads) noexcept {
    const Kernels& kernels = active();
    const Index lanes = kernels.tiles->lanes, n_panels = panel_count(k, lanes);
    const bool screened = codes && screens_assignments(k);
    std::atomic<bool> done(true);
    try {
        const Block<float> panels(n_panels * (dim + 1) * lanes);
        if (!panels.get()) return false;
        pack_panels(centroids, k, dim, lanes, panels.get());
        const Assignment work{points,       centroids, k,           dim,     labels,
                              similarities, kernels,   panels.get(), n_panels};
        std::unique_ptr<CodePanels> all, some;
        Moved changes{screened ? moved : nullptr, {}};
        if (screened) all.reset(new CodePanels(centroids, k, dim, codes->width, kernels));
        if (changes.flags) {
            std::vector<float> columns;
            for (Index c = 0; c < k; ++c) {
                if (!moved[c]) continue;
                changes.which.push_back(c);
                columns.insert(columns.end(), centroids + c * dim, centroids + (c + 1) * dim);
            }
            if (!changes.which.empty())
                some.reset(new CodePanels(columns.data(), (Index)changes.which.size(), dim,
                                          codes->width, kernels));
        }
        parallel_rows((n + CHAPTER - 1) / CHAPTER, n_threads, [&](Index first, Index last) {
            try {
                for (Index chapter = first; chapter < last; ++chapter) {
                    const Index begin = chapter * CHAPTER, end = std::min(n, begin + CHAPTER);
                    if (all)
                        work.by_codes(begin, end, *codes, *all, some.get(), changes);
                    else
                        work.by_float(begin, end);
                }
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

bool squared_distances(const float* points, Index n, Index dim, const float* seeds, Index m,
                       float* out) noexcept {
    const TileKernels& tiles = *active().tiles;
    const Index lanes = NARROW_LANES, panel = (dim + 1) * lanes, PART = 96;
    const Block<float> panels(panel_count(m, lanes) * panel);
    if (!panels.get()) return false;
    pack_panels(seeds, m, dim, lanes, panels.get());
    // What rounding leaves of equal rows, with a wide margin: it grows like a random walk.
    const float nothing = 1e-6f + 2.5e-7f * sqrtf((float)dim);
    float products[PART * NARROW_LANES];
    for (Index i = 0; i < n; i += PART) {
        const Index part = std::min(PART, n - i);
        for (Index first = 0; first < m; first += lanes) {
            tiles.products(points + i * dim, part, dim, panels.get() + first / lanes * panel,
                           products);
            for (Index j = 0; j < std::min(lanes, m - first); ++j) {
                float* to = out + (first + j) * n + i;
                for (Index p = 0; p < part; ++p) {
                    const float square = 2.0f - 2.0f * products[p * lanes + j];
                    to[p] = square < nothing ? 0.0f : square;
                }
            }
        }
    }
    return true;
}

}  // namespace sona
