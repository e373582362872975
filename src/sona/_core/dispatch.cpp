// Asks the CPU once what it has and keeps the table of kernels that fits.
#include <atomic>

#include "core.h"

#if defined(SONA_X86)
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

namespace sona {

#define SONA_TABLE(isa)                            \
    extern const LoraKernels lora_##isa;           \
    extern const RowKernels rows_##isa;            \
    extern const BankKernels bank_##isa;           \
    extern const TileKernels tiles_##isa;          \
    extern const CodeKernels codes_##isa;          \
    extern const CodeTileKernels code_tiles_##isa; \
    extern const HalfKernels half_##isa;           \
    static const Kernels table_##isa = {                                    \
        #isa,         &lora_##isa,  &rows_##isa,       &bank_##isa,          \
        &tiles_##isa, &codes_##isa, &code_tiles_##isa, &half_##isa};

SONA_TABLE(baseline)
#if defined(SONA_X86)
SONA_TABLE(avx2)
SONA_TABLE(avx512)
SONA_TABLE(avx512vnni)
#elif defined(SONA_ARM64)
SONA_TABLE(neon)
#endif

namespace {

#if defined(SONA_X86)
struct Registers {
    uint32_t a, b, c, d;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) {
    Registers r = {0, 0, 0, 0};
#if defined(_MSC_VER)
    int out[4];
    __cpuidex(out, (int)leaf, (int)subleaf);
    r = {(uint32_t)out[0], (uint32_t)out[1], (uint32_t)out[2], (uint32_t)out[3]};
#else
    __get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d);
#endif
    return r;
}

// Which register files the operating system saves; asking needs OSXSAVE.
uint64_t saved_state() {
#if defined(_MSC_VER)
    return _xgetbv(0);
#else
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((uint64_t)high << 32) | low;
#endif
}

bool all_bits(uint64_t value, uint64_t bits) { return (value & bits) == bits; }
#endif

struct Capabilities {
    const Kernels* table[4];
    int count;

    Capabilities() : count(0) {
        table[count++] = &table_baseline;
#if defined(SONA_X86)
        const Registers one = cpuid(1, 0);
        const uint32_t osxsave = 1u << 27, avx = 1u << 28, fma = 1u << 12, f16c = 1u << 29;
        if (!all_bits(one.c, osxsave | avx | fma | f16c)) return;
        const uint64_t saved = saved_state();
        const Registers seven = cpuid(7, 0);
        const uint64_t ymm = 0x06, zmm = 0xe6;
        const uint32_t avx2 = 1u << 5;
        if (!all_bits(saved, ymm) || !all_bits(seven.b, avx2)) return;
        table[count++] = &table_avx2;
#if defined(SONA_EMULATED)
        table[count++] = &table_avx512;
        table[count++] = &table_avx512vnni;
        return;
#endif
        const uint32_t f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31;
        if (!all_bits(saved, zmm) || !all_bits(seven.b, f | dq | bw | vl)) return;
        table[count++] = &table_avx512;
        const uint32_t vnni = 1u << 11;  // not implied by any of the above
        if (all_bits(seven.c, vnni)) table[count++] = &table_avx512vnni;
#elif defined(SONA_ARM64)
        table[count++] = &table_neon;
#endif
    }
};

const Capabilities present;
std::atomic<const Kernels*> current(present.table[present.count - 1]);

}  // namespace

int capability_count() { return present.count; }
const char* capability_name(int i) { return present.table[i]->name; }

int capability_active() {
    int i = 0;
    while (present.table[i] != current.load(std::memory_order_relaxed)) ++i;
    return i;
}

void capability_activate(int i) { current.store(present.table[i]); }
const Kernels& active() { return *current.load(std::memory_order_relaxed); }

}  // namespace sona
