// Products of small matrices by a warp's matrix unit. Included after block.cuh.
//
// A thread holds fragments of the matrices: on a device those of its lane, on the host those of all lanes of a warp,
// which a thread there stands for. So code that fills fragments goes through `THREAD_LANES` of them and asks which `lane` each
// is. Where an element lies is said by the PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type".

constexpr int WARP = 32;

#ifdef __CUDACC__
constexpr int THREAD_LANES = 1;

__device__ inline int lane(int) { return threadIdx.x % WARP; }
__device__ inline int warp() { return threadIdx.x / WARP; }
__device__ inline int warps() { return blockDim.x / WARP; }

// Two values in one register, the first in the lower half.
__device__ inline unsigned pack_halves(float first, float second) {
    unsigned both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return both;
}

// Two such values limited to between two bounds each; NaN stays NaN.
__device__ inline unsigned limit_halves(unsigned both, unsigned least, unsigned greatest) {
    asm("max.NaN.f16x2 %0, %0, %1;" : "+r"(both) : "r"(least));
    asm("min.NaN.f16x2 %0, %0, %1;" : "+r"(both) : "r"(greatest));
    return both;
}

// Add the product of a, 16 x 16 of float16 and row by row, and b, 16 x 8 and column by column, to sums, 16 x 8.
__device__ inline void multiply_add(
    const unsigned (&a)[THREAD_LANES][4], const unsigned (&b)[THREAD_LANES][2], float (&sums)[THREAD_LANES][4]
) {
    // Volatile, so that it stays where all lanes are, whoever uses the result.
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0][0]), "+f"(sums[0][1]), "+f"(sums[0][2]), "+f"(sums[0][3])
                 : "r"(a[0][0]), "r"(a[0][1]), "r"(a[0][2]), "r"(a[0][3]), "r"(b[0][0]), "r"(b[0][1]));
}
#endif
