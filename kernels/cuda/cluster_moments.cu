// Mean and variance of the weight in each cluster, one block an image. kernels/cluster_moments.py says what is computed.

#define MAX_THREADS 256
#include "block.cuh"

// Shared memory: doubles heat[cells], held[slots]; ints label[cells]. A thread takes a cluster.
template <class T>
__device__ void cluster_moments(
    const int* labels, const T* weights, const long long* n_clusters, int height, int width, int slots, double* means,
    double* variances, double* share
) {
    DYNAMIC_SHARED(arena);
    const int cells = height * width;
    double* heat = arena;
    double* held = heat + cells;
    int* label = reinterpret_cast<int*>(held + slots);
    const size_t first = static_cast<size_t>(blockIdx.x) * cells, first_slot = static_cast<size_t>(blockIdx.x) * slots;

    int bad = 0;
    for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) {
        heat[cell] = weights[first + cell];
        label[cell] = labels[first + cell];
        bad |= !is_heat(heat[cell]);
    }
    const long long clusters = n_clusters[blockIdx.x];
    bad = __syncthreads_or(bad || clusters < 0 || clusters > slots);

    double own = 0;
    for (int k = threadIdx.x; k < slots; k += blockDim.x) {
        const bool used = !bad && k < clusters;
        double sum = 0, along_x = 0, along_y = 0, square_x = 0, square_y = 0;
        for (int y = 0, cell = 0; used && y < height; ++y) {
            for (int x = 0; x < width; ++x, ++cell) {
                if (label[cell] != k) continue;
                sum += heat[cell];
                along_x += heat[cell] * x;
                along_y += heat[cell] * y;
            }
        }
        const double mean_x = along_x / sum, mean_y = along_y / sum;
        for (int y = 0, cell = 0; used && y < height; ++y) {
            for (int x = 0; x < width; ++x, ++cell) {
                if (label[cell] != k) continue;
                square_x += heat[cell] * ((x - mean_x) * (x - mean_x));
                square_y += heat[cell] * ((y - mean_y) * (y - mean_y));
            }
        }
        const bool empty = !(sum > 0);
        double* mean = means + (first_slot + k) * 2;
        double* variance = variances + (first_slot + k) * 2;
        mean[0] = empty ? not_a_number() : mean_x;
        mean[1] = empty ? not_a_number() : mean_y;
        variance[0] = empty ? not_a_number() : square_x / sum;
        variance[1] = empty ? not_a_number() : square_y / sum;
        held[k] = sum;
        own += sum;
    }
    const double total = block_sum(own);
    for (int k = threadIdx.x; k < slots; k += blockDim.x) {
        share[first_slot + k] = bad ? not_a_number() : held[k] / (total == 0 ? 1 : total);
    }
}

#define CLUSTER_MOMENTS(name, T)                                                                                  \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        const int* labels, const T* weights, const long long* n_clusters, int height, int width, int slots,       \
        double* means, double* variances, double* share                                                           \
    ) {                                                                                                           \
        cluster_moments(labels, weights, n_clusters, height, width, slots, means, variances, share);              \
    }

CLUSTER_MOMENTS(cluster_moments_f32, float)
CLUSTER_MOMENTS(cluster_moments_f64, double)
