// AVX-512 for machines without it: SIMDe, and the few intrinsics that it lacks. Slow, and only for
// running the kernel tests: pip install . -C cmake.define.SONA_EMULATE_AVX512=ON
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx2.h>
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>

static inline __m512 emulated_maskz_loadu_ps(__mmask16 mask, const float* p) {
    float t[16];
    for (int i = 0; i < 16; ++i) t[i] = mask >> i & 1 ? p[i] : 0.0f;
    return _mm512_loadu_ps(t);
}

static inline void emulated_mask_storeu_ps(float* p, __mmask16 mask, __m512 v) {
    float t[16];
    _mm512_storeu_ps(t, v);
    for (int i = 0; i < 16; ++i)
        if (mask >> i & 1) p[i] = t[i];
}

static inline float emulated_reduce_add_ps(__m512 v) {
    float t[16];
    _mm512_storeu_ps(t, v);
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; ++i) t[i] += t[i + half];
    return t[0];
}

static inline float emulated_reduce_max_ps(__m512 v) {
    float t[16];
    _mm512_storeu_ps(t, v);
    for (int i = 1; i < 16; ++i) t[0] = t[i] > t[0] ? t[i] : t[0];
    return t[0];
}

static inline int emulated_reduce_add_epi32(__m512i v) {
    int t[16];
    _mm512_storeu_si512(t, v);
    for (int i = 1; i < 16; ++i) t[0] += t[i];
    return t[0];
}

static inline __m512 emulated_cvtepi32_ps(__m512i v) {
    int t[16];
    float f[16];
    _mm512_storeu_si512(t, v);
    for (int i = 0; i < 16; ++i) f[i] = (float)t[i];
    return _mm512_loadu_ps(f);
}

static inline __m512d emulated_cvtps_pd(__m256 v) {
    float f[8];
    double d[8];
    _mm256_storeu_ps(f, v);
    for (int i = 0; i < 8; ++i) d[i] = f[i];
    return _mm512_loadu_pd(d);
}

#define _mm512_maskz_loadu_ps emulated_maskz_loadu_ps
#define _mm512_mask_storeu_ps emulated_mask_storeu_ps
#define _mm512_reduce_add_ps emulated_reduce_add_ps
#define _mm512_reduce_max_ps emulated_reduce_max_ps
#define _mm512_reduce_add_epi32 emulated_reduce_add_epi32
#undef _mm512_cvtepi32_ps
#define _mm512_cvtepi32_ps emulated_cvtepi32_ps
#undef _mm512_cvtps_pd
#define _mm512_cvtps_pd emulated_cvtps_pd
// SIMDe 0.7 gives this one the arguments of its masked form.
#undef _mm512_madd_epi16
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)
