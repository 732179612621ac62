// From feature maps (N, C, H, W) to heatmaps (N, H, W): what reads the network's large outputs, each value once from
// device memory.

#define MAX_THREADS 1024
#include "block.cuh"

__device__ inline float nan_float() { return static_cast<float>(not_a_number()); }

// What is left of an activation above the threshold; NaN stays NaN.
__device__ inline float excess(float value, float threshold) {
    const float left = value - threshold;
    return left <= 0 ? 0 : left;
}

// A multiple of a mean, which is taken of this sum; no number where either overflows in float. There NumPy's mean is
// infinite, and such a threshold would leave nothing of any map, as if there were nothing in the picture.
__device__ inline float threshold_of(double sum, double multiple) {
    const float rounded = static_cast<float>(multiple);
    const bool fits = fabs(static_cast<float>(sum)) < infinity() && fabs(rounded) < infinity();
    return fits ? rounded : nan_float();
}

constexpr int LANES = 32;  // threads that share a map

// Which map of those that a block reads at once this thread works on; there are `count` at once, and threads that do not
// make up a whole group of LANES idle, unless there are no others.
struct Group {
    int count, index;

    __device__ Group() : count(blockDim.x < LANES ? 1 : blockDim.x / LANES), index(threadIdx.x / LANES) {}
    __device__ bool works() const { return index < count; }
    __device__ bool speaks() const { return works() && threadIdx.x % LANES == 0; }
};

// The greatest of the values that this thread's group of LANES sees; for the group's first thread alone. All threads of
// the block call it together, once.
__device__ inline float lanes_greatest(float greatest) {
    __shared__ float of_thread[MAX_THREADS];
    of_thread[threadIdx.x] = greatest;
    __syncthreads();
    if (threadIdx.x % LANES == 0) {
        for (int lane = 1; lane < LANES && threadIdx.x + lane < blockDim.x; ++lane) {
            const float other = of_thread[threadIdx.x + lane];
            if (other > greatest || other != other) greatest = other;
        }
    }
    return greatest;
}

template <class T>
__device__ inline float lane_greatest(const T* map, int cells) {
    float greatest = -static_cast<float>(infinity());
    const int lanes = blockDim.x < LANES ? blockDim.x : LANES;
    for (int cell = threadIdx.x % LANES; cell < cells; cell += lanes) {
        const float value = to_float(map[cell]);
        if (value > greatest || value != value) greatest = value;
    }
    return greatest;
}

// kernels/channel_max.py. A group of LANES threads takes a map; no shared memory of the caller's.
template <class T>
__device__ void channel_max(const T* maps, long long count, int cells, float* greatest) {
    const Group group;
    const long long map = static_cast<long long>(blockIdx.x) * group.count + group.index;
    const bool exists = group.works() && map < count;
    const float own = lanes_greatest(exists ? lane_greatest(maps + map * cells, cells) : 0);
    if (exists && group.speaks()) greatest[map] = own;
}

// The maps of one layer, and those that each image's signature selects.
template <class T>
struct Selection {
    const T* maps;  // (N, channels, cells)
    const int* indices;  // (N, count)
    int channels, count;

    // Map `k` of this block's image; null for an index that names none.
    __device__ const T* map(int k, int cells) const {
        const int index = indices[static_cast<size_t>(blockIdx.x) * count + k];
        if (index < 0 || index >= channels) return nullptr;
        return maps + (static_cast<size_t>(blockIdx.x) * channels + index) * cells;
    }
};

template <class T>
__device__ inline double selection_sum(const Selection<T>& selection, int cells) {
    double sum = 0;
    for (int item = threadIdx.x; item < selection.count * cells; item += blockDim.x) {
        const T* map = selection.map(item / cells, cells);
        sum += map ? to_float(map[item % cells]) : not_a_number();
    }
    return sum;
}

template <class T>
__device__ inline float selection_excess(const Selection<T>& selection, int cells, int cell, float threshold, float sum) {
#pragma unroll 8
    for (int k = 0; k < selection.count; ++k) {
        const T* map = selection.map(k, cells);
        sum += excess(map ? to_float(map[cell]) : nan_float(), threshold);
    }
    return sum;
}

// kernels/selected_heatmap.py, for the maps of up to two layers of one grid. The maps are gone through twice, for their
// mean and for what exceeds it; the second time they come from the cache. The sum over the maps runs in their order.
template <class T>
__device__ void selected_heatmap(
    const T* first_maps, const int* first_indices, int first_channels, int first_count, const T* second_maps,
    const int* second_indices, int second_channels, int second_count, int cells, double mean_factor,
    float* heat
) {
    const Selection<T> one{first_maps, first_indices, first_channels, first_count};
    const Selection<T> two{second_maps, second_indices, second_channels, second_count};
    const int count = first_count + second_count;
    const double sum = block_sum(selection_sum(one, cells) + selection_sum(two, cells));
    // Rounded where NumPy rounds.
    const float mean = static_cast<float>(sum / (static_cast<double>(count) * cells));
    const float threshold = threshold_of(sum, mean_factor * mean);
    for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) {
        const float above = selection_excess(one, cells, cell, threshold, 0);
        heat[static_cast<size_t>(blockIdx.x) * cells + cell] = selection_excess(two, cells, cell, threshold, above);
    }
}

// What is summed up: sizes of the values, or values by what their channel of this block's image is multiplied by.
struct Sizes {
    __device__ float weight(int) const { return 1; }
    __device__ float part(float value) const { return fabsf(value); }
};
struct Weighted {
    const float* weights;
    __device__ float weight(int channel) const { return weights[channel]; }
    __device__ float part(float value) const { return value; }
};

// Sum over the channels of an image, `width` adjacent cells a thread and the channels dealt out in turn to the teams of
// threads that cover the grid.
template <int width, class T, class Summed>
__device__ inline void sum_channels(
    const T* image, const Summed& summed, int channels, int cells, int teams, float* of_team
) {
    const int columns = cells / width;
    for (int item = threadIdx.x; item < teams * columns; item += blockDim.x) {
        const int team = item / columns, column = item % columns;
        float sum[width] = {};
#pragma unroll 8
        for (int channel = team; channel < channels; channel += teams) {
            const T* map = image + static_cast<size_t>(channel) * cells;
            const auto load = reinterpret_cast<const Values<T, width>*>(map)[column];
            const float weight = summed.weight(channel);
            for (int i = 0; i < width; ++i) {
                sum[i] += weight * summed.part(to_float(load.values[i]));
            }
        }
        for (int i = 0; i < width; ++i) of_team[team * cells + column * width + i] = sum[i];
    }
}

// Wide loads need each map to begin at a multiple of their size.
template <class T>
__device__ inline bool has_quads(const T* maps, int cells) {
    return cells % 4 == 0 && reinterpret_cast<size_t>(maps) % sizeof(Values<T, 4>) == 0;
}

// Sums of the teams over this block's image, of_team[teams][cells], for `total` to add up.
template <class T, class Summed>
__device__ inline void sum_in_teams(
    const T* maps, const Summed& summed, int channels, int cells, int teams, float* of_team
) {
    const T* image = maps + static_cast<size_t>(blockIdx.x) * channels * cells;
    if (has_quads(maps, cells)) {
        sum_channels<4>(image, summed, channels, cells, teams, of_team);
    } else {
        sum_channels<1>(image, summed, channels, cells, teams, of_team);
    }
    __syncthreads();
}

__device__ inline float total(const float* of_team, int teams, int cells, int cell) {
    float sum = 0;
    for (int team = 0; team < teams; ++team) sum += of_team[team * cells + cell];
    return sum;
}

// What is left of a cell's mean above the threshold: clamped at 0 or, with a width, softly around `middle`.
__device__ inline float clamped_mean(float mean, float threshold, double middle, double width) {
    if (width == 0) return excess(mean, threshold);
    const double above = mean - middle;
    return static_cast<float>((above > 0 ? above : 0) + width * log1p(exp(-fabs(above) / width)));
}

// kernels/mean_heatmap.py. State: floats of_team[teams][cells], padded to doubles.
template <class T>
__device__ void mean_heatmap(
    double* arena, const T* maps, int channels, int cells, int teams, double mean_factor, double softness, float* heat
) {
    float* of_team = reinterpret_cast<float*>(arena);
    sum_in_teams(maps, Sizes(), channels, cells, teams, of_team);
    float* mean = of_team;
    double sum = 0;
    for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) {
        mean[cell] = total(of_team, teams, cells, cell) / channels;  // no one else reads this cell's sums
        sum += mean[cell];
    }
    sum = block_sum(sum);
    const double level = sum / cells;
    const float threshold = threshold_of(sum, mean_factor * static_cast<float>(level));
    const double finite = level < infinity() ? level : not_a_number();
    const double middle = mean_factor * finite, width = softness > 0 ? softness * finite : 0;
    float* own = heat + static_cast<size_t>(blockIdx.x) * cells;
    int any = 0;
    for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) {
        own[cell] = clamped_mean(mean[cell], threshold, middle, width);
        any |= own[cell] > 0;
    }
    if (__syncthreads_or(any)) return;
    for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) own[cell] = mean[cell];
}

// kernels/weighted_heatmap.py, of weights (N, channels). State: as that of mean_heatmap.
template <class T>
__device__ void weighted_heatmap(
    double* arena, const T* maps, const float* weights, int channels, int cells, int teams, double mean_factor,
    float* heat
) {
    float* of_team = reinterpret_cast<float*>(arena);
    const Weighted own{weights + static_cast<size_t>(blockIdx.x) * channels};
    sum_in_teams(maps, own, channels, cells, teams, of_team);
    float* clamped = of_team;
    double sum = 0;
    for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) {
        clamped[cell] = excess(total(of_team, teams, cells, cell), 0);  // no one else reads this cell's sums
        sum += clamped[cell];
    }
    sum = block_sum(sum);
    const float mean = static_cast<float>(sum / cells);
    const float threshold = threshold_of(sum, mean_factor * mean);
    for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) {
        heat[static_cast<size_t>(blockIdx.x) * cells + cell] = excess(clamped[cell], threshold);
    }
}

// Threads that share a map whose mean is taken; their number alone decides the order of its sum.
constexpr int PARTS = 8;

// Sums of `width` adjacent cells at a time over every PARTS-th of them: parts[channels][PARTS].
template <int width, class T>
__device__ inline void sum_parts(const T* image, int channels, int cells, float* parts) {
    const int columns = cells / width;
    for (int item = threadIdx.x; item < channels * PARTS; item += blockDim.x) {
        const T* map = image + static_cast<size_t>(item / PARTS) * cells;
        float sum = 0;
#pragma unroll 4
        for (int column = item % PARTS; column < columns; column += PARTS) {
            const auto load = reinterpret_cast<const Values<T, width>*>(map)[column];
            for (int i = 0; i < width; ++i) sum += to_float(load.values[i]);
        }
        parts[item] = sum;
    }
}

// kernels/top_weights.py. State: floats parts[channels][PARTS], padded to doubles, of which the first of each map becomes
// what the map adds.
template <class T>
__device__ void top_weights(
    double* arena, const T* maps, const float* weights, int channels, int cells, int top, float* kept
) {
    float* parts = reinterpret_cast<float*>(arena);
    const T* image = maps + static_cast<size_t>(blockIdx.x) * channels * cells;
    if (has_quads(maps, cells)) {
        sum_parts<4>(image, channels, cells, parts);
    } else {
        sum_parts<1>(image, channels, cells, parts);
    }
    __syncthreads();
    const float* weight = weights + static_cast<size_t>(blockIdx.x) * channels;
    int unknown = 0;
    for (int channel = threadIdx.x; channel < channels; channel += blockDim.x) {
        float* added = parts + channel * PARTS;  // no one else reads these parts
        float sum = 0;
        for (int part = 0; part < PARTS; ++part) sum += added[part];
        *added = weight[channel] * (sum / cells);
        unknown += *added != *added;
    }
    // What is not a number is above all numbers, and where it is the least of those kept, no number is below.
    const int above_all = static_cast<int>(block_sum(unknown));
    for (int channel = threadIdx.x; channel < channels; channel += blockDim.x) {
        const float own = parts[channel * PARTS];
        int above = above_all;
#pragma unroll 8
        for (int other = 0; other < channels; ++other) above += parts[other * PARTS] > own;
        const bool below_least = above_all < top && above >= top;
        kept[static_cast<size_t>(blockIdx.x) * channels + channel] = below_least ? 0 : weight[channel];
    }
}

#define CHANNEL_MAX(name, T)                                                                                      \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        const T* maps, long long count, int cells, float* greatest                                                \
    ) {                                                                                                           \
        channel_max(maps, count, cells, greatest);                                                                \
    }

#define SELECTED_HEATMAP(name, T)                                                                                 \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        const T* first_maps, const int* first_indices, int first_channels, int first_count,                 \
        const T* second_maps, const int* second_indices, int second_channels, int second_count, int cells,  \
        double mean_factor, float* heat                                                                           \
    ) {                                                                                                           \
        selected_heatmap(                                                                                         \
            first_maps, first_indices, first_channels, first_count, second_maps, second_indices, second_channels, \
            second_count, cells, mean_factor, heat                                                                \
        );                                                                                                        \
    }

#define MEAN_HEATMAP(name, T)                                                                                     \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        const T* maps, int channels, int cells, int teams, double mean_factor, double softness,                   \
        float* heat STATE_PARAMETERS                                                                              \
    ) {                                                                                                           \
        BLOCK_STATE(arena);                                                                                       \
        mean_heatmap(arena, maps, channels, cells, teams, mean_factor, softness, heat);                           \
    }

#define WEIGHTED_HEATMAP(name, T)                                                                                 \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        const T* maps, const float* weights, int channels, int cells, int teams, double mean_factor,              \
        float* heat STATE_PARAMETERS                                                                              \
    ) {                                                                                                           \
        BLOCK_STATE(arena);                                                                                       \
        weighted_heatmap(arena, maps, weights, channels, cells, teams, mean_factor, heat);                        \
    }

#define TOP_WEIGHTS(name, T)                                                                                      \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        const T* maps, const float* weights, int channels, int cells, int top, float* kept STATE_PARAMETERS       \
    ) {                                                                                                           \
        BLOCK_STATE(arena);                                                                                       \
        top_weights(arena, maps, weights, channels, cells, top, kept);                                            \
    }

CHANNEL_MAX(channel_max_f16, half_bits)
CHANNEL_MAX(channel_max_f32, float)
SELECTED_HEATMAP(selected_heatmap_f16, half_bits)
SELECTED_HEATMAP(selected_heatmap_f32, float)
MEAN_HEATMAP(mean_heatmap_f16, half_bits)
MEAN_HEATMAP(mean_heatmap_f32, float)
WEIGHTED_HEATMAP(weighted_heatmap_f16, half_bits)
WEIGHTED_HEATMAP(weighted_heatmap_f32, float)
TOP_WEIGHTS(top_weights_f16, half_bits)
TOP_WEIGHTS(top_weights_f32, float)
