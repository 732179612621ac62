// The rows of each image's table in the order of one of its columns. kernels/sort_rows.py says what is computed.

#define MAX_THREADS 256
#include "block.cuh"

typedef unsigned long long Key;

constexpr Key LAST = ~0ull;
constexpr Key SIGN = 1ull << 63;
constexpr int AT_ONCE = 8;  // keys that are read together; the state has room for a multiple of them

// The greater the value, the smaller its key; equal ones, as zeros of both signs are, have one key, and what is no number
// comes last.
__device__ inline Key sort_key(double value) {
    if (value != value) return LAST;
    const Key bits = __double_as_longlong(value + 0.0);
    return bits & SIGN ? bits : ~bits & ~SIGN;
}

// A block takes an image; a row's place is the number of rows that come before it. State: Key keys[count], padded.
template <class T>
__device__ void sort_rows(double* arena, const T* rows, int count, int width, int column, int most, T* sorted) {
    Key* keys = reinterpret_cast<Key*>(arena);
    const int padded = (count + AT_ONCE - 1) / AT_ONCE * AT_ONCE;
    const T* own = rows + static_cast<size_t>(blockIdx.x) * count * width;
    T* found = sorted + static_cast<size_t>(blockIdx.x) * most * width;
    for (int row = threadIdx.x; row < padded; row += blockDim.x) {
        keys[row] = row < count ? sort_key(own[static_cast<size_t>(row) * width + column]) : LAST;
    }
    __syncthreads();
    for (int row = threadIdx.x; row < count; row += blockDim.x) {
        const Key key = keys[row];
        int place = 0;
        for (int first = 0; first < count && place < most; first += AT_ONCE) {
#pragma unroll
            for (int other = first; other < first + AT_ONCE; ++other) {
                place += keys[other] < key || (keys[other] == key && other < row);
            }
        }
        if (place >= most) continue;
        for (int i = 0; i < width; ++i) {
            found[static_cast<size_t>(place) * width + i] = own[static_cast<size_t>(row) * width + i];
        }
    }
}

#define SORT_ROWS(name, T)                                                                                        \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        const T* rows, int count, int width, int column, int most, T* sorted STATE_PARAMETERS                     \
    ) {                                                                                                           \
        BLOCK_STATE(arena);                                                                                       \
        sort_rows(arena, rows, count, width, column, most, sorted);                                               \
    }

SORT_ROWS(sort_rows_f32, float)
SORT_ROWS(sort_rows_f64, double)
