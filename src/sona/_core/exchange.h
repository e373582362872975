// Tensors of other libraries in place, through the DLPack C exchange (DLPack 1.3 and later).
//
// A library that takes part hangs a table of functions on its tensor type, as the capsule
// `__dlpack_c_exchange_api__`. Through it a tensor is looked at and a new one made in a fraction
// of what the same costs in Python. Only what is used of the interface is declared here; layouts
// are DLPack's and must not change.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <atomic>

namespace sona {

struct TensorView {
    void *data;
    int32_t device, device_id;
    int32_t ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;
};

struct OwnedTensor {
    uint32_t major, minor;
    void *owner;
    void (*release)(OwnedTensor *);
    uint64_t flags;
    TensorView view;
};

struct Exchange {
    uint32_t major, minor;
    void *older;
    void *allocate;
    void *own;
    int (*give)(OwnedTensor *tensor, void **out);
    int (*look)(void *tensor, TensorView *out);
    void *stream;
};

// What the kernels take: on the CPU, dense, in rows of `dim`. -1 where they do not, else 0 for
// float32, 1 for float16, 2 for bfloat16; `rows` is set.
static inline int takes(const TensorView &t, ptrdiff_t dim, ptrdiff_t *rows) {
    const int cpu = 1, real = 2, brain = 4;
    if (t.device != cpu || t.lanes != 1 || t.ndim < 1 || t.shape[t.ndim - 1] != dim) return -1;
    int64_t dense = 1;
    for (int axis = t.ndim - 1; axis >= 0; axis--) {
        if (t.strides && t.shape[axis] != 1 && t.strides[axis] != dense) return -1;
        dense *= t.shape[axis];
    }
    *rows = (ptrdiff_t)(dense / dim);
    if (t.code == real && t.bits == 32) return 0;
    if (t.code == real && t.bits == 16) return 1;
    if (t.code == brain && t.bits == 16) return 2;
    return -1;
}

// Header, shape, strides and numbers in one piece of memory.
struct Block {
    OwnedTensor tensor;  // first, so that a pointer to it is one to the block
    size_t bytes;
};

// The block that was given back last waits for the next tensor: what passes through a hook has one
// size, and to the allocator it is large: a tenth of the whole call. Any thread may give one back.
inline std::atomic<Block *> spare{nullptr};

static inline Block *take_block(size_t bytes) {
    Block *block = spare.exchange(nullptr, std::memory_order_acquire);
    if (block && block->bytes >= bytes && block->bytes / 2 <= bytes) return block;
    free(block);
    block = (Block *)malloc(bytes);
    if (block) block->bytes = bytes;
    return block;
}

static inline void give_back(OwnedTensor *tensor) {
    const size_t most = 1 << 20;  // kept for good, so never more than that
    Block *block = (Block *)tensor;
    if (block->bytes <= most) block = spare.exchange(block, std::memory_order_acq_rel);
    free(block);
}

// A dense tensor of the same kind, to be given away; costs less than the library's own allocation
// followed by an exchange. NULL where there is no memory.
static inline OwnedTensor *owned_like(const TensorView &t, size_t numbers) {
    const size_t line = 64;
    const size_t head = sizeof(Block) + 2 * sizeof(int64_t) * (size_t)t.ndim;
    char *block = (char *)take_block(head + line + numbers * t.bits / 8);
    if (!block) return NULL;
    OwnedTensor *made = (OwnedTensor *)block;
    memset(made, 0, sizeof(OwnedTensor));
    made->major = 1;
    made->release = give_back;
    made->view = t;
    made->view.shape = (int64_t *)(block + sizeof(Block));
    made->view.strides = made->view.shape + t.ndim;
    memcpy(made->view.shape, t.shape, sizeof(int64_t) * (size_t)t.ndim);
    int64_t dense = 1;
    for (int axis = t.ndim - 1; axis >= 0; axis--) {
        made->view.strides[axis] = dense;
        dense *= t.shape[axis];
    }
    made->view.byte_offset = 0;
    made->view.data = (void *)(((uintptr_t)(block + head) + line - 1) & ~(uintptr_t)(line - 1));
    return made;
}

} // namespace sona
