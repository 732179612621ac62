// What a network keeps with its channels last (N, H, W, C): pooling, convolutions of single maps, its first layer's
// pixels, and the way back to the planes (N, C, H, W) that the other kernels read.

#define MAX_THREADS 256
#include "block.cuh"
#include "windows.cuh"

template <class T>
__device__ inline bool can_load_eight(const T* a, const T* b) {
    const size_t both = reinterpret_cast<size_t>(a) | reinterpret_cast<size_t>(b);
    return both % alignof(Values<T, 8>) == 0;
}

template <class T, int width>
__device__ inline void meet(Values<T, width>& greatest, const Values<T, width>& other) {
    for (int i = 0; i < width; ++i) {
        T& best = greatest.values[i];
        const float value = to_float(other.values[i]);
        if (value > to_float(best) || value != value) best = other.values[i];
    }
}

// The greatest of each of `width` adjacent channels, from `first` on, in the window of one cell of the result.
template <int width, class T>
__device__ inline void pool_window(const T* maps, const Windows& sizes, int channels, int column, int first, T* pooled) {
    using Load = Values<T, width>;
    const int row = sizes.first_row(), left = sizes.first_column(column);
    const T* image = maps + sizes.image() * channels + first;
    const auto load = [&](int y, int x) {
        return *reinterpret_cast<const Load*>(image + (static_cast<size_t>(y) * sizes.width + x) * channels);
    };
    const int end_row = row + sizes.window_height, end = left + sizes.window_width;
    const bool inside = row >= 0 && left >= 0 && end_row <= sizes.height && end <= sizes.width;
    Load greatest;
    if (sizes.window_height == 2 && sizes.window_width == 2 && inside) {
        // The usual one: all its loads are under way at once.
        greatest = load(row, left);
        const Load right = load(row, left + 1), below = load(row + 1, left), across = load(row + 1, left + 1);
        meet(greatest, right);
        meet(greatest, below);
        meet(greatest, across);
    } else {
        const int first_row = row < 0 ? 0 : row, first_column = left < 0 ? 0 : left;
        if (first_row >= sizes.height || first_column >= sizes.width) return;
        greatest = load(first_row, first_column);
        for (int y = first_row; y < end_row && y < sizes.height; ++y) {
            for (int x = first_column; x < end && x < sizes.width; ++x) meet(greatest, load(y, x));
        }
    }
    *reinterpret_cast<Load*>(pooled + sizes.cell(column) * channels + first) = greatest;
}

// kernels/max_pool.py. A thread takes `width` channels of a cell: 8 in one load where the maps begin at a multiple of
// its size, else one after the other.
template <class T>
__device__ void max_pool(const T* maps, const Windows& sizes, int channels, int width, T* pooled) {
    const int groups = channels / width;
    const bool eight = width == 8 && can_load_eight(maps, pooled);
    for (int item = threadIdx.x; item < sizes.out_width * groups; item += blockDim.x) {
        const int column = item / groups, first = item % groups * width;
        if (eight) {
            pool_window<8>(maps, sizes, channels, column, first, pooled);
        } else {
            for (int i = 0; i < width; ++i) pool_window<1>(maps, sizes, channels, column, first + i, pooled);
        }
    }
}

template <int width, class T>
__device__ inline void convolve_window(
    const T* maps, const T* weights, const T* bias, const Windows& sizes, int channels, int column, int first, float least,
    float greatest, T* result
) {
    using Load = Values<T, width>;
    const int row = sizes.first_row(), left = sizes.first_column(column);
    const T* image = maps + sizes.image() * channels + first;
    float sums[width] = {};
    for (int y = 0; y < sizes.window_height; ++y) {
        for (int x = 0; x < sizes.window_width; ++x) {
            if (row + y < 0 || row + y >= sizes.height || left + x < 0 || left + x >= sizes.width) continue;
            const size_t cell = static_cast<size_t>(row + y) * sizes.width + left + x;
            const Load values = *reinterpret_cast<const Load*>(image + cell * channels);
            const T* at = weights + static_cast<size_t>(y * sizes.window_width + x) * channels + first;
            const Load factors = *reinterpret_cast<const Load*>(at);
            for (int i = 0; i < width; ++i) {
                sums[i] += to_float(values.values[i]) * to_float(factors.values[i]);
            }
        }
    }
    Load kept;
    for (int i = 0; i < width; ++i) {
        const float sum = sums[i] + to_float(bias[first + i]), above = sum < least ? least : sum;
        store(above > greatest ? greatest : above, kept.values[i]);
    }
    *reinterpret_cast<Load*>(result + sizes.cell(column) * channels + first) = kept;
}

// kernels/depthwise_convolution.py; threads as those of max_pool.
template <class T>
__device__ void depthwise_convolution(
    const T* maps, const T* weights, const T* bias, const Windows& sizes, int channels, int width, float least,
    float greatest, T* result
) {
    const int groups = channels / width;
    const bool eight = width == 8 && can_load_eight(maps, result) && can_load_eight(weights, weights);
    for (int item = threadIdx.x; item < sizes.out_width * groups; item += blockDim.x) {
        const int column = item / groups, first = item % groups * width;
        if (eight) {
            convolve_window<8>(
                maps, weights, bias, sizes, channels, column, first, least, greatest, result
            );
        } else {
            for (int i = 0; i < width; ++i) {
                convolve_window<1>(
                    maps, weights, bias, sizes, channels, column, first + i, least, greatest, result
                );
            }
        }
    }
}

constexpr int TILE = 32;  // cells, and channels, that a block turns

// kernels/to_planes.py. Through shared memory, so that reading and writing are both in order.
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

template <int width>
__device__ inline void gather_values(
    const unsigned char* row, int width_of_row, int start, int window, int first, half_bits constant, half_bits* place
) {
    Values<half_bits, width> gathered;
    for (int i = 0; i < width; ++i) {
        const int channel = first + i, shift = channel / 4, part = channel % 4, x = start + shift;
        half_bits value{0};
        if (shift < window && x >= 0 && x < width_of_row) {
            value = part == 3 ? constant : half_bits{float_to_half(row[x * 3 + part])};
        }
        gathered.values[i] = value;
    }
    *reinterpret_cast<Values<half_bits, width>*>(place) = gathered;
}

// kernels/pixel_columns.py. A block takes a row of an image, a thread `width` values of a place.
__device__ void pixel_columns(
    const unsigned char* images, int width_of_row, int columns, int window, int stride, int left, int channels, int width,
    half_bits constant, half_bits* gathered
) {
    const unsigned char* row = images + static_cast<size_t>(blockIdx.x) * width_of_row * 3;
    half_bits* out = gathered + static_cast<size_t>(blockIdx.x) * columns * channels;
    const int groups = channels / width;
    const bool eight = width == 8 && can_load_eight(gathered, gathered);
    for (int item = threadIdx.x; item < columns * groups; item += blockDim.x) {
        const int column = item / groups, first = item % groups * width, start = column * stride - left;
        half_bits* place = out + static_cast<size_t>(column) * channels + first;
        if (eight) {
            gather_values<8>(row, width_of_row, start, window, first, constant, place);
        } else {
            for (int i = 0; i < width; ++i) {
                gather_values<1>(row, width_of_row, start, window, first + i, constant, place + i);
            }
        }
    }
}

#define MAX_POOL(name, T)                                                                                         \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        const T* maps, WINDOWS, int channels, int load, T* pooled                                                 \
    ) {                                                                                                           \
        const Windows sizes SIZES;                                                                                \
        max_pool(maps, sizes, channels, load, pooled);                                                            \
    }

#define DEPTHWISE_CONVOLUTION(name, T)                                                                            \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        const T* maps, const T* weights, const T* bias, WINDOWS, int channels, int load, float least,             \
        float greatest, T* result                                                                                 \
    ) {                                                                                                           \
        const Windows sizes SIZES;                                                                                \
        depthwise_convolution(maps, weights, bias, sizes, channels, load, least, greatest, result);               \
    }

#define TO_PLANES(name, T)                                                                                        \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        const T* maps, int channels, int cells, float* planes                                                     \
    ) {                                                                                                           \
        to_planes(maps, channels, cells, planes);                                                                 \
    }

#define PIXEL_COLUMNS(name, T)                                                                                    \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        const unsigned char* images, int width, int columns, int window, int stride, int left, int channels,      \
        int load, T constant, T* gathered                                                                         \
    ) {                                                                                                           \
        pixel_columns(images, width, columns, window, stride, left, channels, load, constant, gathered);          \
    }

MAX_POOL(max_pool_f16, half_bits)
MAX_POOL(max_pool_f32, float)
DEPTHWISE_CONVOLUTION(depthwise_convolution_f16, half_bits)
DEPTHWISE_CONVOLUTION(depthwise_convolution_f32, float)
TO_PLANES(to_planes_f16, half_bits)
TO_PLANES(to_planes_f32, float)
PIXEL_COLUMNS(pixel_columns_f16, half_bits)
