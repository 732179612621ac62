// A network's first convolution, from its pixels: kernels/pixel_convolution.py says what is computed.
//
// It writes much more than it reads and computes little, so that nothing but the result passes through the device's
// memory. A block keeps the pixels under its tile of places as float16 in shared memory; a warp takes 16 places of a
// row at a time and keeps its filters in registers for all of them. Products are those of matrices: 16 filters, by 4
// values of 4 places of the window at a step, by 8 places of the result.
//
// The matrix unit does not care in which order the terms of a sum, or the filters, come. Of each step a lane takes the
// four values of one place of the window, which lie side by side; and filters are dealt out such that the results of a
// lane are 8 adjacent ones of a place, written at once, and those of 8 lanes all 64: whole lines of memory.

#define MAX_THREADS 128
#include "block.cuh"
#include "matrix_units.cuh"
#include "windows.cuh"

constexpr int PLACES = 16;  // of the result, that a warp takes at a time
constexpr int FILTERS = 64;  // that it applies to them; beyond, another block does
constexpr int MATRICES = FILTERS / 16;
constexpr int ROOM = 1536;  // pixels that a block keeps
constexpr int READ_AT_ONCE = 6;  // rows of these
constexpr int BLOCKS_AT_ONCE = 4;  // on a multiprocessor, at least: some write while others read

// Four values of a pixel, or of a filter at a place of its window, as fragments have them.
struct alignas(8) FourHalves {
    unsigned first, second;
};
struct alignas(16) EightHalves {
    unsigned pairs[4];
};

// What a block computes: `rows` x `columns` places from `row` and `column` of an image on, with FILTERS filters from
// `filter` on. Rows of the pixels that it keeps are `pitch` apart.
struct Tile {
    int rows, columns, pitch, row, column, filter;
    size_t image;

    __device__ Tile(const Windows& sizes, int filters, int rows, int columns, int pitch)
        : rows(rows), columns(columns), pitch(pitch) {
        const unsigned groups = (filters + FILTERS - 1) / FILTERS, across = (sizes.out_width + columns - 1) / columns;
        const unsigned down = (sizes.out_height + rows - 1) / rows, tile = blockIdx.x / groups;
        filter = static_cast<int>(blockIdx.x % groups) * FILTERS;
        column = static_cast<int>(tile % across) * columns;
        row = static_cast<int>(tile / across % down) * rows;
        image = tile / across / down;
    }
};

__device__ inline int limited(int value, int last) { return value < 0 ? 0 : value > last ? last : value; }

// Keep the pixels under a tile: outside of the image all values are 0, the constant too.
__device__ inline void keep_pixels(
    const unsigned char* images, const Windows& sizes, const Tile& tile, half_bits constant, FourHalves* pixels
) {
    const unsigned char* image = images + tile.image * sizes.height * sizes.width * 3;
    const int first_row = tile.row * sizes.stride_height - sizes.top;
    const int first_column = tile.column * sizes.stride_width - sizes.left;
    const int rows = (tile.rows - 1) * sizes.stride_height + sizes.window_height;
    const int columns = (tile.columns - 1) * sizes.stride_width + sizes.window_width;
    const unsigned fourth = static_cast<unsigned>(constant.bits) << 16;
    for (int x = threadIdx.x; x < columns; x += blockDim.x) {
        const int column = first_column + x, read_column = limited(column, sizes.width - 1);
        for (int first = 0; first < rows; first += READ_AT_ONCE) {
            // What is read is always a pixel, if not the one: so all of these reads are under way at once.
            unsigned char read[READ_AT_ONCE][3];
#pragma unroll
            for (int i = 0; i < READ_AT_ONCE; ++i) {
                const int row = limited(first_row + first + i, sizes.height - 1);
                const unsigned char* pixel = image + (static_cast<size_t>(row) * sizes.width + read_column) * 3;
#pragma unroll
                for (int part = 0; part < 3; ++part) read[i][part] = pixel[part];
            }
#pragma unroll
            for (int i = 0; i < READ_AT_ONCE; ++i) {
                const int y = first + i, row = first_row + y;
                const bool inside = column == read_column && row >= 0 && row < sizes.height;
                const FourHalves values{pack_halves(read[i][0], read[i][1]), pack_halves(read[i][2], 0) | fourth};
                if (y < rows) pixels[y * tile.pitch + x] = inside ? values : FourHalves{0, 0};
            }
        }
    }
}

// The first of the filters that a row of a matrix holds: row r of matrix m has the one 8 (r % 8) + 2 m + r / 8. A lane
// has rows r and r + 8, and so 8 adjacent filters in all matrices.
__device__ inline int first_filter(int row) { return row % 8 * 8; }

__device__ inline FourHalves load_four(const half_bits* place, bool at_once) {
    if (at_once) return *reinterpret_cast<const FourHalves*>(place);
    const unsigned a = place[0].bits, b = place[1].bits, c = place[2].bits, d = place[3].bits;
    return {a | b << 16, c | d << 16};
}

// `steps` of 4 places of the window; what is beyond its last is multiplied by 0.
template <int steps>
__device__ void pixel_convolution(
    const unsigned char* images, const half_bits* weights, const half_bits* bias, const Windows& sizes, int filters,
    const Tile& tile, half_bits constant, half_bits least, half_bits greatest, half_bits* result
) {
    __shared__ FourHalves pixels[ROOM];
    const int window = sizes.window_height * sizes.window_width;
    unsigned factors[MATRICES][steps][THREAD_LANES][4];
    float added[MATRICES][THREAD_LANES][2];
    int reach[steps][THREAD_LANES];  // from the first pixel of a window to the one at a place of it
    const bool at_once = reinterpret_cast<size_t>(weights) % alignof(FourHalves) == 0;
#pragma unroll
    for (int l = 0; l < THREAD_LANES; ++l) {
        const int filter = tile.filter + first_filter(lane(l) / 4);
#pragma unroll
        for (int s = 0; s < steps; ++s) {
            const int place = s * 4 + lane(l) % 4;
            const bool exists = place < window;
            reach[s][l] = exists ? place / sizes.window_width * tile.pitch + place % sizes.window_width : 0;
            const half_bits* of_place = weights + (static_cast<size_t>(filter) * window + place) * 4;
#pragma unroll
            for (int m = 0; m < MATRICES; ++m) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    FourHalves values{0, 0};
                    if (exists && filter < filters) values = load_four(of_place + (m * 2 + i) * window * 4, at_once);
                    factors[m][s][l][i] = values.first;
                    factors[m][s][l][i + 2] = values.second;
                }
            }
        }
#pragma unroll
        for (int m = 0; m < MATRICES; ++m) {
#pragma unroll
            for (int i = 0; i < 2; ++i) added[m][l][i] = filter < filters ? to_float(bias[filter + m * 2 + i]) : 0;
        }
    }
    keep_pixels(images, sizes, tile, constant, pixels);
    __syncthreads();

    const unsigned lower = least.bits * 0x10001u, upper = greatest.bits * 0x10001u;
    int y = 0, x = warp() * PLACES;  // in the tile
    for (;; x += warps() * PLACES) {
        for (; x >= tile.columns; x -= tile.columns) ++y;
        const int row = tile.row + y, column = tile.column + x;
        if (y >= tile.rows || row >= sizes.out_height) break;
        if (column >= sizes.out_width) continue;
        const FourHalves* first = pixels + y * sizes.stride_height * tile.pitch + x * sizes.stride_width;
        half_bits* out = result + ((tile.image * sizes.out_height + row) * sizes.out_width + column) * filters;
#pragma unroll
        for (int eight = 0; eight < PLACES; eight += 8) {
            unsigned values[steps][THREAD_LANES][2];
            float sums[MATRICES][THREAD_LANES][4];
#pragma unroll
            for (int l = 0; l < THREAD_LANES; ++l) {
                const FourHalves* at = first + (eight + lane(l) / 4) * sizes.stride_width;
#pragma unroll
                for (int s = 0; s < steps; ++s) {
                    const FourHalves pixel = at[reach[s][l]];
                    values[s][l][0] = pixel.first;
                    values[s][l][1] = pixel.second;
                }
#pragma unroll
                for (int m = 0; m < MATRICES; ++m) {
                    sums[m][l][0] = sums[m][l][1] = added[m][l][0];
                    sums[m][l][2] = sums[m][l][3] = added[m][l][1];
                }
            }
#pragma unroll
            for (int s = 0; s < steps; ++s) {
#pragma unroll
                for (int m = 0; m < MATRICES; ++m) multiply_add(factors[m][s], values[s], sums[m]);
            }
#pragma unroll
            for (int l = 0; l < THREAD_LANES; ++l) {
                const int filter = tile.filter + first_filter(lane(l) / 4);
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const int place = eight + lane(l) % 4 * 2 + i;
                    EightHalves kept;
#pragma unroll
                    for (int m = 0; m < MATRICES; ++m) {
                        const unsigned two = pack_halves(sums[m][l][i], sums[m][l][i + 2]);
                        kept.pairs[m] = limit_halves(two, lower, upper);
                    }
                    if (filter < filters && column + place < sizes.out_width) {
                        *reinterpret_cast<EightHalves*>(out + (place * filters + filter)) = kept;
                    }
                }
            }
        }
    }
}

#define PIXEL_CONVOLUTION(name, steps)                                                                            \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS, BLOCKS_AT_ONCE) name(                               \
        const unsigned char* images, const half_bits* weights, const half_bits* bias, WINDOWS, int filters,       \
        int tile_rows, int tile_columns, int pitch, half_bits constant, half_bits least, half_bits greatest,      \
        half_bits* result                                                                                         \
    ) {                                                                                                           \
        const Windows sizes SIZES;                                                                                \
        const Tile tile(sizes, filters, tile_rows, tile_columns, pitch);                                          \
        pixel_convolution<steps>(                                                                                 \
            images, weights, bias, sizes, filters, tile, constant, least, greatest, result                        \
        );                                                                                                        \
    }

PIXEL_CONVOLUTION(pixel_convolution_1_f16, 1)
PIXEL_CONVOLUTION(pixel_convolution_2_f16, 2)
PIXEL_CONVOLUTION(pixel_convolution_3_f16, 3)
