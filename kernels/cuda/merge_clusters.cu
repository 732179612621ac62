// Merging clusters whose union spreads least, one block an image. kernels/merge_clusters.py says what is computed.

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

// State: that of Clusters, whose shares are kept in `held`, and behind the labels becomes[slots]; the means
// along x and y, slots each, lie before all of it.
template <class T>
__device__ void merge_clusters(
    double* arena, const int* labels, const T* weights, const long long* n_clusters, int height, int width, int slots,
    const long long* wanted, int* merged, long long* n_merged
) {
    double* mean_x = arena;
    double* mean_y = mean_x + slots;
    const int cells = height * width;
    const Clusters all(mean_y + slots, labels, weights, n_clusters, cells, slots);
    double* share = all.held;
    int* becomes = all.label + cells;  // itself for a cluster that stands
    const size_t first_cell = static_cast<size_t>(blockIdx.x) * cells;
    if (all.bad) {
        for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) merged[first_cell + cell] = -1;
        if (threadIdx.x == 0) n_merged[blockIdx.x] = -1;
        return;
    }

    const int count = static_cast<int>(all.count);
    double own = 0;
    for (int k = threadIdx.x; k < count; k += blockDim.x) {
        const Clusters::Centre centre = all.centre(k, height, width);
        mean_x[k] = centre.weight > 0 ? centre.x : 0;
        mean_y[k] = centre.weight > 0 ? centre.y : 0;
        share[k] = centre.weight;
        becomes[k] = k;
        own += centre.weight;
    }
    const double total = block_sum(own);
    for (int k = threadIdx.x; k < count; k += blockDim.x) share[k] /= total == 0 ? 1 : total;
    __syncthreads();

    const long long limit = wanted[blockIdx.x];
    const long long least = limit < 0 ? count : limit == 0 ? 1 : limit;
    for (long long left = count; left > least; --left) {
        // Of equal costs block_best takes the lowest pair, so the least cost is the greatest of their negatives.
        Best best{-infinity(), static_cast<long long>(count) * count};
        for (Pair pair(count); pair.one < count; pair.next(count)) {
            const int one = pair.one, other = pair.other;
            if (one >= other || becomes[one] != one || becomes[other] != other) continue;
            const double together = share[one] + share[other];
            const double x = mean_x[one] - mean_x[other], y = mean_y[one] - mean_y[other];
            const double cost = share[one] * share[other] / (together > 0 ? together : 1) * (x * x + y * y);
            // The sums of huge heat overflow, and then some cost is no number: NumPy takes the first such for the least.
            best.meet(cost == cost ? -rint(ldexp(cost, COST_BITS)) : infinity(), pair.index(count));
        }
        best = block_best(best);  // its barriers part those who read the clusters from the one who changes them
        if (threadIdx.x == 0) {
            const int one = static_cast<int>(best.index / count), other = static_cast<int>(best.index % count);
            const double together = share[one] + share[other];
            const double part = together > 0 ? share[other] / together : 0;
            mean_x[one] += part * (mean_x[other] - mean_x[one]);
            mean_y[one] += part * (mean_y[other] - mean_y[one]);
            share[one] = together;
            becomes[other] = one;
        }
        __syncthreads();
    }

    for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) {
        int root = all.label[cell], number = -1;
        if (root >= 0 && root < count && limit != 0) {
            while (becomes[root] != root) root = becomes[root];
            for (int k = 0; k <= root; ++k) number += becomes[k] == k;
        }
        merged[first_cell + cell] = number;
    }
    if (threadIdx.x == 0) n_merged[blockIdx.x] = limit == 0 ? 0 : count < least ? count : least;
}

#define MERGE_CLUSTERS(name, T)                                                                                   \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        const int* labels, const T* weights, const long long* n_clusters, int height, int width, int slots,       \
        const long long* wanted, int* merged, long long* n_merged STATE_PARAMETERS                                \
    ) {                                                                                                           \
        BLOCK_STATE(arena);                                                                                       \
        merge_clusters(arena, labels, weights, n_clusters, height, width, slots, wanted, merged, n_merged);       \
    }

MERGE_CLUSTERS(merge_clusters_f32, float)
MERGE_CLUSTERS(merge_clusters_f64, double)
