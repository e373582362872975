// Runs the kernels of the highest instruction set against plain loops in double: for processors
// that only an emulator has, where Python is not at hand. Prints what differs; exits with 0 if
// nothing does.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <vector>

#include "core.h"

using namespace sona;

static int failures = 0;

static void expect(bool good, const char* what, Index dim, Index n) {
    if (good) return;
    ++failures;
    printf("%s differs at dim %td, n %td\n", what, dim, n);
}

static bool near(double a, double b) { return fabs(a - b) <= 2e-4 * (1.0 + fabs(b)); }

static std::vector<float> random_rows(Index n, Index dim, bool unit) {
    std::vector<float> rows((size_t)(n * dim));
    for (float& x : rows) x = (float)rand() / (float)RAND_MAX - 0.5f;
    for (Index i = 0; unit && i < n; ++i) active().rows->unit(&rows[(size_t)(i * dim)], dim, &rows[(size_t)(i * dim)]);
    return rows;
}

static double dot(const float* a, const float* b, Index dim) {
    double sum = 0.0;
    for (Index i = 0; i < dim; ++i) sum += (double)a[i] * b[i];
    return sum;
}

static void check_apply(Index dim, Index rank) {
    const Index n = 7;
    const std::vector<float> w = random_rows(2 * rank, dim, false), x = random_rows(n, dim, false);
    std::vector<float> y(x.size());
    expect(lora_apply(w.data(), dim, rank, 0.5f, x.data(), n, y.data()) == n, "count", dim, rank);
    bool good = true;
    for (Index i = 0; i < n; ++i)
        for (Index d = 0; d < dim; ++d) {
            double want = x[(size_t)(i * dim + d)];
            for (Index j = 0; j < rank; ++j)
                want += 0.5 * dot(&w[(size_t)(j * dim)], &x[(size_t)(i * dim)], dim) *
                        w[(size_t)((rank + j) * dim + d)];
            good &= near(y[(size_t)(i * dim + d)], want);
        }
    expect(good, "apply", dim, rank);
    std::vector<float> bad = x;
    bad[(size_t)(5 * dim + dim / 2)] = NAN;
    expect(lora_apply(w.data(), dim, rank, 0.5f, bad.data(), n, y.data()) == 5, "NaN", dim, rank);
}

static void check_assign(Index dim, Index k, bool coded) {
    const Index n = 41, width = (dim + 63) / 64 * 64;
    const std::vector<float> x = random_rows(n, dim, true), c = random_rows(k, dim, true);
    std::vector<int8_t> bytes((size_t)(n * width));
    std::vector<float> scales((size_t)n), errors((size_t)n), similarities((size_t)n);
    std::vector<int32_t> labels((size_t)n);
    encode_rows(x.data(), n, dim, width, bytes.data(), scales.data(), errors.data());
    const Codes codes = {bytes.data(), scales.data(), errors.data(), width};
    assign(x.data(), n, c.data(), k, dim, coded ? &codes : nullptr, nullptr, labels.data(),
           similarities.data(), 1);
    bool good = true;
    for (Index i = 0; i < n; ++i) {
        double best = -INFINITY;
        for (Index j = 0; j < k; ++j)
            best = std::max(best, dot(&x[(size_t)(i * dim)], &c[(size_t)(j * dim)], dim));
        good &= near(similarities[(size_t)i], best);
        good &= near(dot(&x[(size_t)(i * dim)], &c[(size_t)(labels[(size_t)i] * dim)], dim), best);
    }
    expect(good, coded ? "assign by codes" : "assign", dim, k);
}

static void check_distances(Index dim) {
    const Index n = 101, m = 19;
    const std::vector<float> x = random_rows(n, dim, true);
    std::vector<float> squares((size_t)(n * m));
    squared_distances(x.data(), n, dim, x.data(), m, squares.data());
    bool good = true;
    for (Index j = 0; j < m; ++j)
        for (Index i = 0; i < n; ++i) {
            const double want = 2.0 - 2.0 * dot(&x[(size_t)(i * dim)], &x[(size_t)(j * dim)], dim);
            good &= fabs(squares[(size_t)(j * n + i)] - want) <= 1e-5;
        }
    expect(good, "squared distances", dim, n);
}

static void check_search(Index dim, Index n, Index m, bool coded) {
    const Index k = std::min((Index)10, n), width = (dim + 63) / 64 * 64;
    const std::vector<float> rows = random_rows(n, dim, true), q = random_rows(m, dim, true);
    std::vector<int8_t> bytes((size_t)(n * width));
    std::vector<float> scales((size_t)n), errors((size_t)n), similarities((size_t)(m * k));
    std::vector<int64_t> indices((size_t)(m * k));
    encode_rows(rows.data(), n, dim, width, bytes.data(), scales.data(), errors.data());
    const Codes codes = {bytes.data(), scales.data(), errors.data(), width};
    top_k(rows.data(), n, dim, q.data(), m, k, coded ? &codes : nullptr, indices.data(),
          similarities.data(), 1);
    bool good = true;
    for (Index i = 0; i < m; ++i) {
        std::vector<double> all;
        for (Index r = 0; r < n; ++r)
            all.push_back(dot(&rows[(size_t)(r * dim)], &q[(size_t)(i * dim)], dim));
        std::sort(all.begin(), all.end(), [](double a, double b) { return a > b; });
        for (Index j = 0; j < k; ++j)
            good &= fabs(similarities[(size_t)(i * k + j)] - all[(size_t)j]) < 1e-6;
    }
    expect(good, coded ? "search by codes" : "search", dim, n);
}

static void check_step(Index dim) {
    // One step toward the outcome must raise what is expected.
    const Index n = 30, rank = 2, k = 7;
    std::vector<float> w = random_rows(2 * rank, dim, false);
    const std::vector<float> x = random_rows(1, dim, true), p = random_rows(n, dim, true);
    std::vector<float> values = random_rows(1, n, false), similarities((size_t)k);
    for (float& v : values) v += 0.5f;
    std::vector<int64_t> indices((size_t)k);
    std::vector<float> scratch((size_t)decision_scratch(dim, rank, k));
    const Adapter adapter = {w.data(), dim, rank, 1.0f};
    const DecisionStep step = {1.0f, 0.1f, 0.01f, 0.0f, 1.0f, 0.1f};
    double before = 0.0, after = 0.0;
    for (int i = 0; i < 20; ++i) {
        after = decision_step(adapter, x.data(), p.data(), n, values.data(), k, step,
                              indices.data(), similarities.data(), scratch.data());
        if (i == 0) before = after;
    }
    expect(after > before || dim == 1, "step", dim, n);
}

int main() {
    printf("%s\n", active().name);
    const Index dims[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97, 384};
    for (const Index dim : dims) {
        for (const Index rank : {1, 2, 3, 8, 70}) check_apply(dim, rank);
        for (const Index k : {1, 5, 17, 100})
            for (const bool coded : {false, true}) check_assign(dim, k, coded);
        for (const Index n : {(Index)1, (Index)9, (Index)(dim > 96 ? 2100 : 150)})
            for (const Index m : {1, 9})
                for (const bool coded : {false, true}) check_search(dim, n, m, coded);
        check_distances(dim);
        check_step(dim);
    }
    printf(failures ? "%d failures\n" : "all agree\n", failures);
    return failures != 0;
}
