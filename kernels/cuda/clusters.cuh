// What the kernels on clusters share: the heat and the cluster of each cell of this block's image.
// Included after block.cuh.

// Doubles heat[cells], held[slots]; ints label[cells].
struct Clusters {
    int cells, slots;
    double *heat, *held;
    int* label;
    long long count;
    bool bad;  // heat that is none, or more clusters than slots

    template <class T>
    __device__ Clusters(
        double* arena, const int* labels, const T* weights, const long long* n_clusters, int cells, int slots
    )
        : cells(cells), slots(slots), heat(arena), held(arena + cells), label(reinterpret_cast<int*>(held + slots)),
          count(n_clusters[blockIdx.x]) {
        const size_t first = static_cast<size_t>(blockIdx.x) * cells;
        int wrong = 0;
        for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) {
            heat[cell] = weights[first + cell];
            label[cell] = labels[first + cell];
            wrong |= !is_heat(heat[cell]);
        }
        bad = __syncthreads_or(wrong || count < 0 || count > slots);
    }

    // What a cluster holds, where its middle is, NaN without weight, and the greatest of its cells.
    struct Centre {
        double weight, x, y, peak;
    };

    __device__ Centre centre(int k, int height, int width) const {
        double sum = 0, along_x = 0, along_y = 0, peak = 0;
        for (int y = 0, cell = 0; y < height; ++y) {
            for (int x = 0; x < width; ++x, ++cell) {
                if (label[cell] != k) continue;
                sum += heat[cell];
                along_x += heat[cell] * x;
                along_y += heat[cell] * y;
                if (heat[cell] > peak) peak = heat[cell];
            }
        }
        return {sum, along_x / sum, along_y / sum, peak};
    }

    __device__ bool uses(int slot) const { return !bad && slot < count; }
    __device__ size_t slot(int k) const { return static_cast<size_t>(blockIdx.x) * slots + k; }

    // Writes the share of each cluster in what all hold, of which this thread's hold `own`.
    __device__ void write_shares(double own, double* share) const {
        const double total = block_sum(own);
        for (int k = threadIdx.x; k < slots; k += blockDim.x) {
            share[slot(k)] = bad ? not_a_number() : held[k] / (total == 0 ? 1 : total);
        }
    }
};
