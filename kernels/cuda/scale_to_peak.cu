// Heatmaps as parts of their greatest value, one block an image. kernels/scale_to_peak.py says what is computed.

#define MAX_THREADS 256
#include "block.cuh"

template <class T>
__device__ void scale_to_peak(const T* heat, int cells, T* scaled) {
    const T* own = heat + static_cast<size_t>(blockIdx.x) * cells;
    Best best{-infinity(), 0};
    int unknown = 0;
    for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) {
        best.meet(own[cell], cell);
        unknown |= own[cell] != own[cell];
    }
    const double peak = block_best(best).value;
    const T divisor = !__syncthreads_or(unknown) && peak > 0 ? static_cast<T>(peak) : 1;
    for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) {
        scaled[static_cast<size_t>(blockIdx.x) * cells + cell] = own[cell] / divisor;
    }
}

#define SCALE_TO_PEAK(name, T)                                                                                    \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(const T* heat, int cells, T* scaled) {         \
        scale_to_peak(heat, cells, scaled);                                                                       \
    }

SCALE_TO_PEAK(scale_to_peak_f32, float)
SCALE_TO_PEAK(scale_to_peak_f64, double)
