// Runs CUDA C on the host: a C++20 thread for each CUDA thread of a block, one block after the other. Put before a .cu
// with g++'s -include; below the source, HOST_KERNEL(name) makes the kernel `name` known to launch_kernel().
//
// Dynamic shared memory is filled with 0xFF before each block (NaN, -1), so that reading what no one wrote is seen, and
// is followed by a stretch of which every byte must stay as it is. With -DREPLAY there is a main() that runs launches
// from files, for g++'s sanitizers; OMIT_BARRIER_AT_LINE=n in its environment leaves out the barrier in that line.

#pragma once

#include <atomic>
#include <barrier>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __shared__ static
#define DYNAMIC_SHARED(name) double* name = cuda_on_host::dynamic_shared
#define __syncthreads() cuda_on_host::wait_for_block(__LINE__)
#define __syncthreads_or(vote) cuda_on_host::wait_for_votes(vote)

struct Position {
    unsigned x = 0, y = 0, z = 0;
};

inline thread_local Position threadIdx, blockIdx;
inline Position blockDim, gridDim;  // set before the threads of a launch start

inline double __longlong_as_double(long long bits) { return std::bit_cast<double>(bits); }
inline long long __double_as_longlong(double value) { return std::bit_cast<long long>(value); }

inline float half_to_float(unsigned short bits) {
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    float value = std::ldexp(static_cast<float>(exponent ? mantissa + 1024 : mantissa), (exponent ? exponent : 1) - 25);
    if (exponent == 31) value = mantissa ? NAN : INFINITY;
    return bits & 0x8000 ? -value : value;
}

inline unsigned short float_to_half(float value) {
    return std::bit_cast<unsigned short>(static_cast<_Float16>(value));
}

inline unsigned pack_halves(float first, float second) {
    return float_to_half(first) | static_cast<unsigned>(float_to_half(second)) << 16;
}

inline unsigned limit_halves(unsigned both, unsigned least, unsigned greatest) {
    float limited[2];
    for (int i = 0; i < 2; ++i) {
        const auto half = [i](unsigned pair) { return half_to_float(static_cast<unsigned short>(pair >> i * 16)); };
        const float above = half(both) < half(least) ? half(least) : half(both);
        limited[i] = above > half(greatest) ? half(greatest) : above;
    }
    return pack_halves(limited[0], limited[1]);
}

// Here a thread stands for a warp of kernels that use matrix units, and holds the fragments of all its lanes.
constexpr int THREAD_LANES = 32;

inline int lane(int number) { return number; }
inline int warp() { return static_cast<int>(threadIdx.x); }
inline int warps() { return static_cast<int>(blockDim.x); }

// What mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 does, with elements where the PTX ISA says: "Matrix fragments
// for mma.m16n8k16 with floating point type".
inline void multiply_add(const unsigned (&a)[THREAD_LANES][4], const unsigned (&b)[THREAD_LANES][2], float (&sums)[THREAD_LANES][4]) {
    const auto element = [](const unsigned* registers, int i) {
        return half_to_float(static_cast<unsigned short>(registers[i / 2] >> (i % 2 * 16)));
    };
    float left[16][16], right[16][8];
    for (int lane = 0; lane < THREAD_LANES; ++lane) {
        const int group = lane >> 2, in_group = lane % 4;
        for (int i = 0; i < 8; ++i) {
            const int row = i < 2 || (4 <= i && i < 6) ? group : group + 8;
            const int column = in_group * 2 + (i & 1) + (i < 4 ? 0 : 8);
            left[row][column] = element(a[lane], i);
        }
        for (int i = 0; i < 4; ++i) right[in_group * 2 + (i & 1) + (i < 2 ? 0 : 8)][group] = element(b[lane], i);
    }
    for (int lane = 0; lane < THREAD_LANES; ++lane) {
        for (int i = 0; i < 4; ++i) {
            const int row = i < 2 ? lane >> 2 : (lane >> 2) + 8, column = lane % 4 * 2 + (i & 1);
            for (int k = 0; k < 16; ++k) sums[lane][i] += left[row][k] * right[k][column];
        }
    }
}

using std::exp, std::fabs, std::frexp, std::ldexp, std::log, std::rint, std::sqrt;

namespace cuda_on_host {

inline double* dynamic_shared;
inline std::barrier<>* block;
inline std::atomic<int> votes[3];
inline thread_local unsigned voted;

inline int omitted_line() {
    const char* line = std::getenv("OMIT_BARRIER_AT_LINE");
    return line ? std::atoi(line) : 0;
}
inline const int omitted = omitted_line();

inline void wait_for_block(int line) {
    if (line != omitted) block->arrive_and_wait();
}

// Votes are counted in turn in three places: the one after next is cleared when no one can be in it any more.
inline int wait_for_votes(int vote) {
    const unsigned turn = voted++;
    if (vote) votes[turn % 3].store(1);
    block->arrive_and_wait();
    const int any = votes[turn % 3].load();
    if (threadIdx.x == 0) votes[(turn + 2) % 3].store(0);
    return any;
}

constexpr std::size_t GUARD = 4096;
constexpr unsigned char UNWRITTEN = 0xFF, GUARDED = 0xA5;

// 0, or 1 if a block wrote beyond its dynamic shared memory.
template <class... Arguments>
int launch(void (*kernel)(Arguments...), unsigned blocks, unsigned threads, std::size_t shared_bytes, void** pointers) {
    const auto values = [&]<std::size_t... i>(std::index_sequence<i...>) {
        return std::tuple<Arguments...>(*static_cast<Arguments*>(pointers[i])...);
    }(std::index_sequence_for<Arguments...>());
    std::vector<double> memory((shared_bytes + GUARD) / sizeof(double) + 1);
    auto* bytes = reinterpret_cast<unsigned char*>(memory.data());
    dynamic_shared = memory.data();
    gridDim = {blocks, 1, 1};
    blockDim = {threads, 1, 1};
    for (auto& vote : votes) vote = 0;
    std::barrier all(threads);
    block = &all;
    bool overrun = false;
    auto run = [&](unsigned thread) {
        threadIdx = {thread, 0, 0};
        voted = 0;
        for (unsigned image = 0; image < blocks; ++image) {
            blockIdx = {image, 0, 0};
            if (thread == 0) {
                std::memset(bytes, UNWRITTEN, shared_bytes);
                std::memset(bytes + shared_bytes, GUARDED, GUARD);
            }
            all.arrive_and_wait();
            std::apply(kernel, values);
            all.arrive_and_wait();
            for (std::size_t i = 0; thread == 0 && i < GUARD; ++i) overrun |= bytes[shared_bytes + i] != GUARDED;
        }
    };
    std::vector<std::thread> team;
    for (unsigned thread = 0; thread < threads; ++thread) team.emplace_back(run, thread);
    for (auto& thread : team) thread.join();
    return overrun;
}

// NumPy's letter and size of a type; "*" behind it for a pointer.
template <class T>
std::string type_code() {
    if constexpr (std::is_pointer_v<T>) {
        return type_code<std::remove_cv_t<std::remove_pointer_t<T>>>() + "*";
    } else {
        const char* letter = std::is_same_v<T, bool> ? "b" : std::is_unsigned_v<T> ? "u" : std::is_integral_v<T> ? "i" : "f";
        return letter + std::to_string(sizeof(T));
    }
}

template <class... Arguments>
std::string signature(void (*)(Arguments...)) {
    std::string codes;
    ((codes += type_code<Arguments>() + " "), ...);
    return codes;
}

struct Kernel {
    int (*launch)(unsigned, unsigned, std::size_t, void**);
    std::string signature;
};

inline std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> known;
    return known;
}

}  // namespace cuda_on_host

#define HOST_KERNEL(name)                                                                                         \
    static const bool name##_is_known = [] {                                                                      \
        cuda_on_host::kernels()[#name] = {                                                                        \
            [](unsigned blocks, unsigned threads, std::size_t shared_bytes, void** pointers) {                    \
                return cuda_on_host::launch(&name, blocks, threads, shared_bytes, pointers);                      \
            },                                                                                                    \
            cuda_on_host::signature(&name)                                                                        \
        };                                                                                                        \
        return true;                                                                                              \
    }();

extern "C" inline __attribute__((used)) int launch_kernel(
    const char* name, unsigned blocks, unsigned threads, std::size_t shared_bytes, void** pointers
) {
    return cuda_on_host::kernels().at(name).launch(blocks, threads, shared_bytes, pointers);
}

extern "C" inline __attribute__((used)) const char* kernel_signature(const char* name) {
    const auto found = cuda_on_host::kernels().find(name);
    return found == cuda_on_host::kernels().end() ? nullptr : found->second.signature.c_str();
}

#ifdef REPLAY
// A file: the kernel's name and a line break; blocks, threads, shared bytes and number of arguments as 64-bit integers;
// for each argument whether it is an array, its bytes, and the bytes themselves.
int main(int count, char** files) {
    for (int f = 1; f < count; ++f) {
        std::ifstream file(files[f], std::ios::binary);
        std::string name;
        std::getline(file, name);
        auto number = [&] {
            std::int64_t value = 0;
            file.read(reinterpret_cast<char*>(&value), sizeof value);
            return value;
        };
        const auto blocks = number(), threads = number(), shared_bytes = number(), arguments = number();
        std::vector<std::unique_ptr<char[]>> contents(arguments);  // no byte more than the array has
        std::vector<void*> arrays(arguments), pointers(arguments);
        for (std::int64_t i = 0; i < arguments; ++i) {
            const bool is_array = number();
            const auto bytes = number();
            contents[i] = std::make_unique<char[]>(bytes);
            file.read(contents[i].get(), bytes);
            arrays[i] = contents[i].get();
            pointers[i] = is_array ? static_cast<void*>(&arrays[i]) : contents[i].get();
        }
        if (!file) return 2;
        if (launch_kernel(name.c_str(), blocks, threads, shared_bytes, pointers.data())) return 3;
        std::printf("%s done\n", name.c_str());
    }
}
#endif
