// What the Cython layer calls: whole operations, each built on the kernels of the active
// instruction set. Arguments are checked before they come here, and
// nothing throws: the callers may not hold the GIL.
#pragma once

#include "kernels.h"

namespace sona {

// Instruction sets that this binary holds and this CPU has, slowest first.
int capability_count();
const char* capability_name(int i);
int capability_active();
void capability_activate(int i);
const Kernels& active();

// y[i] = x[i] + scaling * B A x[i]. Returns the first row of x that is not finite, or n; rows before
// that one may have been written.
Index lora_apply(const float* weights, Index dim, Index rank, float scaling, const float* x,
                 Index n, float* y) noexcept;
// The same where y holds what must survive a refusal, x for one: all rows are read before the first
// is written. -1 where there was no memory to work with.
Index lora_apply_over(const float* weights, Index dim, Index rank, float scaling, const float* x,
                      Index n, float* y) noexcept;

// The same again on rows stored in 16 bits (format 0: half precision, 1: bfloat16), computed in
// float32. -1 where there was no memory to work with.
Index lora_apply_bits(const float* weights, Index dim, Index rank, float scaling, int format,
                      const uint16_t* x, Index n, uint16_t* y) noexcept;

struct Adapter {
    float* weights;
    Index dim, rank;
    float scaling;
};
struct DecisionStep {
    float target, temperature, rate, decay, max_norm, damping;
};
// floats of scratch that decision_step needs
Index decision_scratch(Index dim, Index rank, Index k);
double decision_step(const Adapter& adapter, const float* x, const float* centroids, Index n,
                     const float* values, Index k, const DecisionStep& step, int64_t* indices,
                     float* similarities, float* scratch) noexcept;

// The same through two adapters, `upper` on top of `lower`, of which the upper one learns as far
// as the gate allows; `decay` of the step is what it forgets where the gate is shut. Leaves the
// similarities of x as it came, and the gate one outcome further.
Index outcome_scratch(Index dim, Index rank, Index n, Index k);
double outcome_step(const Adapter& lower, const Adapter& upper, const float* x,
                    const float* centroids, Index n, const float* values, Index k,
                    const DecisionStep& step, double* gate, float* similarities,
                    float* scratch) noexcept;

// A gate is 10 numbers: weight, means of what was expected and of what came, their variances and
// covariance, whether they ever contradicted each other, and its rule: the correlations that are
// least and enough, and the horizon.
double gate_trust(const double* gate) noexcept;
void gate_observe(double* gate, double expected, double target) noexcept;

// Cells: sums (n, dim), sizes (n), centroids (n, dim), and per route n rows of three sums over
// outcomes: 1, quality, quality squared.
void expected_values(const double* outcomes, Index n, double blind, double floor, double strength,
                     float* values) noexcept;
// The cell that an outcome belongs to; FOUND_ONE where it deserves a new one, NO_HOME where none of
// its route's own is known.
enum { FOUND_ONE = -1, NO_HOME = -2 };
Index choose_cell(const float* similarities, Index n, const double* outcomes, bool accepted,
                  float same, bool room, bool by_route) noexcept;
void count_outcome(double quality, double* outcomes) noexcept;
void join_cell(const float* unit, Index dim, double* sum, double* size, float* centroid) noexcept;

// How good a route is and whether it has turned (see Levels in learning/levels.py).
struct Alarm {
    double slack, threshold, limit;
};
// Counts one outcome in; 1 or 2 where the route seems to have turned better or worse, else 0.
int follow(double* level, double* overall, double* run, double quality, double weight,
           double order, const Alarm& alarm) noexcept;

// Rounded copies of rows: row ~ scale * codes, off by a vector of length `error` at most.
struct Codes {
    const int8_t* codes;
    const float* scales;
    const float* errors;
    Index width;
};

// A fitted model of what routes achieve: rows (n_cells + n_routes, dim) are the centroids of all
// views, then what is linear in the query per route; a view is the cells from its start to the next.
struct Model {
    const float* rows;
    Index n_cells, n_routes, dim;
    const int64_t* starts;
    Index n_views, n_doubted;
    const float* table;     // (n_cells, n_routes)
    const float* variance;  // (cells of the first n_doubted views, n_routes)
    const double* level;
    const Codes* codes;  // of the centroids, none of which is longer than 1; may be null
};
// Mean and variance per route for a query. False where there was no memory to work with.
bool model_means(const Model& model, const float* x, double* mean, double* doubt) noexcept;

// Columns of the outcomes that are remembered, by row.
struct Remembered {
    const int64_t* route;
    const int64_t* order;
    const double* quality;
    const double* weight;
    const double* fitted;  // NaN where the model was not asked yet
};
struct ExpectationRule {
    double width, fresh, residual_prior, trust, low, memory_prior, edge;
    Index nth;
    int64_t learned;
};
// All that a query's expectations rest on: a model (may be null) that knows the first routes;
// n rows that are remembered and the k of them that are looked at; levels (n_routes, 6) and
// overall (3) as in `follow`.
struct Outlook {
    const Model* model;
    const float* rows;
    Codes codes;
    Index n, dim, k;
    Remembered memory;
    const double* levels;
    const double* overall;
    Index n_routes;
    ExpectationRule rule;
};
enum { NO_MEMORY = -1, NOT_ASKED = 1, UNKNOWN_ROUTE = 2 };
// What a look at a query finds: k rows and their similarities, mean and variance by the model.
struct Found {
    int64_t* rows;
    double* mean;
    double* doubt;
    float* similarities;
};
// doubles of scratch that it needs
Index found_scratch(const Outlook& outlook) noexcept;
Found found_in(const Outlook& outlook, double* scratch) noexcept;
// Asks the model and finds the nearest rows. False where there was no memory to work with.
bool look(const Outlook& outlook, const float* x, const Found& found) noexcept;
// Expected quality and its deviation per route, from what was found.
int conclude(const Outlook& outlook, const Found& found, double* expected,
             double* deviation) noexcept;
// Kernel mass and mean quality, per row, of its route among the rows nearest to it that came before.
void precedents(const Remembered& memory, const int64_t* rows, const int64_t* before, Index m,
                const int64_t* near, const float* similarities, Index k, Index nth, double width,
                double* mass, double* mean) noexcept;

struct Judgement {
    double width, memory_prior, choice_prior, fade, said_fade;
    Index nth;
};
// Lets some of n remembered rows judge what was expected of them: contest (3) takes the squared
// errors of memory and of the model, choice (2) how far the route was chosen for the query, and
// levels what the model said.
int judge(const Remembered& memory, Index n, const int64_t* rows, Index m, const int64_t* near,
          const float* similarities, Index k, const Judgement& rule, double* levels, Index n_routes,
          const double* overall, double* contest, double* choice) noexcept;

void encode_rows(const float* rows, Index n, Index dim, Index width, int8_t* codes, float* scales,
                 float* errors) noexcept;

// Do codes make `assign` faster with k centroids here?
bool screens_assignments(Index k) noexcept;
// The largest product and its centroid, the lower one where two tie; `similarities` may be null.
// With codes (points and centroids of length at most 1) the same answer is found sooner, and sooner
// still with a flag for each centroid that moved since the labels given were found.
// False where there was no memory to work with; so too top_k.
bool assign(const float* points, Index n, const float* centroids, Index k, Index dim,
            const Codes* codes, const uint8_t* moved, int32_t* labels, float* similarities,
            int n_threads) noexcept;
// Adds points to the sums of their clusters; with `before`, takes them off where they were and
// leaves those alone that stayed. Returns the first row with a label outside [0, k), or n; nothing
// is added then.
Index accumulate(const float* points, Index n, Index dim, const int32_t* labels,
                 const double* weights, const int32_t* before, Index k, double* sums,
                 double* counts) noexcept;
// out[j * n + i] = |point_i - seed_j|^2, of unit rows. False where there was no memory to work with.
bool squared_distances(const float* points, Index n, Index dim, const float* seeds, Index m,
                       float* out) noexcept;

// Rows and queries of length at most 1; codes may be null.
bool top_k(const float* rows, Index n, Index dim, const float* queries, Index n_queries, Index k,
           const Codes* codes, int64_t* indices, float* similarities, int n_threads) noexcept;

}  // namespace sona
