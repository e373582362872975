// The low-rank adapter: project onto A, expand through B.
#include "../kernels.h"
#include "simd.h"

namespace {
using sona::Index;

// R rows share each load of x; U accumulators per row hide the latency of the multiply-add.
template <int R, int U>
SONA_INLINE void project_rows(const float* a, Index dim, const float* x, float* hidden) {
    vf sum[R][U];
    SONA_UNROLL for (int j = 0; j < R; ++j)
        SONA_UNROLL for (int u = 0; u < U; ++u) sum[j][u] = vzero();
    Index i = 0;
    for (; i + U * W <= dim; i += U * W) {
        SONA_UNROLL for (int u = 0; u < U; ++u) {
            const vf v = vload(x + i + u * W);
            SONA_UNROLL for (int j = 0; j < R; ++j)
                sum[j][u] = vfma(vload(a + j * dim + i + u * W), v, sum[j][u]);
        }
    }
    for (; i + W <= dim; i += W) {
        const vf v = vload(x + i);
        SONA_UNROLL for (int j = 0; j < R; ++j)
            sum[j][0] = vfma(vload(a + j * dim + i), v, sum[j][0]);
    }
    if (i < dim) {
        const vf v = vload(x + i, dim - i);
        SONA_UNROLL for (int j = 0; j < R; ++j)
            sum[j][0] = vfma(vload(a + j * dim + i, dim - i), v, sum[j][0]);
    }
    SONA_UNROLL for (int j = 0; j < R; ++j) {
        vf total = sum[j][0];
        SONA_UNROLL for (int u = 1; u < U; ++u) total = vadd(total, sum[j][u]);
        hidden[j] = vsum(total);
    }
}

template <int R>
SONA_INLINE void expand_rows(const float* b, Index dim, const float* coefficient, const float* x,
                             float* y) {
    vf c[R];
    SONA_UNROLL for (int j = 0; j < R; ++j) c[j] = vset(coefficient[j]);
    Index i = 0;
    for (; i + W <= dim; i += W) {
        vf v = vload(x + i);
        SONA_UNROLL for (int j = 0; j < R; ++j) v = vfma(c[j], vload(b + j * dim + i), v);
        vstore(y + i, v);
    }
    if (i < dim) {
        vf v = vload(x + i, dim - i);
        SONA_UNROLL for (int j = 0; j < R; ++j)
            v = vfma(c[j], vload(b + j * dim + i, dim - i), v);
        vstore(y + i, v, dim - i);
    }
}

void project(const float* a, Index dim, Index rank, const float* x, float* hidden) {
    for (; rank >= 4; rank -= 4, a += 4 * dim, hidden += 4) project_rows<4, 2>(a, dim, x, hidden);
    if (rank >= 2) {
        project_rows<2, 4>(a, dim, x, hidden);
        rank -= 2, a += 2 * dim, hidden += 2;
    }
    if (rank) project_rows<1, 4>(a, dim, x, hidden);
}

void expand(const float* weights, Index dim, Index rank, const float* c, const float* x, float* y) {
    const float* b = weights + rank * dim;
    for (; rank >= 8; rank -= 8, b += 8 * dim, c += 8, x = y) expand_rows<8>(b, dim, c, x, y);
    for (; rank >= 4; rank -= 4, b += 4 * dim, c += 4, x = y) expand_rows<4>(b, dim, c, x, y);
    if (rank >= 2) {
        expand_rows<2>(b, dim, c, x, y);
        rank -= 2, b += 2 * dim, c += 2, x = y;
    }
    if (rank) expand_rows<1>(b, dim, c, x, y);
}

}  // namespace

namespace sona {
extern const LoraKernels SONA_EXPORT(lora);
const LoraKernels SONA_EXPORT(lora) = {project, expand};
}  // namespace sona
