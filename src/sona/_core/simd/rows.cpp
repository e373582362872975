// Rows against one vector: inner products, weighted sums, finiteness.
#include <math.h>

#include "../kernels.h"
#include "simd.h"

namespace {
using sona::Index;

// One accumulator per row, whatever R is: the order of summation, and so the last bit, must not
// depend on a row's place. Eight rows at a time are enough chains to hide the latency.
template <int R>
SONA_INLINE void dots_of(const float* const* row, Index dim, const float* query, float* out) {
    vf sum[R];
    SONA_UNROLL for (int r = 0; r < R; ++r) sum[r] = vzero();
    Index i = 0;
    for (; i + W <= dim; i += W) {
        const vf q = vload(query + i);
        SONA_UNROLL for (int r = 0; r < R; ++r)
            sum[r] = vfma(vload(row[r] + i), q, sum[r]);
    }
    if (i < dim) {
        const vf q = vload(query + i, dim - i);
        SONA_UNROLL for (int r = 0; r < R; ++r)
            sum[r] = vfma(vload(row[r] + i, dim - i), q, sum[r]);
    }
    SONA_UNROLL for (int r = 0; r < R; ++r) out[r] = vsum(sum[r]);
}

template <int R>
SONA_INLINE void dots_block(const float* rows, Index dim, const float* query, float* out) {
    const float* row[R];
    SONA_UNROLL for (int r = 0; r < R; ++r) row[r] = rows + r * dim;
    dots_of<R>(row, dim, query, out);
}

void dots_at(const float* rows, Index dim, const int64_t* index, Index k, const float* query,
             float* out) {
    for (; k > 0; k -= 8, index += 8, out += 8) {
        const float* row[8];
        float product[8];
        const Index m = k < 8 ? k : 8;
        for (Index r = 0; r < 8; ++r) row[r] = rows + index[r < m ? r : m - 1] * dim;
        dots_of<8>(row, dim, query, product);
        for (Index r = 0; r < m; ++r) out[r] = product[r];
    }
}

void dots(const float* rows, Index n, Index dim, const float* query, float* out) {
    for (; n >= 8; n -= 8, rows += 8 * dim, out += 8) dots_block<8>(rows, dim, query, out);
    // One pass for what is left: each block on its own would wait for its own chains.
    switch (n) {
        case 7: dots_block<7>(rows, dim, query, out); break;
        case 6: dots_block<6>(rows, dim, query, out); break;
        case 5: dots_block<5>(rows, dim, query, out); break;
        case 4: dots_block<4>(rows, dim, query, out); break;
        case 3: dots_block<3>(rows, dim, query, out); break;
        case 2: dots_block<2>(rows, dim, query, out); break;
        case 1: dots_block<1>(rows, dim, query, out); break;
    }
}

void blend(const float* rows, Index dim, const int64_t* index, const float* weight, Index k,
           float* out) {
    Index i = 0;
    for (; i + 4 * W <= dim; i += 4 * W) {
        vf sum[4] = {vzero(), vzero(), vzero(), vzero()};
        for (Index j = 0; j < k; ++j) {
            const vf w = vset(weight[j]);
            const float* row = rows + index[j] * dim + i;
            SONA_UNROLL for (int u = 0; u < 4; ++u) sum[u] = vfma(w, vload(row + u * W), sum[u]);
        }
        SONA_UNROLL for (int u = 0; u < 4; ++u) vstore(out + i + u * W, sum[u]);
    }
    for (; i < dim; i += W) {
        const Index m = dim - i < W ? dim - i : W;
        vf sum = vzero();
        for (Index j = 0; j < k; ++j)
            sum = vfma(vset(weight[j]), vload(rows + index[j] * dim + i, m), sum);
        vstore(out + i, sum, m);
    }
}

void mix(float* row, Index dim, float keep, float step, const float* direction) {
    const vf k = vset(keep), s = vset(step);
    Index i = 0;
    for (; i + W <= dim; i += W)
        vstore(row + i, vfma(s, vload(direction + i), vmul(k, vload(row + i))));
    if (i < dim) {
        const vf old = vload(row + i, dim - i);
        vstore(row + i, vfma(s, vload(direction + i, dim - i), vmul(k, old)), dim - i);
    }
}

void add_row(const float* row, Index dim, double weight, double* sum) {
    for (Index i = 0; i < dim; ++i) sum[i] += weight * (double)row[i];
}

// Products of two floats are exact in double, so fused or not the sums are the same.
template <int R>
SONA_INLINE void wide_block(const float* const* row, const float* b, Index dim, double* out) {
    vwide wide[R];
    SONA_UNROLL for (int r = 0; r < R; ++r) wide[r] = wzero();
    Index i = 0;
    for (; i + 8 <= dim; i += 8)
        SONA_UNROLL for (int r = 0; r < R; ++r) wide[r] = wfma(row[r] + i, b + i, wide[r]);
    for (int r = 0; r < R; ++r) {
        double sum[8];
        wstore(sum, wide[r]);
        for (Index j = i; j < dim; ++j) sum[j - i] += (double)row[r][j] * b[j];
        out[r] = ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
    }
}

double dot_wide(const float* a, const float* b, Index dim) {
    double product;
    wide_block<1>(&a, b, dim, &product);
    return product;
}

void dots_wide_at(const float* rows, Index dim, const int64_t* index, Index k, const float* query,
                  double* out) {
    for (; k > 0; k -= 4, index += 4, out += 4) {
        const float* row[4];
        double product[4];
        const Index m = k < 4 ? k : 4;
        for (Index r = 0; r < 4; ++r) row[r] = rows + index[r < m ? r : m - 1] * dim;
        wide_block<4>(row, query, dim, product);
        for (Index r = 0; r < m; ++r) out[r] = product[r];
    }
}

double unit(const float* row, Index dim, float* unit) {
    const double length = sqrt(dot_wide(row, row, dim));
    const double inverse = length > 0.0 ? 1.0 / length : 0.0;
    for (Index i = 0; i < dim; ++i) unit[i] = (float)(inverse * row[i]);
    return length;
}

// A float is infinite or NaN exactly when its exponent bits are all set. Integer arithmetic, so
// that the test survives every floating-point flag.
int all_finite(const float* values, Index n) {
    uint32_t bad = 0;
    for (Index i = 0; i < n; ++i) {
        uint32_t bits;
        memcpy(&bits, values + i, 4);
        bad |= (uint32_t)((bits & 0x7f800000u) == 0x7f800000u);
    }
    return bad == 0;
}
}  // namespace

namespace sona {
extern const RowKernels SONA_EXPORT(rows);
const RowKernels SONA_EXPORT(rows) = {dots, dots_at, blend, mix, dot_wide, dots_wide_at,
                                        add_row, unit, all_finite};
}  // namespace sona
