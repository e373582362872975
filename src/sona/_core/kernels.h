// The seam between the dispatcher and the code that is compiled once per instruction set.
//
// A kernel here is the inner loop only: it trusts its arguments (checked by _kernels.pyx), keeps
// no state and allocates nothing. What surrounds the loops (heaps, softmax, threads) lives in
// plain C++ files that carry no special compiler flags.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace sona {

typedef ptrdiff_t Index;

// Low-rank adapter: `weights` is (2 * rank, dim), rows of A first, then rows of B transposed.
struct LoraKernels {
    // hidden[i * rank + j] = A_j . x_i
    void (*project)(const float* weights, Index dim, Index rank, const float* x, Index n,
                    float* hidden);
    // y_i = x_i + sum_j hidden[i * rank + j] * B_j; y may be x
    void (*expand)(const float* weights, Index dim, Index rank, const float* hidden,
                   const float* x, Index n, float* y);
    // Both, with one look at each row and the same bits: y_i = x_i + scaling * sum_j (A_j . x_i) B_j,
    // with room for 2 * rank hidden values. Stops before the first rows whose hidden values are not
    // finite and returns how many it did.
    Index (*apply)(const float* weights, Index dim, Index rank, float scaling, const float* x,
                   Index n, float* y, float* hidden);
};

// Rows stored in 16 bits: [0] half precision, [1] bfloat16.
struct HalfKernels {
    void (*widen[2])(const uint16_t* from, Index n, float* to);
    void (*narrow[2])(const float* from, Index n, uint16_t* to);
    // 1 if every value is finite
    int (*all_finite[2])(const uint16_t* values, Index n);
};

// Rows against a vector. A row's result does not depend on where in the block the row lies, so
// equal rows tie exactly.
struct RowKernels {
    // out[i] = rows_i . query
    void (*dots)(const float* rows, Index n, Index dim, const float* query, float* out);
    // out[j] = rows[index[j]] . query
    void (*dots_at)(const float* rows, Index dim, const int64_t* index, Index k,
                    const float* query, float* out);
    // out = sum_j weight[j] * rows[index[j]]
    void (*blend)(const float* rows, Index dim, const int64_t* index, const float* weight, Index k,
                  float* out);
    // row = keep * row + step * direction
    void (*mix)(float* row, Index dim, float keep, float step, const float* direction);
    // a . b in double; the same on every instruction set
    double (*dot_wide)(const float* a, const float* b, Index dim);
    // out[j] = rows[index[j]] . query, likewise
    void (*dots_wide_at)(const float* rows, Index dim, const int64_t* index, Index k,
                         const float* query, double* out);
    // sum += weight * row, in double
    void (*add_row)(const float* row, Index dim, double weight, double* sum);
    // unit = row / |row|, the length taken in double; a zero row stays zero. Returns |row|.
    double (*unit)(const float* row, Index dim, float* unit);
    // 1 if every value is finite
    int (*all_finite)(const float* values, Index n);
};

// What one outcome needs of the bank of patterns (see simd/bank.cpp).
struct BankKernels {
    // first[i] = rows_i . p and second[i] = rows_i . q, each row read once
    void (*pair)(const float* rows, Index n, Index dim, const float* p, const float* q,
                 float* first, float* second);
    // centroid = sum / |sum|; it stays as it is where the sum is zero
    void (*settle)(const double* sum, Index dim, float* centroid);
};

// Rows rounded to 8 bits (see codes.cpp); `width` is a multiple of 64.
struct CodeBounds {
    float scale, error;
};

struct CodeKernels {
    // Rounds row / scale to integers of at most `limit` and bounds what was lost by a length.
    CodeBounds (*encode)(const float* row, Index dim, int limit, int8_t* codes);
    // out[i] = codes_i . query; no code is -128
    void (*dots)(const int8_t* codes, Index n, Index width, const int8_t* query, int32_t* out);
};

// A product that passed its column's threshold.
struct Hit {
    int32_t row, column;
    float product;
};

// Columns of the panel that `products` takes.
enum { NARROW_LANES = 16 };

// Rows against packed panels of `lanes` columns (see simd/tiles.cpp and pack_panels).
struct TileKernels {
    Index lanes;
    // rows that `beating` should be given at a time
    Index block;
    // label and product of the largest product of each point; the lower column where two tie
    void (*nearest)(const float* points, Index n, Index dim, const float* panels, Index n_panels,
                    int32_t* labels, float* similarities);
    // Writes every product above its column's threshold, with room for all; returns how many.
    Index (*beating)(const float* rows, Index n, Index dim, const float* panels, Index n_panels,
                     const float* thresholds, Hit* hits);
    // out[i * NARROW_LANES + j] = rows_i . column_j
    void (*products)(const float* rows, Index n, Index dim, const float* panel, float* out);
};

// Coded rows against packed panels of `lanes` coded columns (see simd/code_tiles.cpp).
struct CodeTileKernels {
    // 0 where this instruction set has nothing to offer over float32
    Index lanes;
    // most rows that `products` takes at a time
    Index block;
    // what is added to a column's codes, and the largest that they may be before
    int offset, limit;
    // out[i * n_panels * lanes + j] = (codes_rows[i] . column_j) * scales[j]
    void (*products)(const int8_t* codes, const int64_t* rows, Index n, Index width,
                     const uint8_t* panels, Index n_panels, const float* scales, float* out);
    // Positions of the values that reach `floor` and the largest less `margin`, ascending; returns
    // how many.
    Index (*near_best)(const float* values, Index k, float margin, float floor, int32_t* hits);
    // Positions where value * scale + error * by_error >= threshold; n is a multiple of lanes.
    Index (*above)(const float* values, Index n, float scale, float error, const float* by_error,
                   const float* thresholds, int32_t* hits);
};

struct Kernels {
    const char* name;
    const LoraKernels* lora;
    const RowKernels* rows;
    const BankKernels* bank;
    const TileKernels* tiles;
    const CodeKernels* codes;
    const CodeTileKernels* code_tiles;
    const HalfKernels* half;
};

}  // namespace sona
