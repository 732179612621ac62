// DBSCAN of the weighted cells of a heatmap, one block an image. kernels/dbscan.py says what is computed, and adds in
// the same order, so that the same cells are core cells.

#define MAX_THREADS 256
#include "block.cuh"

struct Disc {
    int height, width, reach;
    const int* half_width;  // in each row from the middle one outwards, cut to the grid
};

// Sum of the row's cells within half_width of (y, x).
__device__ inline double window_sum(const Disc& disc, const double* heat, int y, int x, int half_width) {
    const double* row = heat + y * disc.width;
    double sum = row[x];
    for (int dx = 1; dx <= half_width; ++dx) {
        if (x - dx >= 0) sum += row[x - dx];
        if (x + dx < disc.width) sum += row[x + dx];
    }
    return sum;
}

__device__ inline double disc_sum(const Disc& disc, const double* heat, int cell) {
    const int y = cell / disc.width, x = cell % disc.width;
    double sum = window_sum(disc, heat, y, x, disc.half_width[0]);
    for (int dy = 1; dy <= disc.reach; ++dy) {
        if (y - dy >= 0) sum += window_sum(disc, heat, y - dy, x, disc.half_width[dy]);
        if (y + dy < disc.height) sum += window_sum(disc, heat, y + dy, x, disc.half_width[dy]);
    }
    return sum;
}

// The least of value[via[cell]] over the disc, or of value[cell] where `via` is null; `nothing` where via or value is.
__device__ inline int disc_least(const Disc& disc, const int* value, const int* via, int cell, int nothing) {
    const int y = cell / disc.width, x = cell % disc.width;
    int least = nothing;
    for (int dy = -disc.reach; dy <= disc.reach; ++dy) {
        if (y + dy < 0 || y + dy >= disc.height) continue;
        const int half_width = disc.half_width[dy < 0 ? -dy : dy];
        for (int dx = -half_width; dx <= half_width; ++dx) {
            if (x + dx < 0 || x + dx >= disc.width) continue;
            const int other = (y + dy) * disc.width + x + dx;
            const int place = via ? via[other] : other;
            if (place < nothing && value[place] < least) least = value[place];
        }
    }
    return least;
}

// State: doubles heat[cells]; ints root[cells], named[cells], half_width[height].
template <class T>
__device__ void dbscan(
    double* arena, const T* weights, int height, int width, int radius_squared, double min_weight, int* labels,
    long long* n_clusters
) {
    const int cells = height * width, nothing = cells;
    double* heat = arena;
    int* root = reinterpret_cast<int*>(heat + cells);
    int* named = root + cells;
    int* half_width = named + cells;
    const size_t first = static_cast<size_t>(blockIdx.x) * cells;

    Disc disc{height, width, 0, half_width};
    while (disc.reach < height - 1 && (disc.reach + 1) * (disc.reach + 1) <= radius_squared) ++disc.reach;
    for (int dy = threadIdx.x; dy <= disc.reach; dy += blockDim.x) {
        int dx = 0;
        while (dx < width - 1 && (dx + 1) * (dx + 1) <= radius_squared - dy * dy) ++dx;
        half_width[dy] = dx;
    }
    int bad = 0;
    for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) {
        heat[cell] = weights[first + cell];
        bad |= !is_heat(heat[cell]);
    }
    if (__syncthreads_or(bad)) {
        for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) labels[first + cell] = -1;
        if (threadIdx.x == 0) n_clusters[blockIdx.x] = -1;
        return;
    }

    for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) {
        root[cell] = heat[cell] > 0 && disc_sum(disc, heat, cell) >= min_weight ? cell : nothing;
    }
    // Each core cell takes the lowest core cell within reach, then what that one took, until nothing changes.
    for (int changed = 1; __syncthreads_or(changed);) {
        for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) {
            named[cell] = root[cell] < nothing ? disc_least(disc, root, nullptr, cell, nothing) : nothing;
        }
        __syncthreads();
        changed = 0;
        for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) {
            if (named[cell] == nothing) continue;
            const int lowest = named[named[cell]];
            changed |= lowest != root[cell];
            root[cell] = lowest;
        }
    }

    int* number = named;
    int found = 0;
    for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) {
        if (root[cell] != cell) continue;
        int before = 0;
        for (int other = 0; other < cell; ++other) before += root[other] == other;
        number[cell] = before;
        ++found;
    }
    const double clusters = block_sum(found);
    for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) {
        int label = nothing;
        if (root[cell] < nothing) {
            label = number[root[cell]];
        } else if (heat[cell] > 0) {
            label = disc_least(disc, number, root, cell, nothing);
        }
        labels[first + cell] = label < nothing ? label : -1;
    }
    if (threadIdx.x == 0) n_clusters[blockIdx.x] = static_cast<long long>(clusters);
}

#define DBSCAN(name, T)                                                                                           \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        const T* weights, int height, int width, int radius_squared, double min_weight, int* labels,              \
        long long* n_clusters STATE_PARAMETERS                                                                    \
    ) {                                                                                                           \
        BLOCK_STATE(arena);                                                                                       \
        dbscan(arena, weights, height, width, radius_squared, min_weight, labels, n_clusters);                    \
    }

DBSCAN(dbscan_f32, float)
DBSCAN(dbscan_f64, double)
