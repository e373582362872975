// The low-rank adapter: project onto A, expand through B, or both at once over a batch.
#include "../kernels.h"
#include "simd.h"

namespace {
using sona::Index;

// A batch of more floats than this does not stay in L2. Its rows are short streams, of which the
// hardware misses each beginning, so tiles with FAR ask for the rows of the next one; a batch that
// is near would pay for asking.
const Index NEAR = 65536;

// R rows of A against M rows of x, so that each load serves several multiply-adds; U accumulators
// per pair hide the latency where R * M alone does not. hidden[m * stride + j] = A_j . x_m
template <int R, int M, int U, bool FAR = false>
SONA_INLINE void project_tile(const float* a, Index dim, const float* x, float* hidden,
                              Index stride) {
    vf sum[M][R][U];
    SONA_UNROLL for (int m = 0; m < M; ++m)
        SONA_UNROLL for (int j = 0; j < R; ++j)
            SONA_UNROLL for (int u = 0; u < U; ++u) sum[m][j][u] = vzero();
    Index i = 0;
    for (; i + U * W <= dim; i += U * W) {
        if (FAR) SONA_UNROLL for (int m = 0; m < M; ++m) SONA_PREFETCH(x + (m + M) * dim + i);
        SONA_UNROLL for (int u = 0; u < U; ++u) {
            vf v[M];
            SONA_UNROLL for (int m = 0; m < M; ++m) v[m] = vload(x + m * dim + i + u * W);
            SONA_UNROLL for (int j = 0; j < R; ++j) {
                const vf row = vload(a + j * dim + i + u * W);
                SONA_UNROLL for (int m = 0; m < M; ++m)
                    sum[m][j][u] = vfma(row, v[m], sum[m][j][u]);
            }
        }
    }
    for (; i < dim; i += W) {
        const Index left = dim - i < W ? dim - i : W;
        SONA_UNROLL for (int j = 0; j < R; ++j) {
            const vf row = vload(a + j * dim + i, left);
            SONA_UNROLL for (int m = 0; m < M; ++m)
                sum[m][j][0] = vfma(row, vload(x + m * dim + i, left), sum[m][j][0]);
        }
    }
    SONA_UNROLL for (int m = 0; m < M; ++m)
        SONA_UNROLL for (int j = 0; j < R; ++j) {
            vf total = sum[m][j][0];
            SONA_UNROLL for (int u = 1; u < U; ++u) total = vadd(total, sum[m][j][u]);
            hidden[m * stride + j] = vsum(total);
        }
}

// y_m = x_m + sum_j hidden[m * stride + j] * B_j over R rows of B
template <int R, int M, bool FAR = false>
SONA_INLINE void expand_tile(const float* b, Index dim, const float* hidden, Index stride,
                             const float* x, float* y) {
    vf c[M][R];
    SONA_UNROLL for (int m = 0; m < M; ++m)
        SONA_UNROLL for (int j = 0; j < R; ++j) c[m][j] = vset(hidden[m * stride + j]);
    Index i = 0;
    for (; i + W <= dim; i += W) {
        if (FAR) SONA_UNROLL for (int m = 0; m < M; ++m) SONA_PREFETCH(x + (m + M) * dim + i);
        vf row[R];
        SONA_UNROLL for (int j = 0; j < R; ++j) row[j] = vload(b + j * dim + i);
        SONA_UNROLL for (int m = 0; m < M; ++m) {
            vf v = vload(x + m * dim + i);
            SONA_UNROLL for (int j = 0; j < R; ++j) v = vfma(c[m][j], row[j], v);
            vstore(y + m * dim + i, v);
        }
    }
    if (i < dim) {
        SONA_UNROLL for (int m = 0; m < M; ++m) {
            vf v = vload(x + m * dim + i, dim - i);
            SONA_UNROLL for (int j = 0; j < R; ++j)
                v = vfma(c[m][j], vload(b + j * dim + i, dim - i), v);
            vstore(y + m * dim + i, v, dim - i);
        }
    }
}

template <int M>
SONA_INLINE void project_rows(const float* a, Index dim, Index rank, const float* x,
                              float* hidden) {
    const Index stride = rank;
    for (; rank >= 4; rank -= 4, a += 4 * dim, hidden += 4)
        project_tile<4, M, M == 1 ? 2 : 1>(a, dim, x, hidden, stride);
    if (rank >= 2) {
        project_tile<2, M, M == 1 ? 4 : 1>(a, dim, x, hidden, stride);
        rank -= 2, a += 2 * dim, hidden += 2;
    }
    if (rank) project_tile<1, M, M == 1 ? 4 : 2>(a, dim, x, hidden, stride);
}

template <int M>
SONA_INLINE void expand_rows(const float* b, Index dim, Index rank, const float* hidden,
                             const float* x, float* y) {
    const Index stride = rank;
    for (; rank >= 4; rank -= 4, b += 4 * dim, hidden += 4, x = y)
        expand_tile<4, M>(b, dim, hidden, stride, x, y);
    if (rank >= 2) {
        expand_tile<2, M>(b, dim, hidden, stride, x, y);
        rank -= 2, b += 2 * dim, hidden += 2, x = y;
    }
    if (rank) expand_tile<1, M>(b, dim, hidden, stride, x, y);
}

// Micro-LoRA: four rows share each load of A and B. Rows that are far (see NEAR) come first.
template <int R, int M, bool FAR>
SONA_INLINE void project_fixed(const float* weights, Index dim, const float* x, float* hidden) {
    project_tile<R, M, M == 1 ? 4 : R == 1 ? 2 : 1, FAR>(weights, dim, x, hidden, R);
}

template <int R>
SONA_INLINE void project_rank(const float* weights, Index dim, const float* x, Index n,
                              float* hidden) {
    for (; n >= 4; n -= 4, x += 4 * dim, hidden += 4 * R) {
        if (n * dim > NEAR)
            project_fixed<R, 4, true>(weights, dim, x, hidden);
        else
            project_fixed<R, 4, false>(weights, dim, x, hidden);
    }
    for (; n; --n, x += dim, hidden += R) project_fixed<R, 1, false>(weights, dim, x, hidden);
}

template <int R>
SONA_INLINE void expand_rank(const float* weights, Index dim, const float* hidden, const float* x,
                             Index n, float* y) {
    const float* b = weights + R * dim;
    for (; n >= 4; n -= 4, x += 4 * dim, y += 4 * dim, hidden += 4 * R) {
        if (n * dim > NEAR)
            expand_tile<R, 4, true>(b, dim, hidden, R, x, y);
        else
            expand_tile<R, 4, false>(b, dim, hidden, R, x, y);
    }
    for (; n; --n, x += dim, y += dim, hidden += R)
        expand_tile<R, 1, false>(b, dim, hidden, R, x, y);
}

void project(const float* weights, Index dim, Index rank, const float* x, Index n, float* hidden) {
    if (rank == 2) return project_rank<2>(weights, dim, x, n, hidden);
    if (rank == 1) return project_rank<1>(weights, dim, x, n, hidden);
    for (; n >= 2; n -= 2, x += 2 * dim, hidden += 2 * rank)
        project_rows<2>(weights, dim, rank, x, hidden);
    if (n) project_rows<1>(weights, dim, rank, x, hidden);
}

void expand(const float* weights, Index dim, Index rank, const float* hidden, const float* x,
            Index n, float* y) {
    if (rank == 2) return expand_rank<2>(weights, dim, hidden, x, n, y);
    if (rank == 1) return expand_rank<1>(weights, dim, hidden, x, n, y);
    const float* b = weights + rank * dim;
    for (; n >= 2; n -= 2, x += 2 * dim, y += 2 * dim, hidden += 2 * rank)
        expand_rows<2>(b, dim, rank, hidden, x, y);
    if (n) expand_rows<1>(b, dim, rank, hidden, x, y);
}

// A NaN or infinity anywhere in x reaches every hidden value (0 * inf is NaN), so looking at the
// hidden values alone answers for all of x.
SONA_INLINE int scaled(float* hidden, Index count, float scaling) {
    float probe = 0.0f;
    for (Index j = 0; j < count; ++j) {
        probe += hidden[j] * 0.0f;
        hidden[j] *= scaling;
    }
    return probe == 0.0f;
}

template <int M>
SONA_INLINE int apply_rows(const float* weights, Index dim, Index rank, float scaling,
                           const float* x, float* y, float* hidden) {
    project_rows<M>(weights, dim, rank, x, hidden);
    if (!scaled(hidden, M * rank, scaling)) return 0;
    expand_rows<M>(weights + rank * dim, dim, rank, hidden, x, y);
    return 1;
}

template <int R, int M, bool FAR>
SONA_INLINE int apply_fixed(const float* weights, Index dim, float scaling, const float* x,
                            float* y) {
    float hidden[M * R];
    project_fixed<R, M, FAR>(weights, dim, x, hidden);
    if (!scaled(hidden, M * R, scaling)) return 0;
    expand_tile<R, M, false>(weights + R * dim, dim, hidden, R, x, y);
    return 1;
}

template <int R>
SONA_INLINE Index apply_rank(const float* weights, Index dim, float scaling, const float* x,
                             Index n, float* y) {
    Index i = 0;
    for (; i + 4 <= n; i += 4) {
        const float* row = x + i * dim;
        float* to = y + i * dim;
        if (!((n - i) * dim > NEAR ? apply_fixed<R, 4, true>(weights, dim, scaling, row, to)
                                   : apply_fixed<R, 4, false>(weights, dim, scaling, row, to)))
            return i;
    }
    for (; i < n; ++i)
        if (!apply_fixed<R, 1, false>(weights, dim, scaling, x + i * dim, y + i * dim)) return i;
    return n;
}

Index apply(const float* weights, Index dim, Index rank, float scaling, const float* x, Index n,
            float* y, float* hidden) {
    if (rank == 2) return apply_rank<2>(weights, dim, scaling, x, n, y);
    if (rank == 1) return apply_rank<1>(weights, dim, scaling, x, n, y);
    Index i = 0;
    for (; i + 2 <= n; i += 2)
        if (!apply_rows<2>(weights, dim, rank, scaling, x + i * dim, y + i * dim, hidden)) return i;
    for (; i < n; ++i)
        if (!apply_rows<1>(weights, dim, rank, scaling, x + i * dim, y + i * dim, hidden)) return i;
    return n;
}
}  // namespace

namespace sona {
extern const LoraKernels SONA_EXPORT(lora);
const LoraKernels SONA_EXPORT(lora) = {project, expand, apply};
}  // namespace sona
