// What a network keeps with its channels last (N, H, W, C): pooling, its first layer's pixels, and the way back to the
// planes (N, C, H, W) that the other kernels read.

#define MAX_THREADS 256
#include "block.cuh"

#ifdef __CUDACC__
__device__ inline unsigned short float_to_half(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

struct alignas(16) EightHalves {
    half_bits values[8];
};
struct alignas(16) EightFloats {
    float values[8];
};
template <class T>
struct Eight;
template <>
struct Eight<half_bits> {
    using type = EightHalves;
};
template <>
struct Eight<float> {
    using type = EightFloats;
};

// Windows of kernels/max_pool.py; `top` and `left` cells outside the map come before its first.
struct Pooling {
    int height, width, window_height, window_width, stride_height, stride_width, top, left, out_height, out_width;
};

template <class T>
__device__ inline void meet(T& greatest, const T& other) {
    const float value = to_float(other);
    if (value > to_float(greatest) || value != value) greatest = other;
}

// The greatest of each of `width` adjacent channels, from `first` on, in the window of one cell of the result.
template <class T, class Load, int width>
__device__ inline void pool_window(
    const T* maps, const Pooling& sizes, int channels, long long cell, int first, T* pooled
) {
    const long long image_row = cell / sizes.out_width;
    const int column = static_cast<int>(cell % sizes.out_width) * sizes.stride_width - sizes.left;
    const int row = static_cast<int>(image_row % sizes.out_height) * sizes.stride_height - sizes.top;
    const T* image = maps + image_row / sizes.out_height * sizes.height * sizes.width * channels + first;
    const int first_row = row < 0 ? 0 : row, first_column = column < 0 ? 0 : column;
    Load greatest;
    bool any = false;
    for (int y = first_row; y < row + sizes.window_height && y < sizes.height; ++y) {
        for (int x = first_column; x < column + sizes.window_width && x < sizes.width; ++x) {
            const T* at = image + (static_cast<long long>(y) * sizes.width + x) * channels;
            const Load other = *reinterpret_cast<const Load*>(at);
            if (!any) greatest = other;
            for (int i = 0; i < width; ++i) {
                meet(reinterpret_cast<T*>(&greatest)[i], reinterpret_cast<const T*>(&other)[i]);
            }
            any = true;
        }
    }
    if (any) *reinterpret_cast<Load*>(pooled + cell * channels + first) = greatest;
}

// kernels/max_pool.py. A thread takes `width` channels of a cell of the result: 8 in one load where the maps begin at a
// multiple of its size, else one after the other.
template <class T>
__device__ void max_pool(const T* maps, const Pooling& sizes, int channels, int width, long long cells, T* pooled) {
    const int groups = channels / width;
    const long long item = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (item >= cells * groups) return;
    const int first = static_cast<int>(item % groups) * width;
    using Load = typename Eight<T>::type;
    const size_t unaligned = (reinterpret_cast<size_t>(maps) | reinterpret_cast<size_t>(pooled)) % alignof(Load);
    if (width == 8 && !unaligned) {
        pool_window<T, Load, 8>(maps, sizes, channels, item / groups, first, pooled);
    } else {
        for (int i = 0; i < width; ++i) pool_window<T, T, 1>(maps, sizes, channels, item / groups, first + i, pooled);
    }
}

constexpr int TILE = 32;  // cells, and channels, that a block turns

// kernels/channels_last.py. Through shared memory, so that reading and writing are both in order.
template <class T>
__device__ void to_planes(const T* maps, int channels, int cells, float* planes) {
    __shared__ float tile[TILE][TILE + 1];
    const int across = (cells + TILE - 1) / TILE, down = (channels + TILE - 1) / TILE;
    const int first_cell = blockIdx.x % across * TILE, first_channel = blockIdx.x / across % down * TILE;
    const size_t image = static_cast<size_t>(blockIdx.x / across / down) * cells * channels;
    for (int item = threadIdx.x; item < TILE * TILE; item += blockDim.x) {
        const int cell = first_cell + item / TILE, channel = first_channel + item % TILE;
        if (cell < cells && channel < channels) {
            tile[item / TILE][item % TILE] = to_float(maps[image + static_cast<size_t>(cell) * channels + channel]);
        }
    }
    __syncthreads();
    for (int item = threadIdx.x; item < TILE * TILE; item += blockDim.x) {
        const int channel = first_channel + item / TILE, cell = first_cell + item % TILE;
        if (cell < cells && channel < channels) {
            planes[image + static_cast<size_t>(channel) * cells + cell] = tile[item % TILE][item / TILE];
        }
    }
}

// kernels/pixel_columns.py. A value of the result a thread.
__device__ void pixel_columns(
    const unsigned char* images, long long values, int width, int columns, int window, int stride, int left, int channels,
    half_bits constant, half_bits* gathered
) {
    const long long item = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (item >= values) return;
    const int channel = static_cast<int>(item % channels), shift = channel / 4, part = channel % 4;
    const long long cell = item / channels, row = cell / columns;
    const int x = static_cast<int>(cell % columns) * stride + shift - left;
    half_bits value{0};
    if (shift < window && x >= 0 && x < width) {
        value = part == 3 ? constant : half_bits{float_to_half(images[(row * width + x) * 3 + part])};
    }
    gathered[item] = value;
}

#define MAX_POOL(name, T)                                                                                         \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        const T* maps, int height, int width, int window_height, int window_width, int stride_height,             \
        int stride_width, int top, int left, int out_height, int out_width, int channels, int load,               \
        long long cells, T* pooled                                                                                \
    ) {                                                                                                           \
        const Pooling sizes{                                                                                      \
            height, width, window_height, window_width, stride_height, stride_width, top, left, out_height,       \
            out_width                                                                                             \
        };                                                                                                        \
        max_pool(maps, sizes, channels, load, cells, pooled);                                                     \
    }

#define TO_PLANES(name, T)                                                                                        \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        const T* maps, int channels, int cells, float* planes                                                     \
    ) {                                                                                                           \
        to_planes(maps, channels, cells, planes);                                                                 \
    }

#define PIXEL_COLUMNS(name, T)                                                                                    \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        const unsigned char* images, long long values, int width, int columns, int window, int stride, int left,  \
        int channels, T constant, T* gathered                                                                     \
    ) {                                                                                                           \
        pixel_columns(images, values, width, columns, window, stride, left, channels, constant, gathered);        \
    }

MAX_POOL(max_pool_f16, half_bits)
MAX_POOL(max_pool_f32, float)
TO_PLANES(to_planes_f16, half_bits)
TO_PLANES(to_planes_f32, float)
PIXEL_COLUMNS(pixel_columns_f16, half_bits)
