// Low-rank adapter: apply it, and one learning step through the bank's own decision.
#include <math.h>

#include <vector>

#include "best.h"
#include "core.h"
#include "panels.h"

namespace sona {

namespace {
const Index STACK_RANK = 64;
const Index BLOCK = 256;
// Keeps the loss finite when every pattern in sight agrees and the outcome does not.
const double EDGE = 1e-6;
// What is smaller than this share of its terms is what rounding left of a subtraction: patterns
// that expect the same, or a pull along y only. It is no gradient, so nothing moves.
const double NOISE = 1e-6;
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
        lora.project(weights, dim, rank, x + i * dim, hidden);
        for (Index j = 0; j < rank; ++j) hidden[j] *= scaling;
        lora.expand(weights, dim, rank, hidden, x + i * dim, y + i * dim);
    }
}

Index lora_apply_bits(const float* weights, Index dim, Index rank, float scaling, int format,
                      const uint16_t* x, Index n, uint16_t* y) noexcept {
    const HalfKernels& half = *active().half;
    // As many rows as the kernel takes at a time: they stay in L1 between widening and narrowing.
    const Index TILE = 4;
    const Block<float> wide(TILE * dim);
    if (!wide.get()) return -1;
    for (Index i = 0; i < n; i += TILE) {
        const Index m = n - i < TILE ? n - i : TILE;
        half.widen[format](x + i * dim, m * dim, wide.get());
        const Index done = lora_apply(weights, dim, rank, scaling, wide.get(), m, wide.get());
        if (done < m) return i + done;
        half.narrow[format](wide.get(), m * dim, y + i * dim);
    }
    return n;
}

Index decision_scratch(Index dim, Index rank, Index k) {
    return 2 * dim + 2 * rank + rank * rank + k;
}

// v <- (s^2 R R^T + damping)^-1 v for the rows R of a factor: Cholesky, rank by rank. The factor
// is positive definite by at least the damping, so no pivot vanishes.
static void divide_by_gram(const float* factor, Index dim, Index rank, float scaling,
                           float damping, float* gram, float* v) noexcept {
    const RowKernels& rows = *active().rows;
    for (Index j = 0; j < rank; ++j) rows.dots(factor, j + 1, dim, factor + j * dim, gram + j * rank);
    for (Index j = 0; j < rank; ++j) {
        float* row = gram + j * rank;
        for (Index i = 0; i <= j; ++i) {
            double sum = (double)scaling * scaling * row[i] + (i == j ? damping : 0.0);
            for (Index l = 0; l < i; ++l) sum -= (double)row[l] * gram[i * rank + l];
            row[i] = (float)(i < j ? sum / gram[i * rank + i] : sqrt(sum > damping ? sum : damping));
        }
        double sum = v[j];
        for (Index l = 0; l < j; ++l) sum -= (double)row[l] * v[l];
        v[j] = (float)(sum / row[j]);
    }
    for (Index j = rank; j-- > 0;) {
        double sum = v[j];
        for (Index l = j + 1; l < rank; ++l) sum -= (double)gram[l * rank + j] * v[l];
        v[j] = (float)(sum / gram[j * rank + j]);
    }
}

// The rule. With h = A x, y = x + s B h, u = y / |y|, z_j = u . p_j over the k nearest patterns,
// a = softmax(z / T), e = sum a_j v_j and the loss L = -[t log e + (1 - t) log(1 - e)]:
//
//   dL/de = (e - t) / (e (1 - e))      w_j = dL/dz_j = dL/de a_j (v_j - e) / T
//   g = dL/dy = (sum_j w_j p_j - (sum_j w_j z_j) u) / |y|
//   dL/dA = s (B^T g) x^T              dL/dB = s g h^T
//
// Each is divided by the Gram matrix of the other factor, which changes B^T g and h only:
// GA = (s^2 B^T B + damping)^-1 dL/dA, GB = dL/dB (s^2 A A^T + damping)^-1. Both stay outer
// products, so their norm is known without forming them. The joint norm is clipped to max_norm and
// W <- (1 - decay) W - rate G. Where the gradient is zero nothing moves: noise is never scaled up
// to a unit step.
double decision_step(float* weights, Index dim, Index rank, float scaling, const float* x,
                     const float* centroids, Index n, const float* values, Index k,
                     const DecisionStep& step, int64_t* indices, float* similarities,
                     float* scratch) noexcept {
    const LoraKernels& lora = *active().lora;
    const RowKernels& rows = *active().rows;
    float* y = scratch;
    float* g = y + dim;
    float* hidden = g + dim;
    float* back = hidden + rank;
    float* gram = back + rank;
    float* weight = gram + rank * rank;

    lora.project(weights, dim, rank, x, hidden);
    for (Index j = 0; j < rank; ++j) back[j] = scaling * hidden[j];
    lora.expand(weights, dim, rank, back, x, y);
    float square;
    rows.dots(y, 1, dim, y, &square);
    const double norm = sqrt((double)square);
    const double inverse = norm > 0.0 ? 1.0 / norm : 0.0;

    const Best nearest{indices, similarities, k};
    nearest.clear();
    float products[BLOCK];
    for (Index i = 0; i < n; i += BLOCK) {
        const Index m = n - i < BLOCK ? n - i : BLOCK;
        rows.dots(centroids + i * dim, m, dim, y, products);
        for (Index j = 0; j < m; ++j) nearest.offer(i + j, products[j]);
    }
    nearest.sort();
    double total = 0.0, expected = 0.0, best = 0.0;
    for (Index j = 0; j < k; ++j) {
        similarities[j] = (float)(similarities[j] * inverse);
        if (j == 0) best = similarities[0];
        weight[j] = expf((float)((similarities[j] - best) / step.temperature));
        total += weight[j];
        expected += (double)weight[j] * values[indices[j]];
    }
    expected /= total;

    const double e = expected < EDGE ? EDGE : expected > 1.0 - EDGE ? 1.0 - EDGE : expected;
    const double slope = (e - step.target) / (e * (1.0 - e) * step.temperature);
    double along = 0.0, spread = 0.0, pull = 0.0;
    for (Index j = 0; j < k; ++j) {
        const double share = weight[j] / total * (values[indices[j]] - expected);
        spread += fabs(share);
        weight[j] = (float)(slope * share);
        pull += fabs(weight[j]);
        along += (double)weight[j] * similarities[j];
    }
    if (spread <= NOISE) return expected;
    rows.blend(centroids, dim, indices, weight, k, g);
    rows.mix(g, dim, (float)inverse, (float)(-along * inverse * inverse), y);

    float x_square, g_square;
    rows.dots(g, 1, dim, g, &g_square);
    if (!(sqrt((double)g_square) > NOISE * inverse * pull)) return expected;

    rows.dots(x, 1, dim, x, &x_square);
    rows.dots(weights + rank * dim, rank, dim, g, back);
    divide_by_gram(weights + rank * dim, dim, rank, scaling, step.damping, gram, back);
    divide_by_gram(weights, dim, rank, scaling, step.damping, gram, hidden);
    double a_square = 0.0, b_square = 0.0;
    for (Index j = 0; j < rank; ++j) {
        a_square += (double)back[j] * back[j];
        b_square += (double)hidden[j] * hidden[j];
    }
    const double s = scaling;
    const double length = fabs(s) * sqrt(a_square * x_square + b_square * g_square);
    if (!(length > 0.0) || !(length <= 3.4e38)) return expected;

    const double rate = step.rate * (length > step.max_norm ? step.max_norm / length : 1.0);
    const float keep = 1.0f - step.decay;
    for (Index j = 0; j < rank; ++j) {
        rows.mix(weights + j * dim, dim, keep, (float)(-rate * s * back[j]), x);
        rows.mix(weights + (rank + j) * dim, dim, keep, (float)(-rate * s * hidden[j]), g);
    }
    return expected;
}

}  // namespace sona
