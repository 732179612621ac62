// What the kernels of this folder share. A block works on one image, in any number of threads up to MAX_THREADS, which
// a source defines before it includes this file. Reductions run in an order that the number of threads alone decides,
// so that the same input gives the same bits. No other header is needed: the text is compiled as it stands.

#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(name) extern __shared__ double name[]
#endif

// Where a block keeps the state of its image: in shared memory or, compiled with STATE_IN_ARRAY, where that is too small,
// in its part of an array, of so many doubles a block, which such kernels then take as their last two arguments.
#ifdef STATE_IN_ARRAY
#define STATE_PARAMETERS , double *state, long long state_doubles
#define BLOCK_STATE(name) double* name = state + static_cast<size_t>(blockIdx.x) * state_doubles
#else
#define STATE_PARAMETERS
#define BLOCK_STATE(name) DYNAMIC_SHARED(name)
#endif

#ifdef __CUDACC__
__device__ inline float half_to_float(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ inline unsigned short float_to_half(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

struct half_bits {
    unsigned short bits;
};

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(half_bits value) { return half_to_float(value.bits); }

// Adjacent values that are read, or written, at once.
template <class T, int n>
struct alignas(n * sizeof(T) < 16 ? n * sizeof(T) : 16) Values {
    T values[n];
};

// What a sum is kept as.
__device__ inline void store(float sum, float& place) { place = sum; }
__device__ inline void store(float sum, half_bits& place) { place.bits = float_to_half(sum); }

__device__ inline double infinity() { return __longlong_as_double(0x7ff0000000000000LL); }
__device__ inline double not_a_number() { return __longlong_as_double(0x7ff8000000000000LL); }

// Whether a value can be the heat of a cell: finite and >= 0. NaN fails both comparisons.
__device__ inline bool is_heat(double value) { return value >= 0 && value < infinity(); }

// A reduction takes two steps: each of up to this many threads gathers a share, then every thread gathers the shares.
// That is two barriers, where a tree over 256 threads needs eight. A share is every so many-th thread's value, so that
// what is read at the same time lies side by side: stretches of 16 or 64 doubles would begin in one bank of shared memory.
constexpr int MOST_SHARES = 16;

__device__ inline int share_count() {
    const int threads = blockDim.x;
    return threads < MOST_SHARES ? threads : MOST_SHARES;
}

// Sum of `value` over the threads of the block; every thread gets it. The shared arrays may be used again by the next
// call: what it writes before its first barrier was last read before the second barrier of this one.
__device__ inline double block_sum(double value) {
    __shared__ double of_thread[MAX_THREADS];
    __shared__ double of_share[MOST_SHARES];
    const int threads = blockDim.x, self = threadIdx.x, shares = share_count();
    of_thread[self] = value;
    __syncthreads();
    if (self < shares) {
        double sum = 0;
        for (int t = self; t < threads; t += shares) sum += of_thread[t];
        of_share[self] = sum;
    }
    __syncthreads();
    double sum = 0;
    for (int s = 0; s < shares; ++s) sum += of_share[s];
    return sum;
}

struct Best {
    double value;
    long long index;

    // The greater value, among equals the lower index.
    __device__ void meet(double other, long long other_index) {
        if (other > value || (other == value && other_index < index)) {
            value = other;
            index = other_index;
        }
    }
};

// The best of all threads; every thread gets it.
__device__ inline Best block_best(Best best) {
    __shared__ double value_of_thread[MAX_THREADS];
    __shared__ long long index_of_thread[MAX_THREADS];
    __shared__ double value_of_share[MOST_SHARES];
    __shared__ long long index_of_share[MOST_SHARES];
    const int threads = blockDim.x, self = threadIdx.x, shares = share_count();
    value_of_thread[self] = best.value;
    index_of_thread[self] = best.index;
    __syncthreads();
    if (self < shares) {
        for (int t = self; t < threads; t += shares) best.meet(value_of_thread[t], index_of_thread[t]);
        value_of_share[self] = best.value;
        index_of_share[self] = best.index;
    }
    __syncthreads();
    for (int s = 0; s < shares; ++s) best.meet(value_of_share[s], index_of_share[s]);
    return best;
}
