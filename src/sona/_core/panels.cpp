#include "panels.h"

#include <math.h>

#include <algorithm>

namespace sona {

void pack_panels(const float* columns, Index k, Index dim, Index lanes, float* panels) {
    for (Index first = 0; first < k; first += lanes) {
        float* panel = panels + first * (dim + 1);
        for (Index lane = 0; lane < lanes; ++lane) {
            const bool filled = first + lane < k;
            const float* column = columns + (first + lane) * dim;
            panel[lane] = filled ? 0.0f : -INFINITY;
            for (Index i = 0; i < dim; ++i)
                panel[(i + 1) * lanes + lane] = filled ? column[i] : 0.0f;
        }
    }
}

CodePanels::CodePanels(const float* columns, Index k, Index dim, Index width,
                       const Kernels& kernels)
    : lanes_(kernels.code_tiles->lanes),
      count_(panel_count(k, lanes_)),
      codes_(count_ * lanes_ * width),
      scales_((size_t)(count_ * lanes_), 0.0f),
      errors_((size_t)(count_ * lanes_), 0.0f) {
    if (!codes_.get()) throw std::bad_alloc();
    const int offset = kernels.code_tiles->offset;
    std::vector<int8_t> column((size_t)width, (int8_t)0);
    for (Index j = 0; j < count_ * lanes_; ++j) {
        if (j < k) {
            const CodeBounds bounds = kernels.codes->encode(
                columns + j * dim, dim, kernels.code_tiles->limit, column.data());
            scales_[(size_t)j] = bounds.scale;
            errors_[(size_t)j] = bounds.error;
        }
        uint8_t* lane = codes_.get() + j / lanes_ * lanes_ * width + j % lanes_ * 4;
        for (Index i = 0; i < width; i += 4, lane += 4 * lanes_)
            for (Index u = 0; u < 4; ++u) lane[u] = (uint8_t)(column[(size_t)(i + u)] + offset);
    }
}

float CodePanels::largest_error() const {
    return *std::max_element(errors_.begin(), errors_.end());
}

}  // namespace sona
