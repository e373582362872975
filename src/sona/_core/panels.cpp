#include "panels.h"

#include <math.h>

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

}  // namespace sona
