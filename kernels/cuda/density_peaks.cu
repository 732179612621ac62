// Clustering by density peaks of the weighted cells of a heatmap, one block an image. kernels/density_peaks.py says what
// is computed.

#define MAX_THREADS 256
#include "block.cuh"

// Densities are rounded to this many bits below the image's peak; see kernels/density_peaks.py.
constexpr int DENSITY_BITS = 40;
// From which share of the greatest density on a maximum is anything of a centre, and to how many bits that is rounded.
constexpr double LEAST_DENSITY = 0.1;
constexpr int MASS_BITS = 40;

// What stands at a cell: nothing that matters, a local maximum of the density, or a centre.
enum Kind { ORDINARY, MAXIMUM, CENTRE };

struct Cells {
    int height, width, count;
    double* density;  // -1 where the weight is 0, so that such a cell is never denser than anything
    double* delta;  // at local maxima
};

// The total order of cells: denser is the higher density, among equals the lower index.
__device__ inline bool is_denser(const Cells& cells, int other, int cell) {
    return cells.density[other] > cells.density[cell] || (cells.density[other] == cells.density[cell] && other < cell);
}

// The order of centres: greater density * delta, then the denser.
__device__ inline bool ranks_before(const Cells& cells, int other, int cell) {
    const double other_gamma = cells.density[other] * cells.delta[other];
    const double gamma = cells.density[cell] * cells.delta[cell];
    return other_gamma > gamma || (other_gamma == gamma && is_denser(cells, other, cell));
}

// How many cells of this kind or a higher one rank before `cell`.
__device__ inline int position(const Cells& cells, const int* kind, int least, int cell) {
    int before = 0;
    for (int other = 0; other < cells.count; ++other) before += kind[other] >= least && ranks_before(cells, other, cell);
    return before;
}

// The nearest denser of the 8 neighbours, of equally near ones the one of the lowest index; the cell itself for none.
__device__ inline int denser_neighbour(const Cells& cells, int cell) {
    const int y = cell / cells.width, x = cell % cells.width;
    int nearest = cell, least = 3;
    for (int dy = -1; dy <= 1; ++dy) {
        for (int dx = -1; dx <= 1; ++dx) {
            if (y + dy < 0 || y + dy >= cells.height || x + dx < 0 || x + dx >= cells.width) continue;
            const int other = cell + dy * cells.width + dx, squared = dy * dy + dx * dx;
            if (squared > 0 && squared < least && is_denser(cells, other, cell)) {
                nearest = other;
                least = squared;
            }
        }
    }
    return nearest;
}

// The nearest denser cell of a local maximum, and in `squared` how far it is; for the densest cell itself, and how far
// the farthest cell of positive weight is.
__device__ inline int nearest_denser(const Cells& cells, int cell, int* squared) {
    const int y = cell / cells.width, x = cell % cells.width;
    const int beyond = cells.height * cells.height + cells.width * cells.width;
    int nearest = cell, least = beyond, most = 0, other = 0;
    for (int dy = -y; dy < cells.height - y; ++dy) {
        for (int dx = -x; dx < cells.width - x; ++dx, ++other) {
            if (cells.density[other] < 0) continue;
            const int apart = dy * dy + dx * dx;
            if (apart > most) most = apart;
            if (apart < least && is_denser(cells, other, cell)) {
                least = apart;
                nearest = other;
            }
        }
    }
    *squared = nearest == cell ? most : least;
    return nearest;
}

// Fill in the rounded density; `delta` and `rows` are overwritten.
__device__ inline void gaussian_density(const Cells& cells, double* heat, double* rows, double* gaussian, double cutoff) {
    const int longest = cells.height > cells.width ? cells.height : cells.width;
    for (int d = threadIdx.x; d < longest; d += blockDim.x) {
        const double ratio = d / cutoff;
        gaussian[d] = exp(-(ratio * ratio));
    }
    __syncthreads();
    for (int cell = threadIdx.x; cell < cells.count; cell += blockDim.x) {
        const int y = cell / cells.width, x = cell % cells.width;
        double sum = 0;
        for (int row = 0; row < cells.height; ++row) {
            sum += gaussian[row < y ? y - row : row - y] * heat[row * cells.width + x];
        }
        rows[cell] = sum;
    }
    __syncthreads();
    Best greatest{0, 0};
    for (int cell = threadIdx.x; cell < cells.count; cell += blockDim.x) {
        const int x = cell % cells.width;
        const double* row = rows + (cell - x);
        double sum = 0;
        for (int column = 0; column < cells.width; ++column) sum += row[column] * gaussian[column < x ? x - column : column - x];
        cells.density[cell] = sum;
        greatest.meet(sum, cell);
    }
    int exponent;
    frexp(block_best(greatest).value, &exponent);
    for (int cell = threadIdx.x; cell < cells.count; cell += blockDim.x) {
        const double rounded = ldexp(rint(ldexp(cells.density[cell], DENSITY_BITS - exponent)), exponent - DENSITY_BITS);
        cells.density[cell] = heat[cell] > 0 ? rounded : -1;
    }
}

// The highest pass from a local maximum to a denser cell, 0 where no path from `floor` on leads there. All threads of the
// block call it together; both arrays of cells are overwritten. How high one can stay on the way to each cell grows by a
// neighbour in each round, of which the floor leaves few.
__device__ inline double saddle(const Cells& cells, int peak, double floor, double* reach, double* further) {
    for (int cell = threadIdx.x; cell < cells.count; cell += blockDim.x) {
        reach[cell] = cell == peak ? cells.density[peak] : -1;
    }
    __syncthreads();
    int changed;
    do {
        changed = 0;
        for (int cell = threadIdx.x; cell < cells.count; cell += blockDim.x) {
            const int y = cell / cells.width, x = cell % cells.width;
            const int top = y > 0 ? y - 1 : 0, bottom = y + 1 < cells.height ? y + 1 : y;
            const int left = x > 0 ? x - 1 : 0, right = x + 1 < cells.width ? x + 1 : x;
            double greatest = -1;
            for (int row = top; row <= bottom; ++row) {
                for (int column = left; column <= right; ++column) {
                    const double other = reach[row * cells.width + column];
                    if (other > greatest) greatest = other;
                }
            }
            greatest = greatest < cells.density[cell] ? greatest : cells.density[cell];
            further[cell] = greatest >= floor ? greatest : -1;
            changed |= further[cell] > reach[cell];
        }
        double* last = reach;
        reach = further;
        further = last;
    } while (__syncthreads_or(changed));
    Best pass{0, cells.count};
    for (int cell = threadIdx.x; cell < cells.count; cell += blockDim.x) {
        if (cells.density[cell] >= 0 && is_denser(cells, cell, peak)) pass.meet(reach[cell], cell);
    }
    return block_best(pass).value;
}

// How much of a centre each local maximum is, -1 for the densest cell; returns how many centres there are beside that.
// The arrays of `saddle` are overwritten.
__device__ inline double masses(
    const Cells& cells, const Best& densest, const int* kind, double* reach, double* further, double min_density,
    double prominence, double* mass
) {
    double sum = 0;
    for (int peak = 0; peak < cells.count; ++peak) {
        if (kind[peak] != MAXIMUM) continue;
        const double height = cells.density[peak] / densest.value;
        double share = peak == densest.index ? 0 : (height - LEAST_DENSITY) / (min_density - LEAST_DENSITY);
        share = share > 1 ? 1 : share;
        double own = 0;
        if (share > 0) {
            // Below this a pass makes no difference: the maximum counts in full.
            const double floor = cells.density[peak] - prominence * densest.value;
            const double rise = (cells.density[peak] - saddle(cells, peak, floor, reach, further)) / densest.value;
            own = share * ((rise < prominence ? rise : prominence) / prominence);
            own = ldexp(rint(ldexp(own, MASS_BITS)), -MASS_BITS);
        }
        if (threadIdx.x != peak % blockDim.x) continue;
        mass[peak] = peak == densest.index ? -1 : own;
        sum += own;
    }
    return floor(block_sum(sum) + 0.5);  // its barriers also part the masses from those who read them
}

// How many local maxima are more of a centre than `cell`; among equals the denser one is.
__device__ inline int heavier(const Cells& cells, const int* kind, const double* mass, int cell) {
    int before = 0;
    for (int other = 0; other < cells.count; ++other) {
        if (kind[other] == ORDINARY) continue;
        before += mass[other] > mass[cell] || (mass[other] == mass[cell] && is_denser(cells, other, cell));
    }
    return before;
}

// State: doubles heat[cells], rows[cells], density[cells], gaussian[max(height, width)] and, with a prominence,
// mass[cells], reach[cells]; ints parent[cells], kind[cells], number[cells].
template <class T>
__device__ void density_peaks(
    double* arena, const T* weights, const long long* n_centres, int height, int width, int slots, double cutoff,
    double min_density, double min_distance, double prominence, int* labels, long long* n_clusters, double* density,
    double* delta, double* centres
) {
    const int count = height * width;
    double* heat = arena;
    double* rows = heat + count;
    // Nobody looks at the rows once the densities stand.
    const Cells cells{height, width, count, rows + count, rows};
    double* gaussian = cells.density + count;
    double* mass = gaussian + (height > width ? height : width);
    double* reach = mass + count;
    int* parent = reinterpret_cast<int*>(prominence > 0 ? reach + count : mass);
    int* kind = parent + count;
    int* number = kind + count;
    const size_t first = static_cast<size_t>(blockIdx.x) * count, first_slot = static_cast<size_t>(blockIdx.x) * slots;

    for (int k = threadIdx.x; k < 2 * slots; k += blockDim.x) centres[first_slot * 2 + k] = not_a_number();
    int bad = 0;
    for (int cell = threadIdx.x; cell < count; cell += blockDim.x) {
        heat[cell] = weights[first + cell];
        bad |= !is_heat(heat[cell]);
    }
    if (__syncthreads_or(bad)) {
        for (int cell = threadIdx.x; cell < count; cell += blockDim.x) {
            labels[first + cell] = -1;
            density[first + cell] = delta[first + cell] = not_a_number();
        }
        if (threadIdx.x == 0) n_clusters[blockIdx.x] = -1;
        return;
    }

    gaussian_density(cells, heat, rows, gaussian, cutoff);
    Best densest{-1, count};
    for (int cell = threadIdx.x; cell < count; cell += blockDim.x) densest.meet(cells.density[cell], cell);
    densest = block_best(densest);  // its barriers also part the densities from those who read them

    for (int cell = threadIdx.x; cell < count; cell += blockDim.x) {
        parent[cell] = cell;
        kind[cell] = ORDINARY;
        cells.delta[cell] = not_a_number();
        if (cells.density[cell] < 0) continue;
        parent[cell] = denser_neighbour(cells, cell);
        if (parent[cell] != cell) continue;
        int squared;
        parent[cell] = nearest_denser(cells, cell, &squared);
        kind[cell] = MAXIMUM;
        cells.delta[cell] = sqrt(static_cast<double>(squared));
    }
    __syncthreads();

    const long long quota = n_centres ? n_centres[blockIdx.x] : -1;
    const bool by_prominence = quota < 0 && prominence > 0;
    // Nobody looks at the heat once the densities stand.
    const double others = by_prominence ? masses(cells, densest, kind, reach, heat, min_density, prominence, mass) : 0;
    for (int cell = threadIdx.x; cell < count; cell += blockDim.x) {
        number[cell] = -1;
        if (kind[cell] == ORDINARY) continue;
        bool chosen = cell == densest.index;
        if (quota >= 0) {
            chosen = position(cells, kind, MAXIMUM, cell) < quota;
        } else if (by_prominence) {
            chosen |= heavier(cells, kind, mass, cell) < others;
        } else {
            chosen |= cells.density[cell] >= min_density * densest.value && cells.delta[cell] >= min_distance;
        }
        if (chosen) number[cell] = 0;
    }
    __syncthreads();
    int found = 0;
    for (int cell = threadIdx.x; cell < count; cell += blockDim.x) {
        if (number[cell] < 0) continue;
        kind[cell] = CENTRE;
        parent[cell] = cell;
        ++found;
    }
    const double clusters = block_sum(found);
    for (int cell = threadIdx.x; cell < count; cell += blockDim.x) {
        if (kind[cell] != CENTRE) continue;
        const int k = position(cells, kind, CENTRE, cell);
        number[cell] = k;
        // No two local maxima touch, so that there are slots for all.
        centres[(first_slot + k) * 2] = cell % width;
        centres[(first_slot + k) * 2 + 1] = cell / width;
    }
    __syncthreads();

    for (int cell = threadIdx.x; cell < count; cell += blockDim.x) {
        int root = cell;
        while (parent[root] != root) root = parent[root];
        labels[first + cell] = number[root];
        density[first + cell] = cells.density[cell] < 0 ? 0 : cells.density[cell];
        delta[first + cell] = cells.delta[cell];
    }
    if (threadIdx.x == 0) n_clusters[blockIdx.x] = static_cast<long long>(clusters);
}

#define DENSITY_PEAKS(name, T)                                                                                    \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        const T* weights, const long long* n_centres, int height, int width, int slots, double cutoff,            \
        double min_density, double min_distance, double prominence, int* labels, long long* n_clusters,           \
        double* density, double* delta, double* centres STATE_PARAMETERS                                          \
    ) {                                                                                                           \
        BLOCK_STATE(arena);                                                                                       \
        density_peaks(                                                                                            \
            arena, weights, n_centres, height, width, slots, cutoff, min_density, min_distance, prominence,       \
            labels, n_clusters, density, delta, centres                                                           \
        );                                                                                                        \
    }

DENSITY_PEAKS(density_peaks_f32, float)
DENSITY_PEAKS(density_peaks_f64, double)
