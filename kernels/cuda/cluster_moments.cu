// Mean and variance of the weight in each cluster, one block an image. kernels/cluster_moments.py says what is computed.

#define MAX_THREADS 256
#include "block.cuh"
#include "clusters.cuh"

// State: that of Clusters. A thread takes a cluster.
template <class T>
__device__ void cluster_moments(
    double* arena, const int* labels, const T* weights, const long long* n_clusters, int height, int width, int slots,
    double* means, double* variances, double* share
) {
    const Clusters all(arena, labels, weights, n_clusters, height * width, slots);
    const double* heat = all.heat;
    const int* label = all.label;

    double own = 0;
    for (int k = threadIdx.x; k < slots; k += blockDim.x) {
        const bool used = all.uses(k);
        const Clusters::Centre centre = used ? all.centre(k, height, width) : Clusters::Centre{0, 0, 0};
        double square_x = 0, square_y = 0;
        for (int y = 0, cell = 0; used && y < height; ++y) {
            for (int x = 0; x < width; ++x, ++cell) {
                if (label[cell] != k) continue;
                square_x += heat[cell] * ((x - centre.x) * (x - centre.x));
                square_y += heat[cell] * ((y - centre.y) * (y - centre.y));
            }
        }
        const bool empty = !(centre.weight > 0);
        double* mean = means + all.slot(k) * 2;
        double* variance = variances + all.slot(k) * 2;
        mean[0] = empty ? not_a_number() : centre.x;
        mean[1] = empty ? not_a_number() : centre.y;
        variance[0] = empty ? not_a_number() : square_x / centre.weight;
        variance[1] = empty ? not_a_number() : square_y / centre.weight;
        all.held[k] = centre.weight;
        own += centre.weight;
    }
    all.write_shares(own, share);
}

#define CLUSTER_MOMENTS(name, T)                                                                                  \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        const int* labels, const T* weights, const long long* n_clusters, int height, int width, int slots,       \
        double* means, double* variances, double* share STATE_PARAMETERS                                          \
    ) {                                                                                                           \
        BLOCK_STATE(arena);                                                                                       \
        cluster_moments(arena, labels, weights, n_clusters, height, width, slots, means, variances, share);       \
    }

CLUSTER_MOMENTS(cluster_moments_f32, float)
CLUSTER_MOMENTS(cluster_moments_f64, double)
