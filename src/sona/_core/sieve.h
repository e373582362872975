// Exact selection from inexact values: keep what may be among the k best, drop what cannot.
#pragma once

#include <math.h>

#include <algorithm>
#include <vector>

#include "kernels.h"

namespace sona {

// What the true product with a query may be off by from that of the codes: of a row p and a query
// q of length at most 1, |q.p - q'.p'| <= |q'| |p - p'| + |q - q'| |p|, and the rounding of this
// very line.
struct CodeSlack {
    explicit CodeSlack(float query_error)
        : by_error((1.0f + query_error) * 1.00001f), constant(query_error * 1.00001f + 4e-6f) {}
    float of(float row_error) const { return row_error * by_error + constant; }
    float by_error, constant;
};

// Bound of the rounding of a float32 product: dim roundings of terms that sum to at most 1.
inline float rounding_of(Index dim) { return (float)(dim + 8) * 6e-8f; }

// Ends between which the products lie whose codes' products are given, widened by `more`.
inline void ends_of(const int32_t* products, const float* scales, const float* errors, Index n,
                    float scale, const CodeSlack& slack, float more, float* lower, float* upper) {
    for (Index i = 0; i < n; ++i) {
        const float value = (float)products[i] * (scales[i] * scale);
        const float off = slack.of(errors[i]) + more;
        lower[i] = value - off;
        upper[i] = value + off;
    }
}

// A value that k of n reach, if any do, and few more where they differ. Counting vectorises where
// a heap waits for every comparison; two dozen halvings of the similarities' range tell 2e-7 apart.
inline float reached_by(const float* values, Index n, Index k) {
    float reached = -INFINITY, low = -2.0f, high = 2.0f;
    for (int halvings = 0; halvings < 24; ++halvings) {
        const float middle = 0.5f * (low + high);
        int32_t count = 0;
        for (Index i = 0; i < n; ++i) count += values[i] >= middle;
        if (count < k) {
            high = middle;
            continue;
        }
        reached = low = middle;
        if (count == k && k < n) break;  // where k are all, only the end comes near the least
    }
    return reached;
}

// Each value comes with its lower and its upper end. What k lower ends reach is a floor: what
// cannot reach it is not among the k best, whatever the errors were.
class Sieve {
   public:
    void reset(Index k) {
        k_ = k;
        size_ = 0;
        floor_ = -INFINITY;
        limit_ = k + LAG;
    }

    float floor() const { return floor_; }
    Index size() const { return size_; }
    const int64_t* rows() const { return rows_.data(); }
    const float* upper() const { return upper_.data(); }

    void add(int64_t row, float lower, float upper) {
        if (upper < floor_) return;
        reserve(size_ + 1);
        put(row, lower, upper);
        ++size_;
        if (size_ >= limit_) tighten();
    }

    // The same for many at once, which have a floor of their own; `row` numbers them.
    template <class Row>
    void add(const Row& row, const float* lower, const float* upper, Index n) {
        if (floor_ == -INFINITY && n >= k_) floor_ = reached_by(lower, n, k_);
        reserve(size_ + n);
        const float floor = floor_;
        int64_t* const kept = rows_.data();
        float *const low = lower_.data(), *const high = upper_.data();
        Index size = size_;
        for (Index i = 0; i < n; ++i) {  // without a branch: which ones stay nobody can foretell
            kept[size] = row(i);
            low[size] = lower[i];
            high[size] = upper[i];
            size += upper[i] >= floor;
        }
        size_ = size;
        if (size_ >= limit_) tighten();
    }

    // Drops what the floor has passed by now; what is left is in the order of adding.
    void tighten() {
        if (size_ >= k_) floor_ = std::max(floor_, reached_by(lower_.data(), size_, k_));
        keep([this](Index i) { return upper_[(size_t)i] >= floor_; });
        limit_ = size_ + std::max((Index)LAG, size_ / 4);
    }

    // Drops all but those for whose place `wanted` is true, in order.
    template <class Wanted>
    void keep(const Wanted& wanted) {
        const Index n = size_;
        size_ = 0;
        for (Index i = 0; i < n; ++i) {
            const bool stays = wanted(i);
            put(rows_[(size_t)i], lower_[(size_t)i], upper_[(size_t)i]);
            size_ += stays;
        }
    }

   private:
    // Candidates that come before the floor is looked for again, at least: a fresher floor spares
    // candidates, and finding it costs as much as a few of them.
    enum { LAG = 16, LEAST_ROOM = 64 };

    void reserve(Index n) {
        if ((size_t)n <= rows_.size()) return;
        const size_t room = std::max({(size_t)n, 2 * rows_.size(), (size_t)LEAST_ROOM});
        rows_.resize(room);
        lower_.resize(room);
        upper_.resize(room);
    }

    void put(int64_t row, float lower, float upper) {
        rows_[(size_t)size_] = row;
        lower_[(size_t)size_] = lower;
        upper_[(size_t)size_] = upper;
    }

    Index k_ = 0, size_ = 0, limit_ = 0;
    float floor_ = -INFINITY;
    std::vector<int64_t> rows_;
    std::vector<float> lower_, upper_;
};

}  // namespace sona
