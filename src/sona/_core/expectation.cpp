// What a query may expect of each route: a fitted model, corrected by what was tried near it.
#include <math.h>

#include <new>
#include <vector>

#include "core.h"
#include "sieve.h"

namespace sona {

namespace {
// Below this a kernel would be a choice of the single nearest row.
const double LEAST_SCALE = 1e-4;
// Outcomes of a route scatter by this much at least.
const double LEAST_SCATTER = 0.05;
const double TINY = 1e-300;

// The weights of neighbours, best first: they fall with distance relative to that of the nth one.
struct NearKernel {
    double inverse;

    NearKernel(const float* similarities, Index k, Index nth, double width) {
        const double scale = width * (1.0 - (double)similarities[(nth < k ? nth : k) - 1]);
        inverse = 1.0 / (scale > LEAST_SCALE ? scale : LEAST_SCALE);
    }

    double operator()(float similarity) const {
        return exp((similarity - 1.0) * inverse);
    }
};

// Bends what a linear model says into (0, 1), keeping the order: clipping would make ties.
double inside(double value, double edge) {
    if (value < edge) return edge * exp(value / edge - 1.0);
    if (value > 1.0 - edge) return 1.0 - edge * exp((1.0 - value) / edge - 1.0);
    return value;
}

double clipped(double value) { return value < 0.0 ? 0.0 : value > 1.0 ? 1.0 : value; }

// What a model's answer needs; kept per thread, so that it allocates nothing.
struct Room {
    std::vector<float> lower, upper, products;
    std::vector<int32_t> coded;
    std::vector<int64_t> cells, ends;
    std::vector<int8_t> query;
};

Room& cells_room() {
    static thread_local Room own;
    return own;
}

std::vector<double>& sums_room() {
    static thread_local std::vector<double> own;
    return own;
}

// The cell after the last of a view.
Index end_of(const Model& model, Index view) {
    return view + 1 < model.n_views ? (Index)model.starts[view + 1] : model.n_cells;
}

// Products of the query with the cells that may be the nearest of their view, in order of the
// cells; a view's end at `ends`. Codes are a quarter of what would be read, and leave a few cells.
void sift_cells(const Model& model, const float* x, Room& room) {
    const Codes& codes = *model.codes;
    const CodeKernels& kernels = *active().codes;
    const size_t n = (size_t)model.n_cells;
    room.query.assign((size_t)codes.width, 0);
    room.coded.resize(n);
    room.lower.resize(n);
    room.upper.resize(n);
    const CodeBounds q = kernels.encode(x, model.dim, 127, room.query.data());
    kernels.dots(codes.codes, model.n_cells, codes.width, room.query.data(), room.coded.data());
    float* lower = room.lower.data();
    float* upper = room.upper.data();
    // Widened, because the products that are compared are float32's.
    ends_of(room.coded.data(), codes.scales, codes.errors, model.n_cells, q.scale,
            CodeSlack(q.error), rounding_of(model.dim), lower, upper);
    room.cells.clear();
    room.ends.clear();
    for (Index v = 0; v < model.n_views; ++v) {
        const Index begin = (Index)model.starts[v], end = end_of(model, v);
        float floor = -INFINITY;
        for (Index i = begin; i < end; ++i) floor = lower[i] > floor ? lower[i] : floor;
        for (Index i = begin; i < end; ++i)
            if (upper[i] >= floor) room.cells.push_back(i);
        room.ends.push_back((int64_t)room.cells.size());
    }
    room.products.resize(room.cells.size());
    active().rows->dots_at(model.rows, model.dim, room.cells.data(), (Index)room.cells.size(), x,
                           room.products.data());
}

// The same with all cells.
void all_cells(const Model& model, const float* x, Room& room) {
    const size_t n = (size_t)model.n_cells;
    room.cells.resize(n);
    room.products.resize(n);
    room.ends.clear();
    for (size_t i = 0; i < n; ++i) room.cells[i] = (int64_t)i;
    for (Index v = 0; v < model.n_views; ++v) room.ends.push_back(end_of(model, v));
    active().rows->dots(model.rows, model.n_cells, model.dim, x, room.products.data());
}

// What was tried near a query, summed by route.
struct Near {
    double support, pull, mass, total, squares;
};
}  // namespace

bool model_means(const Model& model, const float* x, double* mean, double* doubt) noexcept {
    const Index n_routes = model.n_routes;
    Room& room = cells_room();
    try {
        if (model.codes)
            sift_cells(model, x, room);
        else
            all_cells(model, x, room);
        room.lower.resize((size_t)n_routes);
    } catch (const std::bad_alloc&) {
        return false;
    }
    float* linear = room.lower.data();
    active().rows->dots(model.rows + model.n_cells * model.dim, n_routes, model.dim, x, linear);
    for (Index r = 0; r < n_routes; ++r) {
        mean[r] = model.level[r] + linear[r];
        doubt[r] = 0.0;
    }
    size_t at = 0;
    for (Index v = 0; v < model.n_views; ++v) {
        size_t best = at;
        for (; at < (size_t)room.ends[(size_t)v]; ++at)
            if (room.products[at] > room.products[best]) best = at;
        const Index cell = (Index)room.cells[best];
        for (Index r = 0; r < n_routes; ++r) mean[r] += model.table[cell * n_routes + r];
        if (v < model.n_doubted)
            for (Index r = 0; r < n_routes; ++r)
                doubt[r] += (double)model.variance[cell * n_routes + r] / (double)model.n_doubted;
    }
    return true;
}

Index found_scratch(const Outlook& o) noexcept {
    return o.k + (o.k + 1) / 2 + (o.model ? 2 * o.model->n_routes : 0);
}

Found found_in(const Outlook& o, double* scratch) noexcept {
    double* mean = scratch + o.k;
    double* doubt = mean + (o.model ? o.model->n_routes : 0);
    return {(int64_t*)scratch, mean, doubt, (float*)(doubt + (doubt - mean))};
}

bool look(const Outlook& o, const float* x, const Found& f) noexcept {
    if (o.model && !model_means(*o.model, x, f.mean, f.doubt)) return false;
    return !o.k || top_k(o.rows, o.n, o.dim, x, 1, o.k, &o.codes, f.rows, f.similarities, 1);
}

int conclude(const Outlook& o, const Found& f, double* expected, double* deviation) noexcept {
    const int64_t* rows = f.rows;
    const float* similarities = f.similarities;
    const Remembered& memory = o.memory;
    const ExpectationRule& rule = o.rule;
    const Index n = o.n_routes, n_modelled = o.model ? o.model->n_routes : 0, k = o.k;
    std::vector<double>& room = sums_room();
    try {
        room.assign((size_t)n * (sizeof(Near) / sizeof(double)), 0.0);
    } catch (const std::bad_alloc&) {
        return NO_MEMORY;
    }
    Near* near = (Near*)room.data();
    const double overall = o.overall[0] / o.overall[1];
    const double scatter = sqrt(o.overall[2] / o.overall[1]);
    const double noise = scatter > LEAST_SCATTER ? scatter * scatter : LEAST_SCATTER * LEAST_SCATTER;
    // The mean quality of each route now; `deviation` holds variances until the end.
    for (Index r = 0; r < n; ++r) {
        const double* level = o.levels + 6 * r;
        const bool known = level[0] == level[0];
        expected[r] = (level[2] + level[1] * (known ? level[0] : overall)) / (level[3] + level[1]);
        // The variance of a level that came with the model is part of the model's own.
        deviation[r] = known ? 0.0 : noise / (level[3] + 1.0);
    }
    if (k) {
        const NearKernel weigh(similarities, k, rule.nth, rule.width);
        for (Index j = 0; j < k; ++j) {
            const int64_t row = rows[j], r = memory.route[row];
            if (r < 0 || r >= n) return UNKNOWN_ROUTE;
            if (memory.fitted[row] != memory.fitted[row]) return NOT_ASKED;
            const double mass = memory.weight[row], voice = mass * weigh(similarities[j]);
            const double quality = clipped(memory.quality[row]);
            const double weight = voice + (memory.order[row] >= rule.learned ? rule.fresh * mass : 0.0);
            Near& own = near[r];
            own.support += weight;
            own.pull += weight * (memory.quality[row] - memory.fitted[row] - expected[r]);
            own.mass += voice;
            own.total += voice * quality;
            own.squares += voice * voice / mass;
        }
    }
    for (Index r = 0; r < n; ++r) {
        double value = expected[r], variance = deviation[r];
        if (r < n_modelled) {
            value += f.mean[r] - o.model->level[r];
            variance += f.doubt[r];
        }
        if (k) {
            const Near& own = near[r];
            const double support = own.support + rule.residual_prior;
            value += own.pull / support;
            variance *= rule.residual_prior / support;
            if (rule.trust > 0.0) {
                const double local =
                    (own.total + rule.memory_prior * rule.low) / (own.mass + rule.memory_prior);
                const double voices =
                    own.mass * own.mass / (own.squares > TINY ? own.squares : TINY);
                const double smooth = (local * voices + 0.5) / (voices + 1.0);
                const double apart = value - local;
                variance = (1.0 - rule.trust) * variance +
                           rule.trust * smooth * (1.0 - smooth) / (voices + 1.0) +
                           rule.trust * (1.0 - rule.trust) * apart * apart;
                value -= rule.trust * apart;
            }
        }
        expected[r] = inside(value, rule.edge);
        deviation[r] = sqrt(variance);
    }
    return 0;
}

namespace {
// What preceded a remembered row: its like, near it; and how its nearest others voted.
struct Preceding {
    double mass, mean, others, agree;
};

Preceding look_back(const Remembered& memory, int64_t own, int64_t before, const int64_t* near,
                    const float* similarities, Index k, Index nth, double width) {
    const int64_t route = memory.route[own];
    const NearKernel weigh(similarities, k, nth, width);
    double mass = 0.0, total = 0.0, votes = 0.0, agreed = 0.0;
    Index others = 0;
    for (Index j = 0; j < k; ++j) {
        const int64_t row = near[j];
        const double weight = memory.weight[row];
        const bool same = memory.route[row] == route;
        if (same && memory.order[row] < before) {
            const double voice = weight * weigh(similarities[j]);
            mass += voice;
            total += voice * memory.quality[row];
        }
        if (row != own && others < nth) {
            ++others;
            votes += weight;
            agreed += same ? weight : 0.0;
        }
    }
    const double mean = total / (mass > TINY ? mass : TINY);
    return {mass, mean, (double)others, (double)others * agreed / (votes > TINY ? votes : TINY)};
}
}  // namespace

void precedents(const Remembered& memory, const int64_t* rows, const int64_t* before, Index m,
                const int64_t* near, const float* similarities, Index k, Index nth, double width,
                double* mass, double* mean) noexcept {
    for (Index i = 0; i < m; ++i, near += k, similarities += k) {
        const Preceding found =
            look_back(memory, rows[i], before[i], near, similarities, k, nth, width);
        mass[i] = found.mass;
        mean[i] = found.mean;
    }
}

int judge(const Remembered& memory, Index n, const int64_t* rows, Index m, const int64_t* near,
          const float* similarities, Index k, const Judgement& rule, double* levels, Index n_routes,
          const double* overall, double* contest, double* choice) noexcept {
    std::vector<double>& totals = sums_room();
    try {
        totals.assign((size_t)n_routes, 0.0);
    } catch (const std::bad_alloc&) {
        return NO_MEMORY;
    }
    double everything = 0.0;
    for (Index i = 0; i < n; ++i) {
        const int64_t route = memory.route[i];
        if (route < 0 || route >= n_routes) return UNKNOWN_ROUTE;
        totals[(size_t)route] += memory.weight[i];
        everything += memory.weight[i];
    }
    for (Index i = 0; i < m; ++i)
        if (memory.fitted[rows[i]] != memory.fitted[rows[i]]) return NOT_ASKED;
    for (Index i = 0; i < m; ++i, near += k, similarities += k) {
        const int64_t row = rows[i], route = memory.route[row];
        const Preceding found =
            look_back(memory, row, memory.order[row], near, similarities, k, rule.nth, rule.width);
        if (n_routes > 1 && found.others > 0.0) {
            const double weight = memory.weight[row];
            const double share = (totals[(size_t)route] - weight + 1.0) /
                                 (everything - weight + (double)n_routes);
            const double agree = (found.agree + rule.choice_prior * share) /
                                 (found.others + rule.choice_prior);
            choice[0] = rule.fade * choice[0] + log(agree / share);
            choice[1] = rule.fade * choice[1] + 1.0;
        }
        double* level = levels + 6 * route;
        level[4] = rule.said_fade * level[4] + memory.fitted[row];
        level[5] = rule.said_fade * level[5] + 1.0;
        const double prior = level[0] == level[0] ? level[0] : overall[0] / overall[1];
        const double modelled =
            memory.fitted[row] + (level[2] + level[1] * prior) / (level[3] + level[1]);
        const double recalled = (found.mass * found.mean + rule.memory_prior * 0.5) /
                                (found.mass + rule.memory_prior);
        const double by_memory = recalled - memory.quality[row];
        const double by_model = modelled - memory.quality[row];
        contest[0] = rule.fade * contest[0] + by_memory * by_memory;
        contest[1] = rule.fade * contest[1] + by_model * by_model;
        contest[2] = rule.fade * contest[2] + 1.0;
    }
    return 0;
}

}  // namespace sona
