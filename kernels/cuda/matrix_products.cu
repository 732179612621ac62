// Products of two matrices of each image, one block a tile of a product. kernels/matrix_products.py says what is
// computed.

#define MAX_THREADS 256
#include "block.cuh"

// Side of a tile, and values of the sums that are added up at a time.
constexpr int TILE = 32;
constexpr int HALF = TILE / 2;

// Sums in float; no shared memory of the caller's. They lie in shared memory, so that any number of threads can share
// them out: a thread keeps four at a time in registers, whose rows and columns lie half a tile apart, so that neighbours
// read neighbouring columns.
template <class T>
__device__ void matrix_products(const T* a, const T* b, int rows, int depth, int columns, T* products) {
    // A row more than is used: threads that store a column of `a` then do not meet in one bank.
    __shared__ float one[TILE][TILE + 1];  // [place in the sum][row]
    __shared__ float other[TILE][TILE];  // [place in the sum][column]
    __shared__ float sums[TILE][TILE];
    const int tiles_across = (columns + TILE - 1) / TILE, tiles_down = (rows + TILE - 1) / TILE;
    const int first_column = static_cast<int>(blockIdx.x % tiles_across) * TILE;
    const int first_row = static_cast<int>(blockIdx.x / tiles_across % tiles_down) * TILE;
    const size_t image = blockIdx.x / tiles_across / tiles_down;
    a += image * rows * depth;
    b += image * depth * columns;
    products += image * rows * columns;

    for (int i = threadIdx.x; i < TILE * TILE; i += blockDim.x) sums[i / TILE][i % TILE] = 0;
    for (int from = 0; from < depth; from += TILE) {
        __syncthreads();  // the last stretch is read to its end, and the first sums are 0
        for (int i = threadIdx.x; i < TILE * TILE; i += blockDim.x) {
            const int y = i / TILE, x = i % TILE;
            const bool in_a = first_row + y < rows && from + x < depth;
            const bool in_b = from + y < depth && first_column + x < columns;
            one[x][y] = in_a ? to_float(a[static_cast<size_t>(first_row + y) * depth + from + x]) : 0;
            other[y][x] = in_b ? to_float(b[static_cast<size_t>(from + y) * columns + first_column + x]) : 0;
        }
        __syncthreads();
        for (int i = threadIdx.x; i < HALF * HALF; i += blockDim.x) {
            const int y = i / HALF, x = i % HALF;
            float here = sums[y][x], right = sums[y][x + HALF];
            float below = sums[y + HALF][x], across = sums[y + HALF][x + HALF];
#pragma unroll
            for (int k = 0; k < TILE; ++k) {
                const float upper = one[k][y], lower = one[k][y + HALF];
                const float left = other[k][x], far = other[k][x + HALF];
                here += upper * left;
                right += upper * far;
                below += lower * left;
                across += lower * far;
            }
            sums[y][x] = here;
            sums[y][x + HALF] = right;
            sums[y + HALF][x] = below;
            sums[y + HALF][x + HALF] = across;
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < TILE * TILE; i += blockDim.x) {
        const int row = first_row + i / TILE, column = first_column + i % TILE;
        if (row >= rows || column >= columns) continue;
        store(sums[i / TILE][i % TILE], products[static_cast<size_t>(row) * columns + column]);
    }
}

#define MATRIX_PRODUCTS(name, T)                                                                                  \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        const T* a, const T* b, int rows, int depth, int columns, T* products                                     \
    ) {                                                                                                           \
        matrix_products(a, b, rows, depth, columns, products);                                                    \
    }

MATRIX_PRODUCTS(matrix_products_f16, half_bits)
MATRIX_PRODUCTS(matrix_products_f32, float)
