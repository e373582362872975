// Products of 8-bit codes in [-127, 127].
#include <math.h>

#include "../kernels.h"
#include "simd.h"

namespace {
using sona::Index;

// A step of STEP codes: `vq` is what is kept of the query, `vi` the running sums.
#if defined(SONA_ISA_AVX512) && defined(SONA_ISA_VNNI)
enum { STEP = 64, OFFSET = 128 };
typedef __m512i vi;
typedef __m512i vq;
SONA_INLINE vi izero() { return _mm512_setzero_si512(); }
SONA_INLINE vq iquery(const int8_t* q) { return _mm512_loadu_si512((const void*)q); }
// One side must be unsigned: flipping the sign bit adds 128 to every code of the row, and so
// OFFSET * sum(query) to every product, which the caller takes off.
SONA_INLINE vi imul(vi sum, const int8_t* row, vq q) {
    const vi shifted = _mm512_xor_si512(_mm512_loadu_si512((const void*)row),
                                        _mm512_set1_epi8((char)0x80));
    return _mm512_dpbusd_epi32(sum, shifted, q);
}
SONA_INLINE int32_t isum(vi v) { return _mm512_reduce_add_epi32(v); }
#elif defined(SONA_ISA_AVX2) || defined(SONA_ISA_AVX512)
enum { STEP = 32, OFFSET = 0 };
typedef __m256i vi;
typedef struct {
    __m256i size, sign;
} vq;
SONA_INLINE vi izero() { return _mm256_setzero_si256(); }
SONA_INLINE vq iquery(const int8_t* q) {
    const __m256i v = _mm256_loadu_si256((const __m256i*)q);
    return vq{_mm256_abs_epi8(v), v};
}
// |q| * sign(q) row: two products of 127 * 127 fit 16 bits, so nothing saturates.
SONA_INLINE vi imul(vi sum, const int8_t* row, vq q) {
    const vi r = _mm256_sign_epi8(_mm256_loadu_si256((const __m256i*)row), q.sign);
    const vi pairs = _mm256_maddubs_epi16(q.size, r);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
SONA_INLINE int32_t isum(vi v) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
#elif defined(SONA_ISA_NEON)
enum { STEP = 16, OFFSET = 0 };
typedef int32x4_t vi;
typedef int8x16_t vq;
SONA_INLINE vi izero() { return vdupq_n_s32(0); }
SONA_INLINE vq iquery(const int8_t* q) { return vld1q_s8(q); }
SONA_INLINE vi imul(vi sum, const int8_t* row, vq q) {
    const int8x16_t r = vld1q_s8(row);
    const int16x8_t low = vmull_s8(vget_low_s8(r), vget_low_s8(q));
    return vpadalq_s16(vpadalq_s16(sum, low), vmull_high_s8(r, q));
}
SONA_INLINE int32_t isum(vi v) { return vaddvq_s32(v); }
#else
enum { STEP = 16, OFFSET = 0 };
typedef int32_t vi;
typedef const int8_t* vq;
SONA_INLINE vi izero() { return 0; }
SONA_INLINE vq iquery(const int8_t* q) { return q; }
SONA_INLINE vi imul(vi sum, const int8_t* row, vq q) {
    for (int i = 0; i < STEP; ++i) sum += (int32_t)row[i] * q[i];
    return sum;
}
SONA_INLINE int32_t isum(vi v) { return v; }
#endif

sona::CodeBounds encode(const float* row, Index dim, int limit, int8_t* codes) {
    vf top = vzero();
    for (Index i = 0; i < dim; i += W) {
        const vf x = dim - i < W ? vload(row + i, dim - i) : vload(row + i);
        top = vmax(top, vmax(x, vsub(vzero(), x)));
    }
    const float rough = vtop(top) / (float)limit;
    // A row of denormals has no usable inverse; it keeps scale 0 and loses all of itself.
    const float inverse = rough > 1e-30f ? 1.0f / rough : 0.0f;
    const float scale = rough > 1e-30f ? rough : 0.0f;
    // Adding and taking off 1.5 * 2^23 rounds to the nearest integer.
    const vf by = vset(inverse), s = vset(scale), magic = vset(12582912.0f);
    vf lost = vzero();
    for (Index i = 0; i < dim; i += W) {
        const Index n = dim - i < W ? dim - i : W;
        const vf x = n < W ? vload(row + i, n) : vload(row + i);
        const vf code = vsub(vadd(vmul(x, by), magic), magic);
        const vf difference = vsub(x, vmul(s, code));
        lost = vfma(difference, difference, lost);
        float rounded[W];
        vstore(rounded, code);
        for (Index lane = 0; lane < n; ++lane) codes[i + lane] = (int8_t)rounded[lane];
    }
    // The differences carry a rounding of float32 each, far below the 1e-6 that is added here for
    // rows of length 1.
    return {scale, sqrtf(vsum(lost)) * 1.0001f + 1e-6f};
}

// Codes that are a multiple of every STEP.
enum { LINE = 64 };

// Products with R rows that lie `apart`.
template <int R>
SONA_INLINE void dots_block(const int8_t* codes, Index apart, Index width, const int8_t* query,
                            int32_t excess, int32_t* out, Index out_apart) {
    vi sum[R];
    SONA_UNROLL for (int r = 0; r < R; ++r) sum[r] = izero();
    for (Index i = 0; i < width; i += LINE)
        SONA_UNROLL for (int u = 0; u < LINE; u += STEP) {
            const vq q = iquery(query + i + u);
            SONA_UNROLL for (int r = 0; r < R; ++r) sum[r] = imul(sum[r], codes + r * apart + i + u, q);
        }
    SONA_UNROLL for (int r = 0; r < R; ++r) out[r * out_apart] = isum(sum[r]) - excess;
}

// The rows are read as four streams: the hardware follows one only to the end of its page, and
// four of them keep DRAM busy while it finds the next.
void dots(const int8_t* codes, Index n, Index width, const int8_t* query, int32_t* out) {
    int32_t excess = 0;
    for (Index i = 0; OFFSET && i < width; ++i) excess += OFFSET * query[i];
    const Index quarter = n / 4;
    for (Index i = 0; i < quarter; ++i)
        dots_block<4>(codes + i * width, quarter * width, width, query, excess, out + i, quarter);
    for (Index i = 4 * quarter; i < n; ++i)
        dots_block<1>(codes + i * width, width, width, query, excess, out + i, 1);
}
}  // namespace

namespace sona {
extern const CodeKernels SONA_EXPORT(codes);
const CodeKernels SONA_EXPORT(codes) = {encode, dots};
}  // namespace sona
