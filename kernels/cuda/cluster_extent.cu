// The smallest box around the cells of each cluster, one block an image. kernels/cluster_extent.py says what is computed.

#define MAX_THREADS 256
#include "block.cuh"
#include "clusters.cuh"

// How far a side lies inside the edge of the outermost line of cells, whose greatest is `here`; that of the line before
// it is `before`. 0 where the map ends there.
__device__ double inwards(bool at_the_end, double here, double before, double threshold) {
    return at_the_end || !(before < threshold) ? 0 : 0.5 - (here - threshold) / (here - before);
}

// State: that of Clusters.
template <class T>
__device__ void cluster_boxes(
    double* arena, const int* labels, const T* density, const long long* n_clusters, int height, int width, int slots,
    double trim, int interpolate, double* boxes, double* score
) {
    const Clusters all(arena, labels, density, n_clusters, height * width, slots);
    const double* heat = all.heat;
    const int* label = all.label;

    double own = 0;
    for (int k = threadIdx.x; k < slots; k += blockDim.x) {
        int left = width, top = height, right = 0, bottom = 0;
        double sum = 0, greatest = 0, in_x0 = 0, in_y0 = 0, in_x1 = 0, in_y1 = 0;
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
        if (interpolate && !empty) {
            const double threshold = trim * greatest;
            double here[4] = {}, before[4] = {};  // the greatest in the outermost lines, and in those next to them
            for (int y = 0, cell = 0; y < height; ++y) {
                for (int x = 0; x < width; ++x, ++cell) {
                    if (label[cell] != k) continue;
                    const int from[4] = {x - left, y - top, right - 1 - x, bottom - 1 - y};
                    for (int side = 0; side < 4; ++side) {
                        if (from[side] == 0 && heat[cell] > here[side]) here[side] = heat[cell];
                        if (from[side] == -1 && heat[cell] > before[side]) before[side] = heat[cell];
                    }
                }
            }
            in_x0 = inwards(left == 0, here[0], before[0], threshold);
            in_y0 = inwards(top == 0, here[1], before[1], threshold);
            in_x1 = inwards(right == width, here[2], before[2], threshold);
            in_y1 = inwards(bottom == height, here[3], before[3], threshold);
        }
        double* box = boxes + all.slot(k) * 4;
        box[0] = empty ? not_a_number() : left + in_x0;
        box[1] = empty ? not_a_number() : top + in_y0;
        box[2] = empty ? not_a_number() : right - in_x1;
        box[3] = empty ? not_a_number() : bottom - in_y1;
        all.held[k] = sum;
        own += sum;
    }
    all.write_shares(own, score);
}

#define CLUSTER_BOXES(name, T)                                                                                    \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        const int* labels, const T* density, const long long* n_clusters, int height, int width, int slots,       \
        double trim, int interpolate, double* boxes, double* score STATE_PARAMETERS                                                \
    ) {                                                                                                           \
        BLOCK_STATE(arena);                                                                                       \
        cluster_boxes(arena, labels, density, n_clusters, height, width, slots, trim, interpolate, boxes, score); \
    }

CLUSTER_BOXES(cluster_boxes_f32, float)
CLUSTER_BOXES(cluster_boxes_f64, double)
