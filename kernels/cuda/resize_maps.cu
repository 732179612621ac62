// Bilinear resizing of maps, one block a map. kernels/resize_maps.py says what is computed.

#define MAX_THREADS 256
#include "block.cuh"

// Where a cell of the new grid lies on an axis of the old one: between two of its cells, or on the first.
struct Place {
    int low;
    float part;  // of the way to the next cell

    __device__ Place(int cell, int old, double scale) {
        const double position = (cell + 0.5) * scale - 0.5, last = old - 1;
        const double inside = position < 0 ? 0 : position > last ? last : position;
        low = static_cast<int>(inside);
        part = static_cast<float>(inside - low);
    }

    // A cell that has no part in it is not looked at: it may be none, or no number.
    template <class Value>
    __device__ float between(const Value& value_at) const {
        const float here = value_at(low);
        return part > 0 ? (1 - part) * here + part * value_at(low + 1) : here;
    }
};

template <class T>
__device__ void resize_maps(
    const T* maps, int old_height, int old_width, int height, int width, double down, double across, T* resized
) {
    const T* map = maps + static_cast<size_t>(blockIdx.x) * old_height * old_width;
    T* own = resized + static_cast<size_t>(blockIdx.x) * height * width;
    for (int cell = threadIdx.x; cell < height * width; cell += blockDim.x) {
        const Place row(cell / width, old_height, down), column(cell % width, old_width, across);
        const auto in_row = [&](int y) {
            return column.between([&](int x) { return to_float(map[y * old_width + x]); });
        };
        store(row.between(in_row), own[cell]);
    }
}

#define RESIZE_MAPS(name, T)                                                                                      \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        const T* maps, int old_height, int old_width, int height, int width, double down, double across,          \
        T* resized                                                                                                \
    ) {                                                                                                           \
        resize_maps(maps, old_height, old_width, height, width, down, across, resized);                           \
    }

RESIZE_MAPS(resize_maps_f16, half_bits)
RESIZE_MAPS(resize_maps_f32, float)
