// Which images of a batch have finite taps, and zeros in the place of the others'. kernels/finite_images.py says what is
// computed. Each value is read once, by as many blocks an image as its taps have chunks, so that a few images, too, keep
// the whole device busy.

#define MAX_THREADS 256
#include "block.cuh"

template <class T>
using Piece = Values<T, 16 / sizeof(T)>;

__device__ inline bool is_finite(float value) { return fabs(value) < static_cast<float>(infinity()); }
__device__ inline bool is_finite(half_bits value) { return (value.bits & 0x7c00) != 0x7c00; }

template <class T, int n>
__device__ inline bool is_finite(const Values<T, n>& piece) {
    bool all = true;
    for (const T value : piece.values) all &= is_finite(value);
    return all;
}

constexpr int LOADS = 8;  // of a thread, with no branch between them, so that they are under way together

// Whether all that this block's threads see of `count` values is finite.
template <class Load>
__device__ inline bool are_finite(const Load* values, int count) {
    bool all = true;
    for (int first = threadIdx.x; first < count; first += LOADS * blockDim.x) {
        Load loads[LOADS];
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
            const int place = first + i * blockDim.x;
            loads[i] = values[place < count ? place : first];
        }
#pragma unroll
        for (int i = 0; i < LOADS; ++i) all &= is_finite(loads[i]);
    }
    return all;
}

// `size` values an image, which blocks take in chunks; a tap that is not there has none.
template <class T>
struct Tap {
    T* values;
    int size;

    __device__ T* image(int index) const { return values + static_cast<size_t>(index) * size; }
    __device__ int chunks(int chunk) const { return size / chunk + (size % chunk != 0); }

    // Whether this block's threads see only finite values in a chunk of an image. `chunk` values are whole pieces.
    __device__ bool is_finite_in(int index, int number, int chunk) const {
        constexpr int width = sizeof(Piece<T>) / sizeof(T);
        const int first = number * chunk, left = size - first, count = left < chunk ? left : chunk;
        const T* begin = image(index) + first;
        // Whether every image begins where a piece may.
        if (reinterpret_cast<size_t>(values) % sizeof(Piece<T>) == 0 && size % width == 0) {
            return are_finite(reinterpret_cast<const Piece<T>*>(begin), count / width);
        }
        return are_finite(begin, count);
    }
};

constexpr int TAPS = 8;

// A block looks at one chunk of one image, which has `chunks` in all its taps together.
template <class T>
__device__ void finite_images(const Tap<T> (&taps)[TAPS], int chunks, int chunk, bool* finite) {
    const int index = blockIdx.x / chunks;
    int number = blockIdx.x % chunks;
    Tap<T> own = taps[0];
#pragma unroll
    for (int t = 1; t < TAPS; ++t) {
        if (number < own.chunks(chunk)) break;
        number -= own.chunks(chunk);
        own = taps[t];
    }
    // All blocks that write at all write the same.
    if (__syncthreads_or(!own.is_finite_in(index, number, chunk)) && threadIdx.x == 0) finite[index] = false;
}

// A block takes an image; that of a sound one, which most are, has nothing to do.
template <class T>
__device__ void clear_images(const Tap<T> (&taps)[TAPS], const bool* finite) {
    if (finite[blockIdx.x]) return;
    for (const Tap<T>& tap : taps) {
        for (int i = threadIdx.x; i < tap.size; i += blockDim.x) tap.image(blockIdx.x)[i] = T{};
    }
}

#define TAP_PARAMETERS(T)                                                                                         \
    T *a, T *b, T *c, T *d, T *e, T *f, T *g, T *h, int size_a, int size_b, int size_c, int size_d, int size_e,   \
        int size_f, int size_g, int size_h
#define TAP_ARGUMENTS                                                                                             \
    {{a, size_a}, {b, size_b}, {c, size_c}, {d, size_d}, {e, size_e}, {f, size_f}, {g, size_g}, {h, size_h}}

#define FINITE_IMAGES(name, T)                                                                                    \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        TAP_PARAMETERS(T), int chunks, int chunk, bool* finite                                                    \
    ) {                                                                                                           \
        const Tap<T> taps[TAPS] = TAP_ARGUMENTS;                                                                  \
        finite_images(taps, chunks, chunk, finite);                                                               \
    }

#define CLEAR_IMAGES(name, T)                                                                                     \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(TAP_PARAMETERS(T), const bool* finite) {       \
        const Tap<T> taps[TAPS] = TAP_ARGUMENTS;                                                                  \
        clear_images(taps, finite);                                                                               \
    }

FINITE_IMAGES(finite_images_f16, half_bits)
FINITE_IMAGES(finite_images_f32, float)
CLEAR_IMAGES(clear_images_f16, half_bits)
CLEAR_IMAGES(clear_images_f32, float)
