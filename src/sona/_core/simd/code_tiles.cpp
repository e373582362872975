// Many coded rows against many coded columns, in register tiles as in tiles.cpp.
//
// The multiply-add of bytes wants one side unsigned, so the columns are packed with OFFSET added,
// four consecutive coordinates per 32-bit lane, and each product starts at -OFFSET * sum(row).
// Where products of bytes are added in 16 bits (no VNNI) the columns have 7 bits, so that a pair
// of products cannot saturate: 2 * 127 * 127 < 32768.
#include "../kernels.h"
#include "simd.h"

#if defined(SONA_ISA_AVX512) || defined(SONA_ISA_AVX2)
namespace {
using sona::Index;

#if defined(SONA_ISA_AVX512)
enum { ROWS = 9, VECS = 3 };
typedef __m512i vi;
SONA_INLINE vi iload(const uint8_t* p) { return _mm512_loadu_si512((const void*)p); }
SONA_INLINE vi ifour(int32_t four) { return _mm512_set1_epi32(four); }
SONA_INLINE vf ifloat(vi v) { return _mm512_cvtepi32_ps(v); }
#if defined(SONA_ISA_VNNI)
enum { OFFSET = 128, LIMIT = 127 };
#if defined(_MSC_VER) || defined(SONA_EMULATED)
SONA_INLINE vi imac(vi sum, vi column, vi row) { return _mm512_dpbusd_epi32(sum, column, row); }
#else
// gcc 12 copies the sums around the intrinsic, which costs a factor of 2.
SONA_INLINE vi imac(vi sum, vi column, vi row) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(column), "v"(row));
    return sum;
}
#endif
#else
enum { OFFSET = 64, LIMIT = 63 };
SONA_INLINE vi imac(vi sum, vi column, vi row) {
    const vi pairs = _mm512_maddubs_epi16(column, row);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
#endif
#else
enum { ROWS = 5, VECS = 2, OFFSET = 64, LIMIT = 63 };
typedef __m256i vi;
SONA_INLINE vi iload(const uint8_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
SONA_INLINE vi ifour(int32_t four) { return _mm256_set1_epi32(four); }
SONA_INLINE vf ifloat(vi v) { return _mm256_cvtepi32_ps(v); }
SONA_INLINE vi imac(vi sum, vi column, vi row) {
    const vi pairs = _mm256_maddubs_epi16(column, row);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#endif
enum { LANES = VECS * W };

// One bit per lane in which a >= b, and the place of the lowest one.
#if defined(SONA_ISA_AVX512)
SONA_INLINE uint32_t reaching(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
#else
SONA_INLINE uint32_t reaching(vf a, vf b) {
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ));
}
#endif
#if defined(_MSC_VER)
SONA_INLINE int lowest(uint32_t bits) {
    unsigned long place;
    _BitScanForward(&place, bits);
    return (int)place;
}
#else
SONA_INLINE int lowest(uint32_t bits) { return __builtin_ctz(bits); }
#endif

// The largest block of rows that `products` is given at a time.
enum { BLOCK = 16 * ROWS };

int32_t total(const int8_t* codes, Index width) {
    int32_t sum = 0;
    for (Index i = 0; i < width; ++i) sum += codes[i];
    return sum;
}

void products(const int8_t* codes, const int64_t* rows, Index n, Index width,
              const uint8_t* panels, Index n_panels, const float* scales, float* out) {
    int32_t start[BLOCK];
    for (Index r = 0; r < n; ++r) start[r] = -OFFSET * total(codes + rows[r] * width, width);
    const Index columns = n_panels * LANES;
    for (Index p = 0; p < n_panels; ++p) {
        for (Index i = 0; i < n; i += ROWS) {
            const int8_t* row[ROWS];
            vi sum[ROWS][VECS];
            // A tile that hangs over the end repeats the last row.
            SONA_UNROLL for (int r = 0; r < ROWS; ++r) {
                const Index own = i + r < n ? i + r : n - 1;
                row[r] = codes + rows[own] * width;
                const vi bias = ifour(start[own]);
                SONA_UNROLL for (int v = 0; v < VECS; ++v) sum[r][v] = bias;
            }
            const uint8_t* panel = panels + p * LANES * width;
            for (Index j = 0; j < width; j += 4, panel += 4 * LANES) {
                vi column[VECS];
                SONA_UNROLL for (int v = 0; v < VECS; ++v) column[v] = iload(panel + v * 4 * W);
                SONA_UNROLL for (int r = 0; r < ROWS; ++r) {
                    int32_t four;
                    memcpy(&four, row[r] + j, 4);
                    const vi x = ifour(four);
                    SONA_UNROLL for (int v = 0; v < VECS; ++v)
                        sum[r][v] = imac(sum[r][v], column[v], x);
                }
            }
            SONA_UNROLL for (int v = 0; v < VECS; ++v) {
                const vf scale = vload(scales + p * LANES + v * W);
                SONA_UNROLL for (int r = 0; r < ROWS; ++r)
                    if (i + r < n)
                        vstore(out + (i + r) * columns + p * LANES + v * W,
                               vmul(ifloat(sum[r][v]), scale));
            }
        }
    }
}

Index near_best(const float* values, Index k, float margin, float floor, int32_t* hits) {
    vf top = vset(values[0]);
    Index j = 0;
    for (; j + W <= k; j += W) top = vmax(top, vload(values + j));
    float best = vtop(top);
    for (; j < k; ++j) best = values[j] > best ? values[j] : best;
    const float least = best - margin > floor ? best - margin : floor;
    const vf below = vset(least);
    Index found = 0;
    for (j = 0; j + W <= k; j += W)
        for (uint32_t lanes = reaching(vload(values + j), below); lanes; lanes &= lanes - 1)
            hits[found++] = (int32_t)(j + lowest(lanes));
    for (; j < k; ++j)
        if (values[j] >= least) hits[found++] = (int32_t)j;
    return found;
}

Index above(const float* values, Index n, float scale, float error, const float* by_error,
            const float* thresholds, int32_t* hits) {
    const vf s = vset(scale), e = vset(error);
    Index found = 0;
    for (Index j = 0; j < n; j += W) {
        const vf upper = vfma(e, vload(by_error + j), vmul(s, vload(values + j)));
        for (uint32_t lanes = reaching(upper, vload(thresholds + j)); lanes; lanes &= lanes - 1)
            hits[found++] = (int32_t)(j + lowest(lanes));
    }
    return found;
}
}  // namespace

namespace sona {
extern const CodeTileKernels SONA_EXPORT(code_tiles);
const CodeTileKernels SONA_EXPORT(code_tiles) = {LANES,    BLOCK,     OFFSET, LIMIT,
                                                 products, near_best, above};
}  // namespace sona
#else
// Nothing is gained without a multiply-add of bytes; no lanes says so.
namespace sona {
extern const CodeTileKernels SONA_EXPORT(code_tiles);
const CodeTileKernels SONA_EXPORT(code_tiles) = {0, 0, 0, 0, nullptr, nullptr, nullptr};
}  // namespace sona
#endif
