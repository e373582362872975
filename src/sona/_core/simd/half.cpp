// 16-bit storage of float32 rows: IEEE half precision and bfloat16, rounded to nearest even.
#include "../kernels.h"
#include "simd.h"

#if defined(SONA_ISA_AVX2)
#include <immintrin.h>
#endif

namespace {
using sona::Index;

SONA_INLINE uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

SONA_INLINE float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

SONA_INLINE float widen_half(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16, rest = half & 0x7fffu;
    // The exponents differ by 112; multiplying moves them and makes denormals normal.
    const float magnitude = float_of(rest << 13) * float_of(0x77800000u);
    const uint32_t bits = rest >= 0x7c00u ? 0x7f800000u | (rest & 0x3ffu) << 13 : bits_of(magnitude);
    return float_of(bits | sign);
}

SONA_INLINE uint16_t narrow_half(float x) {
    const uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
    uint32_t half;
    if (rest > 0x7f800000u) {
        half = 0x7e00u;
    } else if (rest >= 0x477ff000u) {
        half = 0x7c00u;
    } else if (rest < 0x38800000u) {
        // Adding 0.5 leaves the denormal, rounded, in the last bits of the mantissa.
        half = bits_of(float_of(rest) + 0.5f) - 0x3f000000u;
    } else {
        half = (rest - 0x38000000u + 0xfffu + (rest >> 13 & 1u)) >> 13;
    }
    return (uint16_t)(half | sign);
}

void from_half(const uint16_t* from, Index n, float* to) {
    Index i = 0;
#if defined(SONA_ISA_AVX2) || (defined(SONA_ISA_AVX512) && !defined(SONA_EMULATED))
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(from + i))));
#elif defined(SONA_ISA_NEON)
    for (; i + 4 <= n; i += 4)
        vst1q_f32(to + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from + i))));
#endif
    for (; i < n; ++i) to[i] = widen_half(from[i]);
}

void to_half(const float* from, Index n, uint16_t* to) {
    Index i = 0;
#if defined(SONA_ISA_AVX2) || (defined(SONA_ISA_AVX512) && !defined(SONA_EMULATED))
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i*)(to + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
#elif defined(SONA_ISA_NEON)
    for (; i + 4 <= n; i += 4)
        vst1_u16(to + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(from + i))));
#endif
    for (; i < n; ++i) to[i] = narrow_half(from[i]);
}

void from_bfloat(const uint16_t* from, Index n, float* to) {
    for (Index i = 0; i < n; ++i) to[i] = float_of((uint32_t)from[i] << 16);
}

void to_bfloat(const float* from, Index n, uint16_t* to) {
    for (Index i = 0; i < n; ++i) {
        const uint32_t bits = bits_of(from[i]);
        const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
        // Rounding must not carry a NaN into an infinity.
        to[i] = (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? bits >> 16 | 0x40u : rounded);
    }
}

// A value is infinite or NaN exactly when the bits of its exponent are all set.
template <uint16_t EXPONENT>
int all_finite(const uint16_t* values, Index n) {
    int bad = 0;
    for (Index i = 0; i < n; ++i) bad |= (values[i] & EXPONENT) == EXPONENT;
    return !bad;
}
}  // namespace

namespace sona {
extern const HalfKernels SONA_EXPORT(half);
const HalfKernels SONA_EXPORT(half) = {{from_half, from_bfloat},
                                          {to_half, to_bfloat},
                                          {all_finite<0x7c00>, all_finite<0x7f80>}};
}  // namespace sona
