// Where an outcome is counted: expectations of a route, the cell it belongs to, the sums it joins.
#include "core.h"

namespace sona {

void expected_values(const double* outcomes, Index n, double blind, double floor, double strength,
                     float* values) noexcept {
    double count[2] = {0.0, 0.0}, total[2] = {0.0, 0.0};
    for (Index i = 0; i < n; ++i) {
        count[i & 1] += outcomes[3 * i];
        total[i & 1] += outcomes[3 * i + 1];
    }
    const double prior =
        blind * (total[0] + total[1] + 0.5) / (count[0] + count[1] + 1.0) + floor;
    for (Index i = 0; i < n; ++i)
        values[i] = (float)((outcomes[3 * i + 1] + strength * prior) / (outcomes[3 * i] + strength));
}

Index choose_cell(const float* similarities, Index n, const double* outcomes, bool accepted,
                  float same, bool room, bool by_route) noexcept {
    Index best = 0;
    for (Index i = 1; i < n; ++i)
        if (similarities[i] > similarities[best]) best = i;
    if (!accepted || similarities[best] >= same) return best;
    if (room) return FOUND_ONE;
    if (!by_route) return best;
    Index home = NO_HOME;
    for (Index i = 0; i < n; ++i)
        if (outcomes[3 * i + 1] > 0.0 && (home < 0 || similarities[i] > similarities[home]))
            home = i;
    return home;
}

void count_outcome(double quality, double* outcomes) noexcept {
    outcomes[0] += 1.0;
    outcomes[1] += quality;
    outcomes[2] += quality * quality;
}

void join_cell(const float* unit, Index dim, double* sum, double* size, float* centroid) noexcept {
    active().rows->add_row(unit, dim, 1.0, sum);
    *size += 1.0;
    active().bank->settle(sum, dim, centroid);
}

}  // namespace sona
