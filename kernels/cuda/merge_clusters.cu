// Merging the clusters that part least, one block an image. kernels/merge_clusters.py says what is computed.

#define MAX_THREADS 256
#include "block.cuh"
#include "clusters.cuh"

// Costs are rounded to 2^-COST_BITS; see kernels/merge_clusters.py.
constexpr int COST_BITS = 30;

// Pairs of `count` clusters, dealt out in turn to the threads. A grid may hold more of them than an int can number.
struct Pair {
    int one, other;

    __device__ explicit Pair(int count) : one(threadIdx.x / count), other(threadIdx.x % count) {}
    __device__ long long index(int count) const { return static_cast<long long>(one) * count + other; }
    __device__ void next(int count) {
        one += blockDim.x / count;
        other += blockDim.x % count;
        if (other < count) return;
        other -= count;
        ++one;
    }
};

// The clusters of one image, and what their unions cost.
struct Unions {
    double *mean_x, *mean_y, *peak, *share;
    double along_x, along_y;  // the scatter that all clusters share; the floor is in it
    double reach;
    int valley_power;
    bool one_shape;

    // By how much a union lets the scatter grow.
    struct Growth {
        double x, y;
    };

    __device__ Growth growth(int one, int other) const {
        const double together = share[one] + share[other];
        const double part = share[one] * share[other] / (together > 0 ? together : 1);
        const double x = mean_x[one] - mean_x[other], y = mean_y[one] - mean_y[other];
        return {part * (x * x), part * (y * y)};
    }

    __device__ double cost(int one, int other, double height) const {
        const Growth by = growth(one, other);
        double cost = by.x + by.y;
        if (one_shape) cost = 2 * (by.x * along_y + by.y * along_x + by.x * by.y) / (along_x + along_y);
        if (height > 0) {
            const double lower = peak[one] < peak[other] ? peak[one] : peak[other];
            const double valley = 1 - height / lower;
            double parts = 1;
            for (int k = 0; k < valley_power; ++k) parts *= valley;
            cost *= parts;
        }
        // The sums of huge heat overflow, and then some cost is no number: NumPy takes the first such for the least.
        return cost == cost ? rint(ldexp(cost, COST_BITS)) : -infinity();
    }

    __device__ double omission_cost(int k) const { return rint(ldexp(share[k] * (reach * reach), COST_BITS)); }

    // Takes a union into account; the one thread that `writes` changes the arrays, once all have read them.
    __device__ void unite(int one, int other, bool writes) {
        const Growth by = growth(one, other);
        const double together = share[one] + share[other];
        const double part = together > 0 ? share[other] / together : 0;
        along_x += by.x;
        along_y += by.y;
        __syncthreads();
        if (!writes) return;
        mean_x[one] += part * (mean_x[other] - mean_x[one]);
        mean_y[one] += part * (mean_y[other] - mean_y[one]);
        share[one] = together;
        if (peak[other] > peak[one]) peak[one] = peak[other];
    }
};

// State: that of Clusters, whose shares are kept in `held`, and behind the labels becomes[slots]; the means along x and
// y and the peaks, slots each, lie before all of it.
template <class T>
__device__ void merge_clusters(
    double* arena, const int* labels, const T* weights, const long long* n_clusters, int height, int width, int slots,
    const long long* wanted, int valley_power, double floor, double reach, int* merged, long long* n_merged
) {
    const int cells = height * width;
    const Clusters all(arena + 3 * static_cast<size_t>(slots), labels, weights, n_clusters, cells, slots);
    int* becomes = all.label + cells;  // itself for a cluster that stands; -1 for one that is left out
    const size_t first_cell = static_cast<size_t>(blockIdx.x) * cells;
    if (all.bad) {
        for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) merged[first_cell + cell] = -1;
        if (threadIdx.x == 0) n_merged[blockIdx.x] = -1;
        return;
    }

    const int count = static_cast<int>(all.count);
    double* peak = arena + 2 * static_cast<size_t>(slots);
    Unions unions{arena, arena + slots, peak, all.held, 0, 0, reach, valley_power, floor > 0};
    double own = 0;
    for (int k = threadIdx.x; k < count; k += blockDim.x) {
        const Clusters::Centre centre = all.centre(k, height, width);
        unions.mean_x[k] = centre.weight > 0 ? centre.x : 0;
        unions.mean_y[k] = centre.weight > 0 ? centre.y : 0;
        unions.peak[k] = centre.peak;
        unions.share[k] = centre.weight;
        becomes[k] = k;
        own += centre.weight;
    }
    const double total = block_sum(own), whole = total == 0 ? 1 : total;
    for (int k = threadIdx.x; k < count; k += blockDim.x) unions.share[k] /= whole;
    if (unions.one_shape) {
        double own_x = 0, own_y = 0;
        for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) {
            const int k = all.label[cell];
            if (k < 0 || k >= count) continue;
            const double x = cell % width - unions.mean_x[k], y = cell / width - unions.mean_y[k];
            own_x += all.heat[cell] * (x * x);
            own_y += all.heat[cell] * (y * y);
        }
        unions.along_x = block_sum(own_x) / whole + floor;
        unions.along_y = block_sum(own_y) / whole + floor;
    }
    __syncthreads();

    const long long limit = wanted[blockIdx.x];
    const long long least = limit < 0 ? count : limit == 0 ? 1 : limit;
    for (long long left = count; left > least; --left) {
        // Of equal costs block_best takes the lowest pair, so the least cost is the greatest of their negatives.
        Best best{-infinity(), static_cast<long long>(count) * count};
        for (Pair pair(count); pair.one < count; pair.next(count)) {
            const int one = pair.one, other = pair.other;
            if (one >= other || becomes[one] != one || becomes[other] != other) continue;
            best.meet(-unions.cost(one, other, 0), pair.index(count));
        }
        // No pass makes a union dearer, and the highest one of a pair makes it cheapest: there is no need to know which
        // it is, nor which pairs have any.
        for (int cell = threadIdx.x; valley_power > 0 && cell < cells; cell += blockDim.x) {
            const int here = all.label[cell], row = cell / width, column = cell % width;
            if (here < 0 || here >= count) continue;
            for (int step = 0; step < 4; ++step) {
                const int beside = column + (step == 3 ? 1 : step - 1), below = row + (step < 3);
                if (beside < 0 || beside >= width || below >= height) continue;
                const int neighbour = below * width + beside, there = all.label[neighbour];
                if (there == here || there < 0 || there >= count) continue;
                const int one = here < there ? here : there, other = here < there ? there : here;
                const double pass = all.heat[cell] < all.heat[neighbour] ? all.heat[cell] : all.heat[neighbour];
                best.meet(-unions.cost(one, other, pass), static_cast<long long>(one) * count + other);
            }
        }
        best = block_best(best);
        int one = static_cast<int>(best.index / count), other = static_cast<int>(best.index % count);
        if (reach > 0) {
            Best lightest{-infinity(), count};
            for (int k = threadIdx.x; k < count; k += blockDim.x) {
                if (becomes[k] == k) lightest.meet(-unions.omission_cost(k), k);
            }
            lightest = block_best(lightest);
            if (lightest.value > best.value) {
                one = -1;
                other = static_cast<int>(lightest.index);
            }
        }
        if (one >= 0) unions.unite(one, other, threadIdx.x == 0);
        if (threadIdx.x == 0) becomes[other] = one;
        for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) {
            if (all.label[cell] == other) all.label[cell] = one;
        }
        __syncthreads();
    }

    for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) {
        const int root = all.label[cell];
        int number = -1;
        if (root >= 0 && root < count && limit != 0) {
            for (int k = 0; k <= root; ++k) number += becomes[k] == k;
        }
        merged[first_cell + cell] = number;
    }
    if (threadIdx.x == 0) n_merged[blockIdx.x] = limit == 0 ? 0 : count < least ? count : least;
}

#define MERGE_CLUSTERS(name, T)                                                                                   \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        const int* labels, const T* weights, const long long* n_clusters, int height, int width, int slots,       \
        const long long* wanted, int valley_power, double floor, double reach, int* merged,                       \
        long long* n_merged STATE_PARAMETERS                                                                      \
    ) {                                                                                                           \
        BLOCK_STATE(arena);                                                                                       \
        merge_clusters(                                                                                           \
            arena, labels, weights, n_clusters, height, width, slots, wanted, valley_power, floor, reach, merged, \
            n_merged                                                                                              \
        );                                                                                                        \
    }

MERGE_CLUSTERS(merge_clusters_f32, float)
MERGE_CLUSTERS(merge_clusters_f64, double)
