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

#if defined(_MSC_VER) && (defined(_M_X64) || defined(_M_IX86))
#include <xmmintrin.h>
#define SONA_PREFETCH(p) _mm_prefetch((const char*)(p), _MM_HINT_T0)
#elif defined(_MSC_VER)
#define SONA_PREFETCH(p) ((void)(p))
#else
#define SONA_PREFETCH(p) __builtin_prefetch(p)
#endif

#define SONA_JOIN2(a, b) a##_##b
#define SONA_JOIN(a, b) SONA_JOIN2(a, b)
#define SONA_EXPORT(family) SONA_JOIN(family, SONA_ISA)

#if defined(SONA_ISA_AVX512)
#if defined(SONA_EMULATED)
// Stands in for AVX-512 in tests (CMake option SONA_EMULATE_AVX512).
#include "avx512.h"
#else
#include <immintrin.h>
#endif
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
SONA_INLINE vf vsub(vf a, vf b) { return _mm512_sub_ps(a, b); }
SONA_INLINE vf vmul(vf a, vf b) { return _mm512_mul_ps(a, b); }
SONA_INLINE vf vfma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
SONA_INLINE float vsum(vf v) { return _mm512_reduce_add_ps(v); }
// Eight sums in double, for which every instruction set has the same order.
struct vwide {
    __m512d sum;
};
SONA_INLINE vwide wzero() { return vwide{_mm512_setzero_pd()}; }
SONA_INLINE vwide wfma(const float* a, const float* b, vwide w) {
    const __m512d p = _mm512_cvtps_pd(_mm256_loadu_ps(a)), q = _mm512_cvtps_pd(_mm256_loadu_ps(b));
    return vwide{_mm512_fmadd_pd(p, q, w.sum)};
}
SONA_INLINE void wstore(double* p, vwide w) { _mm512_storeu_pd(p, w.sum); }
SONA_INLINE vf vmax(vf a, vf b) { return _mm512_max_ps(a, b); }
SONA_INLINE float vtop(vf v) { return _mm512_reduce_max_ps(v); }
SONA_INLINE int vany_above(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0; }
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
SONA_INLINE vf vsub(vf a, vf b) { return _mm256_sub_ps(a, b); }
SONA_INLINE vf vmul(vf a, vf b) { return _mm256_mul_ps(a, b); }
SONA_INLINE vf vfma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
SONA_INLINE float vsum(vf v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
struct vwide {
    __m256d low, high;
};
SONA_INLINE vwide wzero() { return vwide{_mm256_setzero_pd(), _mm256_setzero_pd()}; }
SONA_INLINE vwide wfma(const float* a, const float* b, vwide w) {
    const __m256d p = _mm256_cvtps_pd(_mm_loadu_ps(a)), q = _mm256_cvtps_pd(_mm_loadu_ps(b));
    const __m256d r = _mm256_cvtps_pd(_mm_loadu_ps(a + 4)), s = _mm256_cvtps_pd(_mm_loadu_ps(b + 4));
    return vwide{_mm256_fmadd_pd(p, q, w.low), _mm256_fmadd_pd(r, s, w.high)};
}
SONA_INLINE void wstore(double* p, vwide w) {
    _mm256_storeu_pd(p, w.low);
    _mm256_storeu_pd(p + 4, w.high);
}
SONA_INLINE vf vmax(vf a, vf b) { return _mm256_max_ps(a, b); }
SONA_INLINE float vtop(vf v) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
SONA_INLINE int vany_above(vf a, vf b) {
    return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ));
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
SONA_INLINE vf vsub(vf a, vf b) { return vsubq_f32(a, b); }
SONA_INLINE vf vmul(vf a, vf b) { return vmulq_f32(a, b); }
SONA_INLINE vf vfma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
SONA_INLINE float vsum(vf v) { return vaddvq_f32(v); }
SONA_INLINE vf vmax(vf a, vf b) { return vmaxq_f32(a, b); }
SONA_INLINE float vtop(vf v) { return vmaxvq_f32(v); }
SONA_INLINE int vany_above(vf a, vf b) { return vmaxvq_u32(vcgtq_f32(a, b)) != 0; }
}  // namespace

#else
namespace {
// Every other machine: four lanes, no intrinsics. A vector type where the compiler has one, since
// compilers do not see through an array of four in a register tile.
#if defined(__GNUC__)
typedef float four __attribute__((vector_size(16)));
#else
struct four {
    float at[4];
    float& operator[](int i) { return at[i]; }
    float operator[](int i) const { return at[i]; }
};
#endif
struct vf {
    four lane;
};
enum { W = 4 };
SONA_INLINE vf vload(const float* p) {
    vf v;
    memcpy(&v, p, sizeof(v));
    return v;
}
SONA_INLINE vf vset(float x) {
    const float all[4] = {x, x, x, x};
    return vload(all);
}
SONA_INLINE vf vzero() { return vset(0.0f); }
SONA_INLINE vf vload(const float* p, ptrdiff_t n) {
    vf v = vzero();
    for (ptrdiff_t i = 0; i < n; ++i) v.lane[i] = p[i];
    return v;
}
SONA_INLINE void vstore(float* p, vf v) { memcpy(p, &v, sizeof(v)); }
SONA_INLINE void vstore(float* p, vf v, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; ++i) p[i] = v.lane[i];
}
#if defined(__GNUC__)
SONA_INLINE vf vadd(vf a, vf b) { return vf{a.lane + b.lane}; }
SONA_INLINE vf vsub(vf a, vf b) { return vf{a.lane - b.lane}; }
SONA_INLINE vf vmul(vf a, vf b) { return vf{a.lane * b.lane}; }
SONA_INLINE vf vfma(vf a, vf b, vf c) { return vf{c.lane + a.lane * b.lane}; }
#else
SONA_INLINE vf vadd(vf a, vf b) {
    for (int i = 0; i < 4; ++i) a.lane[i] += b.lane[i];
    return a;
}
SONA_INLINE vf vsub(vf a, vf b) {
    for (int i = 0; i < 4; ++i) a.lane[i] -= b.lane[i];
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
#endif
SONA_INLINE float vsum(vf v) { return (v.lane[0] + v.lane[2]) + (v.lane[1] + v.lane[3]); }
SONA_INLINE vf vmax(vf a, vf b) {
    for (int i = 0; i < 4; ++i) a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
}
SONA_INLINE float vtop(vf v) {
    for (int i = 1; i < 4; ++i) v.lane[0] = v.lane[0] > v.lane[i] ? v.lane[0] : v.lane[i];
    return v.lane[0];
}
SONA_INLINE int vany_above(vf a, vf b) {
    int any = 0;
    for (int i = 0; i < 4; ++i) any |= a.lane[i] > b.lane[i];
    return any;
}
}  // namespace
#endif

#if !defined(SONA_ISA_AVX512) && !defined(SONA_ISA_AVX2)
namespace {
struct vwide {
    double lane[8];
};
SONA_INLINE vwide wzero() { return vwide{{0, 0, 0, 0, 0, 0, 0, 0}}; }
SONA_INLINE vwide wfma(const float* a, const float* b, vwide w) {
    for (int u = 0; u < 8; ++u) w.lane[u] += (double)a[u] * b[u];
    return w;
}
SONA_INLINE void wstore(double* p, vwide w) { memcpy(p, w.lane, sizeof(w.lane)); }
}  // namespace
#endif

namespace {
// The largest of N * W values.
template <int N>
SONA_INLINE float vmaximum(const float* p) {
    vf top = vload(p);
    SONA_UNROLL for (int v = 1; v < N; ++v) top = vmax(top, vload(p + v * W));
    return vtop(top);
}

// Is any of N * W values above the one it is compared with?
template <int N>
SONA_INLINE int vexceeds(const float* p, const float* q) {
    int any = 0;
    SONA_UNROLL for (int v = 0; v < N; ++v) any |= vany_above(vload(p + v * W), vload(q + v * W));
    return any;
}
}  // namespace
