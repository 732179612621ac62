// Products of the rows of a matrix, scaled to unit length, with a few vectors of weights: each value is read once.

#define MAX_THREADS 1024
#include "block.cuh"

constexpr int MOST_VECTORS = 8;

// kernels/unit_products.py. Sums in float within a thread, in double over the threads; no shared memory of the caller's.
template <class T>
__device__ void unit_products(const T* rows, const float* weights, int values, int vectors, float* products) {
    const T* row = rows + static_cast<size_t>(blockIdx.x) * values;
    float sums[MOST_VECTORS] = {}, square = 0;
#pragma unroll 4
    for (int i = threadIdx.x; i < values; i += blockDim.x) {
        const float value = to_float(row[i]);
        square += value * value;
#pragma unroll
        for (int k = 0; k < MOST_VECTORS; ++k) {
            if (k < vectors) sums[k] += value * weights[static_cast<size_t>(k) * values + i];
        }
    }
    // Rounded where NumPy rounds: a norm that overflows in float is infinite.
    const float norm = sqrt(static_cast<float>(block_sum(square)));
    const float scale = norm == 0 ? 1 : norm >= infinity() ? static_cast<float>(not_a_number()) : norm;
    // Unrolled, so that the sums stay in registers; every thread takes part in each reduction.
#pragma unroll
    for (int k = 0; k < MOST_VECTORS; ++k) {
        if (k >= vectors) continue;
        const float sum = static_cast<float>(block_sum(sums[k]));
        if (threadIdx.x == 0) products[static_cast<size_t>(blockIdx.x) * vectors + k] = sum / scale;
    }
}

#define UNIT_PRODUCTS(name, T)                                                                                    \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        const T* rows, const float* weights, int values, int vectors, float* products                             \
    ) {                                                                                                           \
        unit_products(rows, weights, values, vectors, products);                                                  \
    }

UNIT_PRODUCTS(unit_products_f16, half_bits)
UNIT_PRODUCTS(unit_products_f32, float)
