// One vector type per instruction set and the dozen operations that the kernels are written in.
//
// Everything is in an anonymous namespace: an inline function with external linkage that is
// compiled under two sets of flags may be merged by the linker into the wrong one.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(_MSC_VER)
#define SONA_INLINE static __forceinline
#define SONA_UNROLL
#else
#define SONA_INLINE static inline __attribute__((always_inline))
#define SONA_UNROLL _Pragma("GCC unroll 16")
#endif

#define SONA_JOIN2(a, b) a##_##b
#define SONA_JOIN(a, b) SONA_JOIN2(a, b)
#define SONA_EXPORT(family) SONA_JOIN(family, SONA_ISA)

#if defined(SONA_ISA_AVX512)
#include <immintrin.h>
namespace {
typedef __m512 vf;
enum { W = 16 };
SONA_INLINE __mmask16 first(ptrdiff_t n) { return (__mmask16)((1u << n) - 1u); }
SONA_INLINE vf vzero() { return _mm512_setzero_ps(); }
SONA_INLINE vf vset(float x) { return _mm512_set1_ps(x); }
SONA_INLINE vf vload(const float* p) { return _mm512_loadu_ps(p); }
SONA_INLINE vf vload(const float* p, ptrdiff_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
SONA_INLINE void vstore(float* p, vf v) { _mm512_storeu_ps(p, v); }
SONA_INLINE void vstore(float* p, vf v, ptrdiff_t n) { _mm512_mask_storeu_ps(p, first(n), v); }
SONA_INLINE vf vadd(vf a, vf b) { return _mm512_add_ps(a, b); }
SONA_INLINE vf vmul(vf a, vf b) { return _mm512_mul_ps(a, b); }
SONA_INLINE vf vfma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
SONA_INLINE float vsum(vf v) { return _mm512_reduce_add_ps(v); }
}  // namespace

#elif defined(SONA_ISA_AVX2)
#include <immintrin.h>
namespace {
typedef __m256 vf;
enum { W = 8 };
SONA_INLINE __m256i first(ptrdiff_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
SONA_INLINE vf vzero() { return _mm256_setzero_ps(); }
SONA_INLINE vf vset(float x) { return _mm256_set1_ps(x); }
SONA_INLINE vf vload(const float* p) { return _mm256_loadu_ps(p); }
SONA_INLINE vf vload(const float* p, ptrdiff_t n) { return _mm256_maskload_ps(p, first(n)); }
SONA_INLINE void vstore(float* p, vf v) { _mm256_storeu_ps(p, v); }
SONA_INLINE void vstore(float* p, vf v, ptrdiff_t n) { _mm256_maskstore_ps(p, first(n), v); }
SONA_INLINE vf vadd(vf a, vf b) { return _mm256_add_ps(a, b); }
SONA_INLINE vf vmul(vf a, vf b) { return _mm256_mul_ps(a, b); }
SONA_INLINE vf vfma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
SONA_INLINE float vsum(vf v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
}  // namespace

#elif defined(SONA_ISA_NEON)
#include <arm_neon.h>
namespace {
typedef float32x4_t vf;
enum { W = 4 };
SONA_INLINE vf vzero() { return vdupq_n_f32(0.0f); }
SONA_INLINE vf vset(float x) { return vdupq_n_f32(x); }
SONA_INLINE vf vload(const float* p) { return vld1q_f32(p); }
SONA_INLINE vf vload(const float* p, ptrdiff_t n) {
    float t[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (ptrdiff_t i = 0; i < n; ++i) t[i] = p[i];
    return vld1q_f32(t);
}
SONA_INLINE void vstore(float* p, vf v) { vst1q_f32(p, v); }
SONA_INLINE void vstore(float* p, vf v, ptrdiff_t n) {
    float t[4];
    vst1q_f32(t, v);
    for (ptrdiff_t i = 0; i < n; ++i) p[i] = t[i];
}
SONA_INLINE vf vadd(vf a, vf b) { return vaddq_f32(a, b); }
SONA_INLINE vf vmul(vf a, vf b) { return vmulq_f32(a, b); }
SONA_INLINE vf vfma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
SONA_INLINE float vsum(vf v) { return vaddvq_f32(v); }
}  // namespace

#else
namespace {
// Plain C++ on every machine: four lanes that any compiler maps to what it has, no intrinsics.
struct vf {
    float lane[4];
};
enum { W = 4 };
SONA_INLINE vf vset(float x) { return vf{{x, x, x, x}}; }
SONA_INLINE vf vzero() { return vset(0.0f); }
SONA_INLINE vf vload(const float* p) { return vf{{p[0], p[1], p[2], p[3]}}; }
SONA_INLINE vf vload(const float* p, ptrdiff_t n) {
    vf v = vzero();
    for (ptrdiff_t i = 0; i < n; ++i) v.lane[i] = p[i];
    return v;
}
SONA_INLINE void vstore(float* p, vf v) {
    for (int i = 0; i < 4; ++i) p[i] = v.lane[i];
}
SONA_INLINE void vstore(float* p, vf v, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; ++i) p[i] = v.lane[i];
}
SONA_INLINE vf vadd(vf a, vf b) {
    for (int i = 0; i < 4; ++i) a.lane[i] += b.lane[i];
    return a;
}
SONA_INLINE vf vmul(vf a, vf b) {
    for (int i = 0; i < 4; ++i) a.lane[i] *= b.lane[i];
    return a;
}
SONA_INLINE vf vfma(vf a, vf b, vf c) {
    for (int i = 0; i < 4; ++i) c.lane[i] += a.lane[i] * b.lane[i];
    return c;
}
SONA_INLINE float vsum(vf v) { return (v.lane[0] + v.lane[2]) + (v.lane[1] + v.lane[3]); }
}  // namespace
#endif
