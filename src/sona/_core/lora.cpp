// Applying a low-rank adapter, to float32 and to 16-bit rows.
#include <vector>

#include "core.h"
#include "panels.h"

namespace sona {

namespace {
const Index STACK_RANK = 64;
}  // namespace

Index lora_apply(const float* weights, Index dim, Index rank, float scaling, const float* x,
                 Index n, float* y) noexcept {
    const LoraKernels& lora = *active().lora;
    float on_stack[2 * STACK_RANK];
    std::vector<float> on_heap((size_t)(rank > STACK_RANK ? 2 * rank : 0));
    float* hidden = rank > STACK_RANK ? on_heap.data() : on_stack;
    for (Index i = 0;; ++i) {
        i += lora.apply(weights, dim, rank, scaling, x + i * dim, n - i, y + i * dim, hidden);
        if (i == n || !active().rows->all_finite(x + i * dim, dim)) return i;
        // This row or its neighbour is finite and overflows on the way; that is its own result.
        lora.project(weights, dim, rank, x + i * dim, 1, hidden);
        for (Index j = 0; j < rank; ++j) hidden[j] *= scaling;
        lora.expand(weights, dim, rank, hidden, x + i * dim, 1, y + i * dim);
    }
}

Index lora_apply_over(const float* weights, Index dim, Index rank, float scaling, const float* x,
                      Index n, float* y) noexcept {
    if (n == 1) return lora_apply(weights, dim, rank, scaling, x, n, y);
    const LoraKernels& lora = *active().lora;
    const Block<float> block(n * rank);
    float* hidden = block.get();
    if (!hidden) return -1;
    lora.project(weights, dim, rank, x, n, hidden);
    for (Index i = 0; i < n; ++i) {
        float probe = 0.0f;
        for (Index j = 0; j < rank; ++j) {
            probe += hidden[i * rank + j] * 0.0f;
            hidden[i * rank + j] *= scaling;
        }
        if (probe != 0.0f && !active().rows->all_finite(x + i * dim, dim)) return i;
    }
    lora.expand(weights, dim, rank, hidden, x, n, y);
    return n;
}

Index lora_apply_bits(const float* weights, Index dim, Index rank, float scaling, int format,
                      const uint16_t* x, Index n, uint16_t* y) noexcept {
    const HalfKernels& half = *active().half;
    // As many rows as the kernel takes at a time: they stay in L1 between widening and narrowing.
    const Index TILE = 4;
    const Block<float> wide(TILE * dim);
    if (!wide.get()) return -1;
    for (Index i = 0; i < n; ++i)
        if (!half.all_finite[format](x + i * dim, dim)) return i;
    for (Index i = 0; i < n; i += TILE) {
        const Index m = n - i < TILE ? n - i : TILE;
        half.widen[format](x + i * dim, m * dim, wide.get());
        lora_apply(weights, dim, rank, scaling, wide.get(), m, wide.get());
        half.narrow[format](wide.get(), m * dim, y + i * dim);
    }
    return n;
}

}  // namespace sona
