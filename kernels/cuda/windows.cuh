// Windows over maps that lie with their channels last, as kernels/windows.py hands them over. Included after block.cuh.

// `top` and `left` cells outside the map come before its first. The functions are for blocks that work on one row of the
// result each, so that what is divided is small.
struct Windows {
    int height, width, window_height, window_width, stride_height, stride_width, top, left, out_height, out_width;

    __device__ int first_row() const { return static_cast<int>(blockIdx.x % out_height) * stride_height - top; }
    __device__ int first_column(int column) const { return column * stride_width - left; }
    __device__ size_t image() const { return static_cast<size_t>(blockIdx.x / out_height) * height * width; }
    __device__ size_t cell(int column) const { return static_cast<size_t>(blockIdx.x) * out_width + column; }
};

#define WINDOWS                                                                                                   \
    int height, int width, int window_height, int window_width, int stride_height, int stride_width, int top,     \
        int left, int out_height, int out_width
#define SIZES                                                                                                     \
    {                                                                                                             \
        height, width, window_height, window_width, stride_height, stride_width, top, left, out_height, out_width \
    }
