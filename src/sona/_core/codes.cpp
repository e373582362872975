// Rows rounded to 8 bits, with what is needed to bound the error that this makes.
#include "core.h"

namespace sona {

void encode_rows(const float* rows, Index n, Index dim, Index width, int8_t* codes, float* scales,
                 float* errors) noexcept {
    const CodeKernels& kernels = *active().codes;
    for (Index r = 0; r < n; ++r, rows += dim, codes += width) {
        const CodeBounds bounds = kernels.encode(rows, dim, 127, codes);
        for (Index i = dim; i < width; ++i) codes[i] = 0;
        scales[r] = bounds.scale;
        errors[r] = bounds.error;
    }
}

}  // namespace sona
