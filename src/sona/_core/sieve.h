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

struct Candidate {
    Index row;
    float upper;
};

// Each value comes with a bound of its error. The k-th largest of all lower ends is a floor: what
// cannot reach it is not among the k best, whatever the errors were.
class Sieve {
   public:
    void reset(Index k) {
        lowest_.assign((size_t)k, -INFINITY);
        candidates_.clear();
        limit_ = 4 * (size_t)k + 256;
    }

    float floor() const { return lowest_.front(); }

    void add(Index row, float value, float error) {
        if (value + error < floor()) return;
        if (value - error > floor()) {
            raise(value - error);
        }
        candidates_.push_back({row, value + error});
        if (candidates_.size() > limit_) {
            survivors();
            limit_ = std::max(limit_, 2 * candidates_.size());
        }
    }

    // In the order of adding.
    std::vector<Candidate>& survivors() {
        const float least = floor();
        candidates_.erase(std::remove_if(candidates_.begin(), candidates_.end(),
                                         [=](const Candidate& c) { return c.upper < least; }),
                          candidates_.end());
        return candidates_;
    }

   private:
    // Puts `value` in the place of the smallest.
    void raise(float value) {
        float* heap = lowest_.data();
        const size_t size = lowest_.size();
        size_t place = 0;
        for (size_t child; (child = 2 * place + 1) < size; place = child) {
            if (child + 1 < size && heap[child + 1] < heap[child]) ++child;
            if (!(heap[child] < value)) break;
            heap[place] = heap[child];
        }
        heap[place] = value;
    }

    std::vector<float> lowest_;  // min-heap
    std::vector<Candidate> candidates_;
    size_t limit_ = 0;
};

}  // namespace sona
