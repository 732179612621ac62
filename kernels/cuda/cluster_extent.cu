// The smallest box around the cells of each cluster, one block an image. kernels/cluster_extent.py says what is computed.

#define MAX_THREADS 256
#include "block.cuh"

// Shared memory: doubles heat[cells], held[slots]; ints label[cells].
template <class T>
__device__ void cluster_boxes(
    const int* labels, const T* density, const long long* n_clusters, int height, int width, int slots, double trim,
    double* boxes, double* score
) {
    DYNAMIC_SHARED(arena);
    const int cells = height * width;
    double* heat = arena;
    double* held = heat + cells;
    int* label = reinterpret_cast<int*>(held + slots);
    const size_t first = static_cast<size_t>(blockIdx.x) * cells, first_slot = static_cast<size_t>(blockIdx.x) * slots;

    int bad = 0;
    for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) {
        heat[cell] = density[first + cell];
        label[cell] = labels[first + cell];
        bad |= !is_heat(heat[cell]);
    }
    const long long clusters = n_clusters[blockIdx.x];
    bad = __syncthreads_or(bad || clusters < 0 || clusters > slots);

    double own = 0;
    for (int k = threadIdx.x; k < slots; k += blockDim.x) {
        int left = width, top = height, right = 0, bottom = 0;
        double sum = 0, greatest = 0;
        if (!bad && k < clusters) {
            for (int cell = 0; cell < cells; ++cell) {
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
        double* box = boxes + (first_slot + k) * 4;
        box[0] = empty ? not_a_number() : left;
        box[1] = empty ? not_a_number() : top;
        box[2] = empty ? not_a_number() : right;
        box[3] = empty ? not_a_number() : bottom;
        held[k] = sum;
        own += sum;
    }
    const double total = block_sum(own);
    for (int k = threadIdx.x; k < slots; k += blockDim.x) {
        score[first_slot + k] = bad ? not_a_number() : held[k] / (total == 0 ? 1 : total);
    }
}

#define CLUSTER_BOXES(name, T)                                                                                    \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        const int* labels, const T* density, const long long* n_clusters, int height, int width, int slots,       \
        double trim, double* boxes, double* score                                                                 \
    ) {                                                                                                           \
        cluster_boxes(labels, density, n_clusters, height, width, slots, trim, boxes, score);                     \
    }

CLUSTER_BOXES(cluster_boxes_f32, float)
CLUSTER_BOXES(cluster_boxes_f64, double)
