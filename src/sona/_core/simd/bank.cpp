// The bank of patterns, one outcome at a time.
#include <math.h>

#include "../kernels.h"
#include "simd.h"

namespace {
using sona::Index;

// Two vectors share each load of a row. One accumulator per row and vector, whatever R is: the
// last bit must not depend on a row's place, so that equal rows tie.
template <int R>
SONA_INLINE void pair_block(const float* rows, Index dim, const float* p, const float* q,
                            float* first, float* second) {
    vf sum[R], more[R];
    SONA_UNROLL for (int r = 0; r < R; ++r) sum[r] = more[r] = vzero();
    Index i = 0;
    for (; i + W <= dim; i += W) {
        const vf a = vload(p + i), b = vload(q + i);
        SONA_UNROLL for (int r = 0; r < R; ++r) {
            const vf row = vload(rows + r * dim + i);
            sum[r] = vfma(row, a, sum[r]);
            more[r] = vfma(row, b, more[r]);
        }
    }
    if (i < dim) {
        const vf a = vload(p + i, dim - i), b = vload(q + i, dim - i);
        SONA_UNROLL for (int r = 0; r < R; ++r) {
            const vf row = vload(rows + r * dim + i, dim - i);
            sum[r] = vfma(row, a, sum[r]);
            more[r] = vfma(row, b, more[r]);
        }
    }
    SONA_UNROLL for (int r = 0; r < R; ++r) first[r] = vsum(sum[r]), second[r] = vsum(more[r]);
}

void pair(const float* rows, Index n, Index dim, const float* p, const float* q, float* first,
          float* second) {
    for (; n >= 6; n -= 6, rows += 6 * dim, first += 6, second += 6)
        pair_block<6>(rows, dim, p, q, first, second);
    switch (n) {
        case 5: pair_block<5>(rows, dim, p, q, first, second); break;
        case 4: pair_block<4>(rows, dim, p, q, first, second); break;
        case 3: pair_block<3>(rows, dim, p, q, first, second); break;
        case 2: pair_block<2>(rows, dim, p, q, first, second); break;
        case 1: pair_block<1>(rows, dim, p, q, first, second); break;
    }
}

void settle(const double* sum, Index dim, float* centroid) {
    double part[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    Index i = 0;
    for (; i + 8 <= dim; i += 8)
        for (int u = 0; u < 8; ++u) part[u] += sum[i + u] * sum[i + u];
    for (int u = 0; i + u < dim; ++u) part[u] += sum[i + u] * sum[i + u];
    const double length =
        sqrt(((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7])));
    if (!(length > 0.0)) return;
    const double inverse = 1.0 / length;
    for (i = 0; i < dim; ++i) centroid[i] = (float)(inverse * sum[i]);
}
}  // namespace

namespace sona {
extern const BankKernels SONA_EXPORT(bank);
const BankKernels SONA_EXPORT(bank) = {pair, settle};
}  // namespace sona
