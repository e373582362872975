// Many rows against many columns: inner products in register tiles, consumed where they arise.
//
// The small side (centroids, queries) is packed in panels of LANES columns: a row of biases, then
// one row per coordinate. A tile multiplies ROWS rows, broadcast, with one panel and keeps all
// ROWS * LANES products in registers; no matrix of products is ever stored. The bias is the start
// value of each product: 0, or -infinity for the columns that only fill up the last panel.
//
// `products` alone stores what it computes: all of a few columns is what seeding wants to know.
#include <math.h>

#include "../kernels.h"
#include "simd.h"

namespace {
using sona::Index;

#if defined(SONA_ISA_AVX512)
enum { ROWS = 9, VECS = 3 };  // 27 sums, 3 panel vectors; the broadcast is a memory operand
#elif defined(SONA_ISA_AVX2)
enum { ROWS = 6, VECS = 2 };  // 12 sums, 2 panel vectors, 1 broadcast
#elif defined(SONA_ISA_NEON)
enum { ROWS = 6, VECS = 4 };  // 24 sums, 4 panel vectors, 2 of broadcasts
#else
enum { ROWS = 2, VECS = 4 };  // SSE2 has 16 registers
#endif
enum { LANES = VECS * W };
// One panel of as many columns on every instruction set.
enum { NARROW = sona::NARROW_LANES / W };

// Rows that are worked through against one panel before the next one is loaded: enough for the
// panel to stay in L1 meanwhile, few enough for the rows to stay in L2.
const Index BLOCK = 16 * ROWS;

// floats of a cache line
enum { LINE = 16 };

template <int V>
SONA_INLINE void step(const float* const* at, const float* panel, Index i, vf (*sum)[V]) {
    vf column[V];
    SONA_UNROLL for (int v = 0; v < V; ++v) column[v] = vload(panel + v * W);
    SONA_UNROLL for (int r = 0; r < ROWS; ++r) {
        const vf x = vset(at[r][i]);
        SONA_UNROLL for (int v = 0; v < V; ++v) sum[r][v] = vfma(x, column[v], sum[r][v]);
    }
}

template <int V>
SONA_INLINE void tile(const float* const* row, const float* panel, Index dim, float* products) {
    vf sum[ROWS][V];
    SONA_UNROLL for (int v = 0; v < V; ++v) {
        const vf bias = vload(panel + v * W);
        SONA_UNROLL for (int r = 0; r < ROWS; ++r) sum[r][v] = bias;
    }
    const float* at[ROWS];
    SONA_UNROLL for (int r = 0; r < ROWS; ++r) at[r] = row[r];
    panel += V * W;
    Index i = 0;
    for (; i + LINE <= dim; i += LINE) {
        // The next tile's rows: short streams, of which the hardware misses each beginning.
        SONA_UNROLL for (int r = 0; r < ROWS; ++r) SONA_PREFETCH(at[r] + ROWS * dim + i);
        for (Index end = i + LINE, j = i; j < end; ++j, panel += V * W)
            step<V>(at, panel, j, sum);
    }
    for (; i < dim; ++i, panel += V * W) step<V>(at, panel, i, sum);
    SONA_UNROLL for (int r = 0; r < ROWS; ++r)
        SONA_UNROLL for (int v = 0; v < V; ++v)
            vstore(products + r * V * W + v * W, sum[r][v]);
}

// A tile that hangs over the end repeats the last row; its products are not looked at.
SONA_INLINE void point(const float** row, const float* rows, Index i, Index n, Index dim) {
    SONA_UNROLL for (int r = 0; r < ROWS; ++r) row[r] = rows + (i + r < n ? i + r : n - 1) * dim;
}

void nearest(const float* points, Index n, Index dim, const float* panels, Index n_panels,
             int32_t* labels, float* similarities) {
    for (Index start = 0; start < n; start += BLOCK) {
        const Index end = start + BLOCK < n ? start + BLOCK : n;
        for (Index i = start; i < end; ++i) labels[i] = 0, similarities[i] = -INFINITY;
        for (Index p = 0; p < n_panels; ++p) {
            const float* panel = panels + p * (dim + 1) * LANES;
            for (Index i = start; i < end; i += ROWS) {
                const float* row[ROWS];
                float products[ROWS * LANES];
                point(row, points, i, end, dim);
                tile<VECS>(row, panel, dim, products);
                for (Index r = 0; r < ROWS && i + r < end; ++r) {
                    const float* product = products + r * LANES;
                    const float best = vmaximum<VECS>(product);
                    if (!(best > similarities[i + r])) continue;
                    int lane = 0;
                    while (product[lane] != best) ++lane;
                    similarities[i + r] = best;
                    labels[i + r] = (int32_t)(p * LANES + lane);
                }
            }
        }
    }
}

Index beating(const float* rows, Index n, Index dim, const float* panels, Index n_panels,
              const float* thresholds, sona::Hit* hits) {
    Index found = 0;
    for (Index p = 0; p < n_panels; ++p) {
        const float* panel = panels + p * (dim + 1) * LANES;
        const float* threshold = thresholds + p * LANES;
        for (Index i = 0; i < n; i += ROWS) {
            const float* row[ROWS];
            float products[ROWS * LANES];
            point(row, rows, i, n, dim);
            tile<VECS>(row, panel, dim, products);
            for (Index r = 0; r < ROWS && i + r < n; ++r) {
                const float* product = products + r * LANES;
                if (!vexceeds<VECS>(product, threshold)) continue;
                for (int lane = 0; lane < LANES; ++lane)
                    if (product[lane] > threshold[lane])
                        hits[found++] = {(int32_t)(i + r), (int32_t)(p * LANES + lane),
                                         product[lane]};
            }
        }
    }
    return found;
}

void products(const float* rows, Index n, Index dim, const float* panel, float* out) {
    const Index lanes = sona::NARROW_LANES;
    for (Index i = 0; i < n; i += ROWS) {
        const float* row[ROWS];
        float tail[ROWS * sona::NARROW_LANES];
        point(row, rows, i, n, dim);
        if (i + ROWS <= n) {
            tile<NARROW>(row, panel, dim, out + i * lanes);
        } else {
            tile<NARROW>(row, panel, dim, tail);
            memcpy(out + i * lanes, tail, (size_t)((n - i) * lanes) * sizeof(float));
        }
    }
}
}  // namespace

namespace sona {
extern const TileKernels SONA_EXPORT(tiles);
const TileKernels SONA_EXPORT(tiles) = {LANES, BLOCK, nearest, beating, products};
}  // namespace sona
