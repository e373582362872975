// The bank's own decision of a query, and one learning step through it.
#include <math.h>

#include "best.h"
#include "core.h"

namespace sona {

namespace {
const Index BLOCK = 256;
// Keeps the loss finite when every pattern in sight agrees and the outcome does not.
const double EDGE = 1e-6;
// What is smaller than this share of its terms is what rounding left of a subtraction: patterns
// that expect the same, or a pull along y only. It is no gradient, so nothing moves.
const double NOISE = 1e-6;
// Patterns this many temperatures behind the best have a millionth of its weight.
const float OUT_OF_SIGHT = 14.0f;
// Below this product of standard deviations a correlation would be one of rounding noise.
const double FLAT = 1e-6;
// Standard errors below zero from which a correlation is a contradiction.
const double CONTRADICTION = -3.5;

double gate_correlation(const double* gate) {
    const double scale = sqrt(gate[3] * gate[4]);
    return scale > FLAT ? gate[5] / scale : 0.0;
}

// Patterns that take part in a decision, in no particular order.
struct Sight {
    int64_t* index;
    float* similarity;
    float* weight;
    Index count;
};

// weight = softmax(similarity / temperature); returns what the bank expects.
double attend(const Sight& sight, float temperature, const float* values) {
    float best = -INFINITY;
    for (Index j = 0; j < sight.count; ++j)
        best = best < sight.similarity[j] ? sight.similarity[j] : best;
    double total = 0.0, expected = 0.0;
    for (Index j = 0; j < sight.count; ++j) {
        sight.weight[j] = expf((sight.similarity[j] - best) / temperature);
        total += sight.weight[j];
        expected += (double)sight.weight[j] * values[sight.index[j]];
    }
    for (Index j = 0; j < sight.count; ++j)
        sight.weight[j] = (float)(sight.weight[j] / total);
    return expected / total;
}

// The at most k patterns in sight, from products that are similarities once scaled. `index` has
// room for n numbers, `heap` for k.
Index look_around(const float* products, Index n, float scale, float temperature, Index k,
                  int64_t* index, float* similarity, int64_t* heap) {
    float top[4] = {products[0], products[0], products[0], products[0]};
    Index i = 0;
    for (; i + 4 <= n; i += 4)
        for (int u = 0; u < 4; ++u) top[u] = products[i + u] > top[u] ? products[i + u] : top[u];
    for (; i < n; ++i) top[0] = products[i] > top[0] ? products[i] : top[0];
    for (int u = 1; u < 4; ++u) top[0] = top[u] > top[0] ? top[u] : top[0];
    const float floor = scale > 0.0f ? top[0] - OUT_OF_SIGHT * temperature / scale : -INFINITY;
    Index found = 0;
    for (i = 0; i < n; ++i) {
        index[found] = i;
        found += products[i] >= floor;
    }
    if (found > k) {
        const Best nearest{heap, similarity, k};
        nearest.clear();
        for (Index j = 0; j < found; ++j) nearest.offer(index[j], products[index[j]]);
        for (Index j = 0; j < k; ++j) index[j] = heap[j];
        found = k;
    }
    for (Index j = 0; j < found; ++j) similarity[j] = products[index[j]] * scale;
    return found;
}

// What an adapter made of a query: y = x + s B h with h = A x.
struct Adapted {
    const float* x;
    float* hidden;
    float* y;
    double inverse;  // 1 / |y|, 0 for a zero vector
};

// `room` holds dim + 2 * rank floats.
Adapted adapt(const Adapter& a, const float* x, float* room) {
    const LoraKernels& lora = *active().lora;
    float* y = room;
    float* scaled = y + a.dim;
    float* hidden = scaled + a.rank;
    lora.project(a.weights, a.dim, a.rank, x, 1, hidden);
    for (Index j = 0; j < a.rank; ++j) scaled[j] = a.scaling * hidden[j];
    lora.expand(a.weights, a.dim, a.rank, scaled, x, 1, y);
    float square;
    active().rows->dots(y, 1, a.dim, y, &square);
    const double norm = sqrt((double)square);
    return {x, hidden, y, norm > 0.0 ? 1.0 / norm : 0.0};
}

// v <- (s^2 R R^T + damping)^-1 v for the rows R of a factor: Cholesky, rank by rank. The factor
// is positive definite by at least the damping, so no pivot vanishes.
void divide_by_gram(const float* factor, Index dim, Index rank, float scaling, float damping,
                    float* gram, float* v) {
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
//
// `g` has room for dim floats, `back` for rank * (rank + 1); the weights of `sight` and the hidden
// values are used up.
void descend(const Adapter& a, const Adapted& query, const Sight& sight, const float* centroids,
             const float* values, double expected, const DecisionStep& step, float* g,
             float* back) {
    const RowKernels& rows = *active().rows;
    const Index dim = a.dim, rank = a.rank;
    const double e = expected < EDGE ? EDGE : expected > 1.0 - EDGE ? 1.0 - EDGE : expected;
    const double slope = (e - step.target) / (e * (1.0 - e) * step.temperature);
    double along = 0.0, spread = 0.0, pull = 0.0;
    for (Index j = 0; j < sight.count; ++j) {
        const double share = sight.weight[j] * (values[sight.index[j]] - expected);
        spread += fabs(share);
        sight.weight[j] = (float)(slope * share);
        pull += fabs(sight.weight[j]);
        along += (double)sight.weight[j] * sight.similarity[j];
    }
    if (spread <= NOISE) return;
    rows.blend(centroids, dim, sight.index, sight.weight, sight.count, g);
    rows.mix(g, dim, (float)query.inverse, (float)(-along * query.inverse * query.inverse),
             query.y);

    float x_square, g_square;
    rows.dots(g, 1, dim, g, &g_square);
    if (!(sqrt((double)g_square) > NOISE * query.inverse * pull)) return;

    rows.dots(query.x, 1, dim, query.x, &x_square);
    rows.dots(a.weights + rank * dim, rank, dim, g, back);
    float* gram = back + rank;
    divide_by_gram(a.weights + rank * dim, dim, rank, a.scaling, step.damping, gram, back);
    divide_by_gram(a.weights, dim, rank, a.scaling, step.damping, gram, query.hidden);
    double a_square = 0.0, b_square = 0.0;
    for (Index j = 0; j < rank; ++j) {
        a_square += (double)back[j] * back[j];
        b_square += (double)query.hidden[j] * query.hidden[j];
    }
    const double s = a.scaling;
    const double length = fabs(s) * sqrt(a_square * x_square + b_square * g_square);
    if (!(length > 0.0) || !(length <= 3.4e38)) return;

    const double rate = step.rate * (length > step.max_norm ? step.max_norm / length : 1.0);
    const float keep = 1.0f - step.decay;
    for (Index j = 0; j < rank; ++j) {
        rows.mix(a.weights + j * dim, dim, keep, (float)(-rate * s * back[j]), query.x);
        rows.mix(a.weights + (rank + j) * dim, dim, keep, (float)(-rate * s * query.hidden[j]), g);
    }
}
}  // namespace

Index decision_scratch(Index dim, Index rank, Index k) { return 2 * dim + (rank + 3) * rank + k; }

double decision_step(const Adapter& adapter, const float* x, const float* centroids, Index n,
                     const float* values, Index k, const DecisionStep& step, int64_t* indices,
                     float* similarities, float* scratch) noexcept {
    const RowKernels& rows = *active().rows;
    const Index dim = adapter.dim;
    float* g = scratch;
    float* back = g + dim;
    float* weight = back + adapter.rank * (adapter.rank + 1);
    const Adapted query = adapt(adapter, x, weight + k);

    const Best nearest{indices, similarities, k};
    nearest.clear();
    float products[BLOCK];
    for (Index i = 0; i < n; i += BLOCK) {
        const Index m = n - i < BLOCK ? n - i : BLOCK;
        rows.dots(centroids + i * dim, m, dim, query.y, products);
        for (Index j = 0; j < m; ++j) nearest.offer(i + j, products[j]);
    }
    nearest.sort();
    for (Index j = 0; j < k; ++j) similarities[j] = (float)(similarities[j] * query.inverse);
    const Sight sight{indices, similarities, weight, k};
    const double expected = attend(sight, step.temperature, values);
    descend(adapter, query, sight, centroids, values, expected, step, g, back);
    return expected;
}

Index outcome_scratch(Index dim, Index rank, Index n, Index k) {
    return 2 * (n + k) + n + 2 * k + 3 * dim + (rank + 3) * rank;
}

double outcome_step(const Adapter& lower, const Adapter& upper, const float* x,
                    const float* centroids, Index n, const float* values, Index k,
                    const DecisionStep& step, double* gate, float* similarities,
                    float* scratch) noexcept {
    const Index dim = upper.dim;
    int64_t* index = (int64_t*)scratch;
    int64_t* heap = index + n;
    float* products = (float*)(heap + k);
    float* similarity = products + n;
    float* weight = similarity + k;
    float* back = weight + k;
    float* g = back + upper.rank * (upper.rank + 1);
    float* y = g + dim;
    lora_apply(lower.weights, dim, lower.rank, lower.scaling, x, 1, y);
    const Adapted query = adapt(upper, y, y + dim);
    active().bank->pair(centroids, n, dim, x, query.y, similarities, products);

    // The unadapted bank is the judge of the feedback.
    const double trust = gate_trust(gate);
    Sight sight{index, similarity, weight, 0};
    sight.count = look_around(similarities, n, 1.0f, step.temperature, k, index, similarity, heap);
    const double judged = attend(sight, step.temperature, values);

    sight.count = look_around(products, n, (float)query.inverse, step.temperature, k, index,
                              similarity, heap);
    const double expected = attend(sight, step.temperature, values);
    DecisionStep allowed = step;
    allowed.rate = (float)(step.rate * trust);
    allowed.decay = trust > 0.0 ? 0.0f : step.decay;
    descend(upper, query, sight, centroids, values, expected, allowed, g, back);
    gate_observe(gate, judged, step.target);
    return expected;
}

double gate_trust(const double* gate) noexcept {
    if (gate[6] > 0.0) return 0.0;
    const double earned = (gate_correlation(gate) - gate[7]) / (gate[8] - gate[7]);
    const double share = earned < 0.0 ? 0.0 : earned > 1.0 ? 1.0 : earned;
    return share * sqrt(gate[0] / gate[9]);
}

void gate_observe(double* gate, double expected, double target) noexcept {
    const double count = gate[0] + 1.0 < gate[9] ? gate[0] + 1.0 : gate[9];
    const double take = 1.0 / count, keep = 1.0 - take;
    const double de = expected - gate[1], dt = target - gate[2];
    gate[0] = count;
    gate[1] += take * de;
    gate[2] += take * dt;
    gate[3] = keep * (gate[3] + take * de * de);
    gate[4] = keep * (gate[4] + take * dt * dt);
    gate[5] = keep * (gate[5] + take * de * dt);
    if (gate_correlation(gate) * sqrt(count) < CONTRADICTION) gate[6] = 1.0;
}

}  // namespace sona
