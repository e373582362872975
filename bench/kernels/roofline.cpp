// What this core can do at most: float32 multiply-adds in registers, and bytes read per second.
// Compiled by roofline.py with -O3 -march=native; the vectors are the compiler's own.
#include <stddef.h>
#include <time.h>

#if defined(__AVX512F__)
enum { W = 16, CHAINS = 24 };
#elif defined(__AVX__)
enum { W = 8, CHAINS = 12 };
#else
enum { W = 4, CHAINS = 12 };
#endif
typedef float vf __attribute__((vector_size(W * 4), aligned(4)));

// The thread's own time: what else the machine does in between does not count.
static double now() {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

// Enough independent chains to hide the latency of the multiply-add, few enough for registers.
extern "C" double fma_gflops(long rounds) {
    vf sum[CHAINS], a = {}, b = {};
    a += 0.999f;
    b += 0.001f;
#pragma GCC unroll 24
    for (int c = 0; c < CHAINS; ++c) sum[c] = b * (float)c;
    const double start = now();
    for (long i = 0; i < rounds; ++i) {
#pragma GCC unroll 24
        for (int c = 0; c < CHAINS; ++c) {
            sum[c] = sum[c] * a + b;
            __asm__ volatile("" : "+x"(sum[c]));
        }
    }
    const double seconds = now() - start;
    return 2e-9 * rounds * CHAINS * W / seconds;
}

extern "C" double read_gbytes(const float* data, size_t n, long rounds) {
    vf sum[8];
#pragma GCC unroll 8
    for (int u = 0; u < 8; ++u) sum[u] = vf{};
    const double start = now();
    for (long r = 0; r < rounds; ++r) {
        for (size_t i = 0; i + 8 * W <= n; i += 8 * W)
#pragma GCC unroll 8
            for (int u = 0; u < 8; ++u) sum[u] += *(const vf*)(data + i + u * W);
#pragma GCC unroll 8
        for (int u = 0; u < 8; ++u) __asm__ volatile("" : "+x"(sum[u]));
    }
    const double seconds = now() - start;
    return 4e-9 * n * rounds / seconds;
}
