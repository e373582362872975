// Exact top-k by inner product of rows and queries of length at most 1.
//
// Three sieves, each finer and each with a bound of its error, so that what falls through could
// not have been among the k best: 8-bit codes of the rows (a quarter of the memory traffic), then
// float32, then double, which also decides the order. The answer is that of double arithmetic
// whatever the path, the instruction set or the number of threads.
#include <math.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <new>
#include <vector>

#include "core.h"
#include "panels.h"
#include "parallel.h"
#include "sieve.h"

namespace sona {

namespace {

// Rows whose products are held at a time.
const Index BLOCK = 1024;
// Fewer rows than this are not worth a coarse sieve.
const Index FEW_ROWS = 96;
// Candidates beyond the k best that are not worth a floor of their own.
const Index FEW_MORE = 32;
// From this many rows on coding a group of queries pays.
const Index MANY_ROWS = 2048;
// From this many queries on, a group of them is worth packing; more than GROUP leave the cache.
const Index FEW_QUERIES = 4;
const Index GROUP = 96;

// Blocks double from a small one on: the first rows set a floor that spares most of the others.
Index next_block(Index done, Index left, Index largest) {
    return std::min(left, std::min(largest, std::max(done, (Index)24)));
}

struct Exact {
    double similarity;
    Index row;
};

bool better(const Exact& a, const Exact& b) {
    return a.similarity > b.similarity || (a.similarity == b.similarity && a.row < b.row);
}

// What a search needs besides its arguments; kept per thread, so that a small search allocates
// nothing.
struct Workspace {
    Sieve coarse, fine;
    std::vector<int8_t> query_codes;
    std::vector<Exact> exact;
};

Workspace& workspace() {
    static thread_local Workspace own;
    return own;
}

struct Search {
    const float* rows;
    Index dim, k;
    const Codes* codes;
    const RowKernels& row_kernels;
    const CodeKernels& code_kernels;
    float rounding;  // of a float32 product

    // Rows [begin, end) that may be among the k best by their codes.
    void coarse_sieve(const float* query, Index begin, Index end, Workspace& w) const {
        w.query_codes.resize((size_t)codes->width);
        std::fill(w.query_codes.begin() + dim, w.query_codes.end(), (int8_t)0);
        const CodeBounds q = code_kernels.encode(query, dim, 127, w.query_codes.data());
        const CodeSlack slack(q.error);
        int32_t products[BLOCK];
        float lower[BLOCK], upper[BLOCK];
        w.coarse.reset(k);
        for (Index i = begin, m; i < end; i += m) {
            m = std::min(BLOCK, end - i);
            code_kernels.dots(codes->codes + i * codes->width, m, codes->width,
                              w.query_codes.data(), products);
            ends_of(products, codes->scales + i, codes->errors + i, m, q.scale, slack, 0.0f, lower,
                    upper);
            w.coarse.add([=](Index j) { return i + j; }, lower, upper, m);
        }
        refine(query, w.coarse, w.fine);
    }

    // What a sieve left, without the rows that k equal ones precede: of equal rows the first win.
    // Equal rows have equal upper ends, so one look at the last row with the same upper end finds
    // them; where other rows got in between, some are kept, which costs time and nothing else.
    const Sieve& contenders(Sieve& sieve) const {
        sieve.tighten();
        if (sieve.size() < 2 * k + 64) return sieve;
        struct Kind {
            const float* row;
            Index copies;
        } kinds[64] = {};
        sieve.keep([&](Index i) {
            uint32_t bits;
            memcpy(&bits, sieve.upper() + i, 4);
            Kind& kind = kinds[bits * 2654435769u >> 26];
            const float* row = rows + sieve.rows()[i] * dim;
            if (!kind.row || memcmp(kind.row, row, (size_t)dim * sizeof(float)) != 0)
                kind = {row, 0};
            return ++kind.copies <= k;
        });
        return sieve;
    }

    // Float32 products with their ends.
    template <class Row>
    void add_products(const Row& row, const float* products, Index n, Sieve& fine) const {
        float lower[BLOCK], upper[BLOCK];
        for (Index j = 0; j < n; ++j) {
            lower[j] = products[j] - rounding;
            upper[j] = products[j] + rounding;
        }
        fine.add(row, lower, upper, n);
    }

    // Survivors of the codes, sieved by their float32 products. The k that promise most come first:
    // the floor that they set spares half of the others, which need not be read then. Equal rows
    // promise the same, so they stay in order.
    void refine(const float* query, Sieve& coarse, Sieve& fine) const {
        fine.reset(k);
        const Sieve& left = contenders(coarse);
        const bool many = left.size() > k + FEW_MORE;
        const float first = many ? reached_by(left.upper(), left.size(), k) : -INFINITY;
        int64_t index[BLOCK];
        float products[BLOCK];
        for (const bool promising : {true, false})
            for (Index i = 0; i < left.size();) {
                Index m = 0;
                for (; i < left.size() && m < BLOCK; ++i) {
                    const float upper = left.upper()[i];
                    index[m] = left.rows()[i];
                    m += (upper >= first) == promising && upper >= fine.floor();
                }
                if (!m) continue;
                row_kernels.dots_at(rows, dim, index, m, query, products);
                add_products([&](Index j) { return index[j]; }, products, m, fine);
            }
    }

    void fine_sieve(const float* query, Index begin, Index end, Workspace& w) const {
        float products[BLOCK];
        w.fine.reset(k);
        for (Index i = begin; i < end; i += BLOCK) {
            const Index m = std::min(BLOCK, end - i);
            row_kernels.dots(rows + i * dim, m, dim, query, products);
            add_products([=](Index j) { return i + j; }, products, m, w.fine);
        }
    }

    // The k best of the fine sieve's survivors, best first.
    void decide(const float* query, Sieve& sieve, std::vector<Exact>& best) const {
        best.clear();
        const Sieve& left = contenders(sieve);
        double exact[BLOCK];
        for (Index i = 0; i < left.size(); i += BLOCK) {
            const Index m = std::min(BLOCK, left.size() - i);
            const int64_t* index = left.rows() + i;
            row_kernels.dots_wide_at(rows, dim, index, m, query, exact);
            for (Index j = 0; j < m; ++j) best.push_back({exact[j], (Index)index[j]});
        }
        keep_best(best);
    }

    void keep_best(std::vector<Exact>& best) const {
        const size_t kept = std::min(best.size(), (size_t)k);
        std::nth_element(best.begin(), best.begin() + (Index)kept, best.end(), better);
        best.resize(kept);
        std::sort(best.begin(), best.end(), better);
    }

    void one(const float* query, Index begin, Index end, Workspace& w) const {
        if (codes && end - begin >= FEW_ROWS)
            coarse_sieve(query, begin, end, w);
        else
            fine_sieve(query, begin, end, w);
        decide(query, w.fine, w.exact);
    }

    // All queries of a group share each row that is read.
    void group(const TileKernels& tiles, const float* queries, Index m, Index n, int64_t* indices,
               float* similarities) const {
        const Index n_panels = panel_count(m, tiles.lanes);
        const Block<float> panels(n_panels * (dim + 1) * tiles.lanes);
        if (!panels.get()) throw std::bad_alloc();
        std::vector<float> thresholds((size_t)(n_panels * tiles.lanes), INFINITY);
        std::vector<Hit> hits((size_t)(n_panels * tiles.lanes * tiles.block));
        std::vector<Sieve> sieves((size_t)m);
        pack_panels(queries, m, dim, tiles.lanes, panels.get());
        for (Index q = 0; q < m; ++q) {
            sieves[(size_t)q].reset(k);
            thresholds[(size_t)q] = -INFINITY;
        }
        for (Index i = 0, part; i < n; i += part) {
            part = next_block(i, n - i, tiles.block);
            const Index found = tiles.beating(rows + i * dim, part, dim, panels.get(), n_panels,
                                              thresholds.data(), hits.data());
            for (Index h = 0; h < found; ++h) {
                const Hit& hit = hits[(size_t)h];
                Sieve& sieve = sieves[(size_t)hit.column];
                sieve.add(i + hit.row, hit.product - rounding, hit.product + rounding);
                thresholds[(size_t)hit.column] = sieve.floor() - 2.0f * rounding;
            }
        }
        std::vector<Exact> best;
        for (Index q = 0; q < m; ++q) {
            decide(queries + q * dim, sieves[(size_t)q], best);
            write(best, indices + q * k, similarities + q * k);
        }
    }

    // The same by the codes of the rows and of the queries; float32 sees only what they leave.
    void coded_group(const CodeTileKernels& tiles, const float* queries, Index m, Index n,
                     int64_t* indices, float* similarities) const {
        const CodePanels panels(queries, m, dim, codes->width, active());
        const size_t columns = (size_t)panels.columns();
        // upper end = product * scale + error * by_error + constant, as in coarse_sieve
        std::vector<float> by_error(columns), constant(columns), thresholds(columns, INFINITY);
        std::vector<Sieve> sieves((size_t)m);
        for (size_t q = 0; q < (size_t)m; ++q) {
            const CodeSlack slack(panels.errors()[q]);
            by_error[q] = slack.by_error;
            constant[q] = slack.constant;
            thresholds[q] = -INFINITY;
            sieves[q].reset(k);
        }
        std::vector<float> values((size_t)tiles.block * columns);
        std::vector<int32_t> hits(columns);
        std::vector<int64_t> own((size_t)tiles.block);
        for (Index i = 0, part; i < n; i += part) {
            part = next_block(i, n - i, tiles.block);
            for (Index r = 0; r < part; ++r) own[(size_t)r] = i + r;
            tiles.products(codes->codes, own.data(), part, codes->width, panels.codes(),
                           panels.count(), panels.scales(), values.data());
            for (Index r = 0; r < part; ++r) {
                const float scale = codes->scales[i + r], error = codes->errors[i + r];
                const float* value = values.data() + (size_t)r * columns;
                const Index found = tiles.above(value, (Index)columns, scale, error,
                                                by_error.data(), thresholds.data(), hits.data());
                for (Index h = 0; h < found; ++h) {
                    const size_t q = (size_t)hits[(size_t)h];
                    const float product = value[q] * scale;
                    const float off = error * by_error[q] + constant[q];
                    sieves[q].add(i + r, product - off, product + off);
                    thresholds[q] = sieves[q].floor() - constant[q];
                }
            }
        }
        Sieve fine;
        std::vector<Exact> best;
        for (Index q = 0; q < m; ++q) {
            refine(queries + q * dim, sieves[(size_t)q], fine);
            decide(queries + q * dim, fine, best);
            write(best, indices + q * k, similarities + q * k);
        }
    }

    void write(const std::vector<Exact>& best, int64_t* indices, float* similarities) const {
        for (size_t i = 0; i < best.size(); ++i) {
            indices[i] = best[i].row;
            similarities[i] = (float)best[i].similarity;
        }
    }
};

}  // namespace

bool top_k(const float* rows, Index n, Index dim, const float* queries, Index n_queries, Index k,
           const Codes* codes, int64_t* indices, float* similarities, int n_threads) noexcept {
    const Kernels& kernels = active();
    const Search search{rows, dim, k, codes, *kernels.rows, *kernels.codes, rounding_of(dim)};
    std::atomic<bool> done(true);
    const auto guarded = [&](const auto& work) {
        try {
            work();
        } catch (const std::exception&) {
            done = false;
        }
    };

    if (n_queries < FEW_QUERIES && n_threads > 1 && n > BLOCK) {
        // Too few queries to share out: the threads share the rows.
        for (Index q = 0; q < n_queries; ++q) guarded([&] {
            const float* query = queries + q * dim;
            std::vector<std::vector<Exact>> parts((size_t)n_threads);
            std::atomic<int> next(0);
            parallel_rows(n, n_threads, [&](Index begin, Index end) {
                guarded([&] {
                    Workspace& w = workspace();
                    search.one(query, begin, end, w);
                    parts[(size_t)next++] = w.exact;
                });
            });
            std::vector<Exact> best;
            for (const std::vector<Exact>& part : parts)
                best.insert(best.end(), part.begin(), part.end());
            search.keep_best(best);
            search.write(best, indices + q * k, similarities + q * k);
        });
        return done;
    }
    parallel_rows(n_queries, n_threads, [&](Index begin, Index end) {
        guarded([&] {
            for (Index q = begin; q < end;) {
                const Index m = std::min(GROUP, end - q);
                if (m < FEW_QUERIES) {
                    Workspace& w = workspace();
                    search.one(queries + q * dim, 0, n, w);
                    search.write(w.exact, indices + q * k, similarities + q * k);
                    ++q;
                    continue;
                }
                if (codes && kernels.code_tiles->lanes > 0 && n >= MANY_ROWS)
                    search.coded_group(*kernels.code_tiles, queries + q * dim, m, n,
                                       indices + q * k, similarities + q * k);
                else
                    search.group(*kernels.tiles, queries + q * dim, m, n, indices + q * k,
                                 similarities + q * k);
                q += m;
            }
        });
    });
    return done;
}

}  // namespace sona
