/* How many arithmetic operations a second the cores can do at most: multiply-add instructions on registers alone, one
 * thread a core. Prints "precision operations-per-second" for each precision that the processor has vector
 * instructions for. Usage: instruction_rate THREADS */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

/* More chains than latency x throughput of any current core, and few enough registers. */
#define CHAINS 12
#define ROUNDS 200000L
#define SECONDS 0.25
#define TRIES 3

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

typedef struct { double started, ended, operations; float sum; } Work;

/* Each loop keeps CHAINS accumulators that depend on themselves only; the sum keeps the compiler from dropping them. */
#define LOOP(name, type, start, step, reduce, operations_each)                                   \
    static void *name(void *argument) {                                                          \
        Work *work = argument;                                                                   \
        type a[CHAINS];                                                                          \
        for (int i = 0; i < CHAINS; i++) a[i] = start;                                           \
        work->started = now();                                                                   \
        do {                                                                                     \
            for (long k = 0; k < ROUNDS; k++) {                                                  \
                _Pragma("GCC unroll 12") for (int i = 0; i < CHAINS; i++) a[i] = step;           \
            }                                                                                    \
            work->operations += (double)ROUNDS * CHAINS * (operations_each);                     \
            work->ended = now();                                                                 \
        } while (work->ended - work->started < SECONDS);                                         \
        for (int i = 0; i < CHAINS; i++) work->sum += reduce;                                    \
        return 0;                                                                                \
    }

#ifdef __AVX512F__
LOOP(fp32, __m512, _mm512_set1_ps((float)i), _mm512_fmadd_ps(a[i], _mm512_set1_ps(1.0001f), _mm512_set1_ps(0.9f)),
     _mm512_reduce_add_ps(a[i]), 32)
#else
LOOP(fp32, __m256, _mm256_set1_ps((float)i), _mm256_fmadd_ps(a[i], _mm256_set1_ps(1.0001f), _mm256_set1_ps(0.9f)),
     _mm256_cvtss_f32(a[i]), 16)
#endif
/* Where the processor has AMX, its tiles do bf16 and int8, and these vectors are not its limit. */
#if defined(__linux__) && defined(__AMX_BF16__) && defined(__AMX_INT8__)
#include <sys/syscall.h>
#include <unistd.h>
#define HAS_TILES
#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18
#define ROWS 16 /* of a tile, each of 64 bytes: 32 values of bf16 or 64 of int8, or 16 sums */

typedef struct { unsigned char palette, start_row, reserved[14]; unsigned short bytes[16]; unsigned char rows[16]; } TileShapes;

/* Four accumulators, which is more than latency x throughput of the tile product; all of them, and factors, are 0. */
#define TILE_LOOP(name, product, operations_each)                                                \
    static void *name(void *argument) {                                                          \
        Work *work = argument;                                                                   \
        TileShapes shapes = {.palette = 1};                                                      \
        for (int i = 0; i < 8; i++) shapes.bytes[i] = 64, shapes.rows[i] = ROWS;                 \
        _tile_loadconfig(&shapes);                                                               \
        _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);                              \
        _tile_zero(4); _tile_zero(5); _tile_zero(6); _tile_zero(7);                              \
        work->started = now();                                                                   \
        do {                                                                                     \
            for (long k = 0; k < ROUNDS; k++) {                                                  \
                product(0, 4, 6); product(1, 4, 7); product(2, 5, 6); product(3, 5, 7);          \
            }                                                                                    \
            work->operations += (double)ROUNDS * 4 * (operations_each);                          \
            work->ended = now();                                                                 \
        } while (work->ended - work->started < SECONDS);                                         \
        _tile_release();                                                                         \
        return 0;                                                                                \
    }

TILE_LOOP(bf16, _tile_dpbf16ps, 2 * ROWS * 16 * 32)
TILE_LOOP(int8, _tile_dpbusd, 2 * ROWS * 16 * 64)
#endif
#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
LOOP(bf16, __m512, _mm512_set1_ps((float)i),
     _mm512_dpbf16_ps(a[i], (__m512bh)_mm512_set1_ps(1.0f), (__m512bh)_mm512_set1_ps(0.9f)), _mm512_reduce_add_ps(a[i]), 64)
#define HAS_BF16
#endif
#if defined(__AVX512VNNI__) && !defined(__AMX_INT8__)
LOOP(int8, __m512i, _mm512_set1_epi32(i), _mm512_dpbusd_epi32(a[i], _mm512_set1_epi8(3), _mm512_set1_epi8(3)),
     (float)_mm512_reduce_add_epi32(a[i]), 128)
#define HAS_INT8
#elif defined(__AVXVNNI__) && !defined(__AMX_INT8__)
LOOP(int8, __m256i, _mm256_set1_epi32(i), _mm256_dpbusd_avx_epi32(a[i], _mm256_set1_epi8(3), _mm256_set1_epi8(3)),
     (float)_mm256_extract_epi32(a[i], 0), 64)
#define HAS_INT8
#endif

/* A core for each thread: the scheduler may leave two that run for so short a time on the same one. */
static void pin(pthread_attr_t *attributes, int number) {
#ifdef __linux__
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof allowed, &allowed)) return;
    int seen = number % CPU_COUNT(&allowed);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed) || seen-- > 0) continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        pthread_attr_setaffinity_np(attributes, sizeof one, &one);
        return;
    }
#else
    (void)attributes, (void)number;
#endif
}

static void measure(const char *precision, void *(*loop)(void *), int threads) {
    double best = 0;
    volatile float sink = 0;
    for (int attempt = 0; attempt < TRIES; attempt++) {
        pthread_t thread[threads];
        Work work[threads];
        double rate = 0;
        for (int i = 0; i < threads; i++) {
            pthread_attr_t attributes;
            work[i] = (Work){0};
            pthread_attr_init(&attributes);
            pin(&attributes, i);
            if (pthread_create(&thread[i], &attributes, loop, &work[i])) exit(1);
            pthread_attr_destroy(&attributes);
        }
        for (int i = 0; i < threads; i++) {
            pthread_join(thread[i], 0);
            rate += work[i].operations / (work[i].ended - work[i].started);
            sink += work[i].sum;
        }
        if (rate > best) best = rate;
    }
    printf("%s %.6g\n", precision, best);
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    if (threads < 1 || threads > 4096) return 2;
    measure("fp32", fp32, threads);
#ifdef HAS_TILES
    /* Linux lets a program use tiles that asks for them. */
    if (!syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)) {
        measure("bf16", bf16, threads);
        measure("int8", int8, threads);
    }
#endif
#ifdef HAS_BF16
    measure("bf16", bf16, threads);
#endif
#ifdef HAS_INT8
    measure("int8", int8, threads);
#endif
    return 0;
}
#else
int main(void) { return 0; }
#endif
