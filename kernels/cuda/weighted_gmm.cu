// A weighted Gaussian mixture with diagonal covariances for each heatmap, fitted by EM, one block an image.
// kernels/weighted_gmm.py says what is computed, and why a diagonal Gaussian on a grid is a product of factors.

#define MAX_THREADS 256
#include "block.cuh"

// Densities below this may have lost components to underflow; see kernels/weighted_gmm.py.
constexpr double SAFE_DENSITY = 1e-200;
constexpr double TWO_PI = 6.283185307179586;

// Per-component arrays hold the component's entries one after the other; those of axis 0 (y) come before those of
// axis 1 (x).
struct Fit {
    int height, width, cells, count;
    double* heat;  // (cells), sums to 1
    double* ratio;  // (cells): heat over density
    double* greatest;  // (cells): logarithm of the greatest component's density, where densities underflow
    double* mean = nullptr;  // (2, count)
    double* variance = nullptr;  // (2, count)
    double* mixing = nullptr;  // (count)
    double* held = nullptr;  // (count): heat of each component
    double* factor = nullptr;  // (count, height + width): each Gaussian along y, scaled by its weight, and along x
    double* marginal = nullptr;  // (count, height + width): each component's heat by row and by column
};

// The densities along the axes, or their logarithms.
__device__ inline void fill_factors(const Fit& fit, bool logarithms) {
    const int span = fit.height + fit.width;
    for (int task = threadIdx.x; task < fit.count * span; task += blockDim.x) {
        const int k = task / span, place = task % span;
        const bool along_x = place >= fit.height;
        const int entry = along_x ? fit.count + k : k;
        const double distance = (along_x ? place - fit.height : place) - fit.mean[entry];
        const double exponent = distance * distance * (-0.5 / fit.variance[entry]);
        const double var_y = fit.variance[k], var_x = fit.variance[fit.count + k];
        double value = logarithms ? exponent : exp(exponent);
        if (!along_x && logarithms) {
            const double log_mixing = fit.mixing[k] > 0 ? log(fit.mixing[k]) : -infinity();
            value += log_mixing - log(TWO_PI) - 0.5 * (log(var_y) + log(var_x));
        } else if (!along_x) {
            value *= fit.mixing[k] / (TWO_PI * sqrt(var_y * var_x));
        }
        fit.factor[task] = value;
    }
    __syncthreads();
}

// This thread's share of the mean log-likelihood; fills in `ratio`. `underflow` tells of a cell that is lost this way.
__device__ inline double share_out(const Fit& fit, bool* underflow) {
    const int span = fit.height + fit.width;
    double likelihood = 0;
    for (int cell = threadIdx.x; cell < fit.cells; cell += blockDim.x) {
        fit.ratio[cell] = 0;
        if (fit.heat[cell] == 0) continue;
        const double* row = fit.factor + cell / fit.width;
        const double* column = fit.factor + fit.height + cell % fit.width;
        double density = 0;
        for (int k = 0; k < fit.count; ++k) density += row[k * span] * column[k * span];
        if (density < SAFE_DENSITY) {
            *underflow = true;
            continue;
        }
        fit.ratio[cell] = fit.heat[cell] / density;
        likelihood += fit.heat[cell] * log(density);
    }
    return likelihood;
}

// The same with the logarithms of the factors, relative to the greatest component of each cell.
__device__ inline double share_out_logarithms(const Fit& fit) {
    const int span = fit.height + fit.width;
    double likelihood = 0;
    for (int cell = threadIdx.x; cell < fit.cells; cell += blockDim.x) {
        const double* row = fit.factor + cell / fit.width;
        const double* column = fit.factor + fit.height + cell % fit.width;
        double greatest = -infinity(), total = 0;
        for (int k = 0; k < fit.count; ++k) {
            const double part = row[k * span] + column[k * span];
            if (part > greatest) greatest = part;
        }
        for (int k = 0; k < fit.count; ++k) total += exp(row[k * span] + column[k * span] - greatest);
        fit.greatest[cell] = greatest;
        fit.ratio[cell] = fit.heat[cell] / total;
        likelihood += fit.heat[cell] * (greatest + log(total));
    }
    return likelihood;
}

// Sum each component's share of the heat along the rows and the columns.
__device__ inline void fill_marginals(const Fit& fit, bool logarithms) {
    const int span = fit.height + fit.width;
    for (int task = threadIdx.x; task < fit.count * span; task += blockDim.x) {
        const int k = task / span, place = task % span;
        const bool column = place >= fit.height;
        // Walk along the row or the column: `other` is the factor of the other axis.
        const int length = column ? fit.height : fit.width, step = column ? fit.width : 1;
        const double* other = fit.factor + k * span + (column ? 0 : fit.height);
        int cell = column ? place - fit.height : place * fit.width;
        double sum = 0;
        for (int i = 0; i < length; ++i, cell += step) {
            const double density = logarithms ? exp(fit.factor[task] + other[i] - fit.greatest[cell]) : other[i];
            sum += density * fit.ratio[cell];
        }
        fit.marginal[task] = logarithms ? sum : sum * fit.factor[task];
    }
    __syncthreads();
}

// Means and variances from the marginals, then the weights. A component without heat keeps its place.
__device__ inline void maximise(const Fit& fit, double variance_floor) {
    for (int entry = threadIdx.x; entry < 2 * fit.count; entry += blockDim.x) {
        const bool along_x = entry >= fit.count;
        const int k = along_x ? entry - fit.count : entry, length = along_x ? fit.width : fit.height;
        const double* marginal = fit.marginal + k * (fit.height + fit.width) + (along_x ? fit.height : 0);
        double total = 0, moment = 0, square = 0;
        for (int i = 0; i < length; ++i) {
            total += marginal[i];
            moment += marginal[i] * i;
            square += marginal[i] * i * i;
        }
        if (along_x) fit.held[k] = total;
        if (total > 0) {
            const double mean = moment / total, spread = square / total - mean * mean;
            fit.mean[entry] = mean;
            fit.variance[entry] = spread > variance_floor ? spread : variance_floor;
        }
    }
    __syncthreads();
    double total = 0;
    for (int k = 0; k < fit.count; ++k) total += fit.held[k];
    for (int k = threadIdx.x; k < fit.count; k += blockDim.x) fit.mixing[k] = fit.held[k] / total;
    __syncthreads();
}

// The heaviest cell, then again and again the one of the greatest product of weight and squared distance to the nearest
// mean. `heat` has a greatest cell of 1, as the NumPy version has it here: ties come out the same. Overwrites `ratio`.
__device__ inline void start_farthest_first(const Fit& fit) {
    double* nearest = fit.ratio;
    for (int k = 0; k < fit.count; ++k) {
        Best best{-1, fit.cells};
        for (int cell = threadIdx.x; cell < fit.cells; cell += blockDim.x) {
            best.meet(k ? fit.heat[cell] * nearest[cell] : fit.heat[cell], cell);
        }
        best = block_best(best);
        const int chosen = static_cast<int>(best.index), y = chosen / fit.width, x = chosen % fit.width;
        if (threadIdx.x == 0) {
            fit.mean[k] = y;
            fit.mean[fit.count + k] = x;
        }
        for (int cell = threadIdx.x; cell < fit.cells; cell += blockDim.x) {
            const int dy = cell / fit.width - y, dx = cell % fit.width - x;
            const double squared = dy * dy + dx * dx;
            if (k == 0 || squared < nearest[cell]) nearest[cell] = squared;
        }
    }
}

// The heat's variance along each axis over the number of components, and equal weights.
__device__ inline void start_spread(const Fit& fit, double variance_floor) {
    double y_sum = 0, x_sum = 0;
    for (int cell = threadIdx.x; cell < fit.cells; cell += blockDim.x) {
        y_sum += fit.heat[cell] * (cell / fit.width);
        x_sum += fit.heat[cell] * (cell % fit.width);
    }
    const double y_centre = block_sum(y_sum), x_centre = block_sum(x_sum);
    double y_spread = 0, x_spread = 0;
    for (int cell = threadIdx.x; cell < fit.cells; cell += blockDim.x) {
        const double dy = cell / fit.width - y_centre, dx = cell % fit.width - x_centre;
        y_spread += fit.heat[cell] * (dy * dy);
        x_spread += fit.heat[cell] * (dx * dx);
    }
    const double y_variance = block_sum(y_spread) / fit.count, x_variance = block_sum(x_spread) / fit.count;
    for (int k = threadIdx.x; k < fit.count; k += blockDim.x) {
        fit.variance[k] = y_variance > variance_floor ? y_variance : variance_floor;
        fit.variance[fit.count + k] = x_variance > variance_floor ? x_variance : variance_floor;
        fit.mixing[k] = 1.0 / fit.count;
    }
    __syncthreads();
}

struct Progress {
    int iterations;
    bool converged;
    double likelihood;
};

__device__ inline Progress expectation_maximisation(const Fit& fit, int max_iter, double tol, double variance_floor) {
    double previous = -infinity();
    for (int iteration = 1;; ++iteration) {
        bool underflow = false;
        fill_factors(fit, false);
        double likelihood = share_out(fit, &underflow);
        underflow = __syncthreads_or(underflow);
        if (underflow) {
            fill_factors(fit, true);
            likelihood = share_out_logarithms(fit);
        }
        likelihood = block_sum(likelihood);  // its barriers also part the ratios from those who read them
        fill_marginals(fit, underflow);
        maximise(fit, variance_floor);
        const bool converged = fabs(likelihood - previous) < tol;
        if (converged || iteration >= max_iter) return {iteration, converged, likelihood};
        previous = likelihood;
    }
}

// State: doubles heat, ratio, greatest (cells each); for each of `slots` components 6 + 2 (height + width).
template <class T>
__device__ void weighted_gmm(
    double* arena, const T* weights, const long long* requested, const double* means_init, int height, int width,
    int slots, int max_iter, double tol, double variance_floor, double* means, double* variances, double* mixing,
    long long* n_components, long long* n_iter, bool* converged, double* log_likelihood
) {
    const int cells = height * width;
    const size_t first = static_cast<size_t>(blockIdx.x) * cells, first_slot = static_cast<size_t>(blockIdx.x) * slots;
    Fit fit{height, width, cells, 0, arena, arena + cells, arena + 2 * cells};

    int bad = 0;
    double positive = 0;
    Best heaviest{0, 0};
    for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) {
        const double weight = weights[first + cell];
        bad |= !is_heat(weight);
        positive += weight > 0;
        heaviest.meet(weight, cell);
        fit.heat[cell] = weight;
    }
    const long long wanted = requested[blockIdx.x];
    const long long fitted = static_cast<long long>(block_sum(positive));
    fit.count = static_cast<int>(wanted < fitted ? wanted : fitted);
    bad |= wanted < 0 || wanted > slots;
    for (int k = threadIdx.x; means_init && !bad && k < fit.count; k += blockDim.x) {
        const double* given = means_init + (first_slot + k) * 2;
        bad |= !(fabs(given[0]) < infinity() && fabs(given[1]) < infinity());
    }
    if (__syncthreads_or(bad)) fit.count = -1;

    Progress progress{0, fit.count == 0, not_a_number()};
    if (fit.count > 0) {
        fit.mean = fit.greatest + cells;
        fit.variance = fit.mean + 2 * fit.count;
        fit.mixing = fit.variance + 2 * fit.count;
        fit.held = fit.mixing + fit.count;
        fit.factor = fit.held + fit.count;
        fit.marginal = fit.factor + fit.count * (height + width);

        const double peak = block_best(heaviest).value;
        for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) fit.heat[cell] /= peak;
        if (means_init) {
            for (int k = threadIdx.x; k < fit.count; k += blockDim.x) {
                fit.mean[k] = means_init[(first_slot + k) * 2 + 1];
                fit.mean[fit.count + k] = means_init[(first_slot + k) * 2];
            }
        } else {
            start_farthest_first(fit);
        }
        double sum = 0;
        for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) sum += fit.heat[cell];
        sum = block_sum(sum);
        for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) fit.heat[cell] /= sum;
        start_spread(fit, variance_floor);
        progress = expectation_maximisation(fit, max_iter, tol, variance_floor);
    }

    for (int k = threadIdx.x; k < slots; k += blockDim.x) {
        const bool used = k < fit.count;
        means[(first_slot + k) * 2] = used ? fit.mean[fit.count + k] : not_a_number();
        means[(first_slot + k) * 2 + 1] = used ? fit.mean[k] : not_a_number();
        variances[(first_slot + k) * 2] = used ? fit.variance[fit.count + k] : not_a_number();
        variances[(first_slot + k) * 2 + 1] = used ? fit.variance[k] : not_a_number();
        mixing[first_slot + k] = used ? fit.mixing[k] : 0;
    }
    if (threadIdx.x == 0) {
        n_components[blockIdx.x] = fit.count;
        n_iter[blockIdx.x] = progress.iterations;
        converged[blockIdx.x] = progress.converged;
        log_likelihood[blockIdx.x] = progress.likelihood;
    }
}

#define WEIGHTED_GMM(name, T)                                                                                     \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) name(                                               \
        const T* weights, const long long* requested, const double* means_init, int height, int width, int slots, \
        int max_iter, double tol, double variance_floor, double* means, double* variances, double* mixing,        \
        long long* n_components, long long* n_iter, bool* converged, double* log_likelihood STATE_PARAMETERS      \
    ) {                                                                                                           \
        BLOCK_STATE(arena);                                                                                       \
        weighted_gmm(                                                                                             \
            arena, weights, requested, means_init, height, width, slots, max_iter, tol, variance_floor, means,    \
            variances, mixing, n_components, n_iter, converged, log_likelihood                                    \
        );                                                                                                        \
    }

WEIGHTED_GMM(weighted_gmm_f32, float)
WEIGHTED_GMM(weighted_gmm_f64, double)
