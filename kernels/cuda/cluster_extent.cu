// The smallest box around the cells of each cluster, one block an image. kernels/cluster_extent.py says what is computed.

#define MAX_THREADS 256
#include "block.cuh"
#include "clusters.cuh"

// State: that of Clusters.
template <class T>
__device__ void cluster_boxes(
    double* arena, const int* labels, const T* density, const long long* n_clusters, int height, int width, int slots,
    double trim, double* boxes, double* score
) {
    const Clusters all(arena, labels, density, n_clusters, height * width, slots);
    const double* heat = all.heat;
    const int* label = all.label;

    double own = 0;
    for (int k = threadIdx.x; k < slots; k += blockDim.x) {
        int left = width, top = height, right = 0, bottom = 0;
        double sum = 0, greatest = 0;
        if (all.uses(k)) {
            for (int cell = 0; cell < all.cells; ++cell) {
                if (label[cell] != k) continue;
                sum += heat[cell];
                if (heat[cell] > greatest) greatest = heat[cell];
            }
            const double threshold = trim * greatest;
            for (int y = 0, cell = 0; y < height; ++y) {
                for (int x = 0; x < width; ++x, ++cell) {
                    if (label[cell] != k || heat[cell] < threshold) continue;
                    if (x < left) left = x;
                    if (x + 1 > right) right = x + 1;
                    if (y < top) top = y;
                    bottom = y + 1;
                }
            }
        }
        const bool empty = right == 0;
        double* box = boxes + all.slot(k) * 4;
        box[0] = empty ? not_a_number() : left;
        box[1] = empty ? not_a_number() : top;
        box[2] = empty ? not_a_number() : right;
        box[3] = empty ? not_a_number() : bottom;
        all.held[k] = sum;
        own += sum;
    }
    all.write_shares(own, score);
}

#define CLUSTER_BOXES(name, T)                                                                                    \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        const int* labels, const T* density, const long long* n_clusters, int height, int width, int slots,       \
        double trim, double* boxes, double* score STATE_PARAMETERS                                                \
    ) {                                                                                                           \
        BLOCK_STATE(arena);                                                                                       \
        cluster_boxes(arena, labels, density, n_clusters, height, width, slots, trim, boxes, score);              \
    }

CLUSTER_BOXES(cluster_boxes_f32, float)
CLUSTER_BOXES(cluster_boxes_f64, double)
