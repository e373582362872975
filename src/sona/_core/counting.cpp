// Where an outcome is counted: expectations of a route, the cell it belongs to, the sums it joins.
#include <math.h>

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

// level: prior (NaN: the overall mean), trust in it, total and count of outcomes, sum and weight of
// what a model said of some. overall: sum, count, squared errors. run: per side a cumulative sum,
// how many outcomes it is made of, the sum of their errors, and the order of the first.
int follow(double* level, double* overall, double* run, double quality, double weight,
           double order, const Alarm& alarm) noexcept {
    const double prior = level[0] == level[0] ? level[0] : overall[0] / overall[1];
    const double expected = (level[2] + level[1] * prior) / (level[3] + level[1]);
    const double taken = quality - level[4] / (level[5] + 4.0);
    const double error = taken - expected;
    level[2] += weight * taken;
    level[3] += weight;
    overall[0] += weight * taken;
    overall[1] += weight;
    overall[2] += weight * error * error;
    const double root = sqrt(overall[2] / overall[1]);
    const double scaled = error / (root > 0.05 ? root : 0.05);
    const double limited =
        scaled > alarm.limit ? alarm.limit : scaled < -alarm.limit ? -alarm.limit : scaled;
    int turned = 0;
    for (int side = 0; side < 2; ++side, run += 4) {
        const double total = run[0] + (side ? -limited : limited) - alarm.slack;
        if (total <= 0.0) {
            run[0] = run[1] = run[2] = 0.0;
            run[3] = order + 1.0;
            continue;
        }
        run[0] = total;
        run[1] += 1.0;
        run[2] += error;
        if (total > alarm.threshold && !turned) turned = side + 1;
    }
    return turned;
}

}  // namespace sona
