// Directions and demodulation scales of all layers in one launch. Per sample and layer, with styles s:
// peak = max|s|, directions = s / peak, scale[o] = rsqrt(sum_i directions[i]^2 energy[i, o] + (root_eps / peak)^2).
//
// At batch 1 a layer takes less time than a launch. energy is read once per kSamples samples. A block computes up to
// kOutputs outputs of one layer; the styles of layers without outputs (toRGB) are copied. Results are stored layer by
// layer, [B, C] each, so that each layer's is a dense tensor.
#include "storage.cuh"

constexpr int kOutputs = 64;  // outputs per block
constexpr int kParts = 4;     // threads per output, each with every fourth input
constexpr int kSamples = 4;   // samples per block, which share one read of energy
constexpr int kTile = 512;    // inputs whose squares are in shared memory
constexpr int kWarp = 32;
static_assert(kOutputs * kParts == kBlock && kSamples * kOutputs == kBlock, "every thread sums, then finishes, one");

constexpr float kSmallestPeak = 1e-12f;  // for styles that are all zero

// One row of the table of layers. Starts are channels before this layer; those of results are multiples of four.
struct Layer {
    int inputs, outputs, style_start, direction_start, scale_start, energy_start;
};

struct Modulation {
    const float* styles;    // [B, row]
    const float* energy;    // [inputs, outputs] of every layer
    const float* root_eps;  // per layer
    const Layer* layers;
    int batch, row;

    __device__ float style(int sample, const Layer& layer, int input) const {
        return styles[static_cast<size_t>(sample) * row + layer.style_start + input];
    }

    __device__ static size_t place(int sample, int batch, int start, int count, int index) {
        return static_cast<size_t>(batch) * start + static_cast<size_t>(sample) * count + index;
    }

    __device__ float finished(float sum, int layer, float peak) const {
        const float root = root_eps[layer] / peak;
        return rsqrtf(sum + root * root);
    }
};

// ---- naive: one thread per sample and output, or per sample and input of a layer without outputs ----

__device__ inline float naive_peak(const Modulation& modulation, int sample, const Layer& layer) {
    float peak = 0.0f;
    for (int k = 0; k < layer.inputs; ++k) peak = fmaxf(peak, fabsf(modulation.style(sample, layer, k)));
    return fmaxf(peak, kSmallestPeak);
}

__device__ inline void modulation_naive(const Modulation& modulation, const int* blocks, float* directions,
                                        float* scales) {
    const int index = blocks[2 * blockIdx.x], first = blocks[2 * blockIdx.x + 1], batch = modulation.batch;
    const Layer layer = modulation.layers[index];
    for (int sample = blockIdx.y; sample < batch; sample += gridDim.y) {
        const float peak = layer.outputs ? naive_peak(modulation, sample, layer) : 1.0f;
        for (int k = threadIdx.x; first == 0 && k < layer.inputs; k += kBlock) {
            directions[Modulation::place(sample, batch, layer.direction_start, layer.inputs, k)] =
                modulation.style(sample, layer, k) / peak;
        }
        const int output = first + threadIdx.x;
        if (threadIdx.x >= kOutputs || output >= layer.outputs) continue;
        float sum = 0.0f;
        for (int k = 0; k < layer.inputs; ++k) {
            const float direction = modulation.style(sample, layer, k) / peak;
            sum += direction * direction * modulation.energy[layer.energy_start + k * layer.outputs + output];
        }
        scales[Modulation::place(sample, batch, layer.scale_start, layer.outputs, output)] =
            modulation.finished(sum, index, peak);
    }
}

// ---- blocks of outputs ----

// Warp w finds the peak of sample first + w.
__device__ inline void find_peaks(const Modulation& modulation, const Layer& layer, int first, float (&peaks)[kSamples]) {
    const int warp = threadIdx.x / kWarp, sample = first + warp;
    float peak = 0.0f;
    if (warp < kSamples && sample < modulation.batch) {
        for (int k = threadIdx.x % kWarp; k < layer.inputs; k += kWarp) {
            peak = fmaxf(peak, fabsf(modulation.style(sample, layer, k)));
        }
    }
    for (int step = 1; step < kWarp; step *= 2) peak = fmaxf(peak, __shfl_xor_sync(0xffffffffu, peak, step));
    __syncthreads();  // until the previous samples' peaks are read
    if (warp < kSamples && threadIdx.x % kWarp == 0) peaks[warp] = layer.outputs ? fmaxf(peak, kSmallestPeak) : 1.0f;
    __syncthreads();
}

__device__ inline void modulation_fast(const Modulation& modulation, const int* blocks, float* directions,
                                       float* scales) {
    __shared__ float peaks[kSamples], squares[kSamples][kTile], partial[kParts][kSamples][kOutputs];
    const int index = blocks[2 * blockIdx.x], first_output = blocks[2 * blockIdx.x + 1], batch = modulation.batch;
    const Layer layer = modulation.layers[index];
    const int lane = threadIdx.x % kOutputs, part = threadIdx.x / kOutputs, output = first_output + lane;
    for (int first = blockIdx.y * kSamples; first < batch; first += gridDim.y * kSamples) {
        find_peaks(modulation, layer, first, peaks);
        float sums[kSamples] = {};
        for (int start = 0; start < layer.inputs; start += kTile) {
            const int count = layer.inputs - start < kTile ? layer.inputs - start : kTile;
            __syncthreads();  // until the previous tile is read
            for (int k = threadIdx.x; k < kSamples * kTile; k += kBlock) {
                const int sample = first + k / kTile, input = k % kTile;
                const bool inside = sample < batch && input < count;
                const float direction =
                    inside ? modulation.style(sample, layer, start + input) / peaks[k / kTile] : 0.0f;
                squares[k / kTile][input] = direction * direction;
                if (!inside || first_output != 0) continue;
                directions[Modulation::place(sample, batch, layer.direction_start, layer.inputs, start + input)] = direction;
            }
            __syncthreads();
            if (output >= layer.outputs) continue;
            const float* energy = modulation.energy + layer.energy_start + start * layer.outputs + output;
#pragma unroll 8  // loads in flight
            for (int k = part; k < count; k += kParts) {
                const float weight = energy[k * layer.outputs];
#pragma unroll
                for (int s = 0; s < kSamples; ++s) sums[s] += squares[s][k] * weight;
            }
        }
#pragma unroll
        for (int s = 0; s < kSamples; ++s) partial[part][s][lane] = sums[s];
        __syncthreads();
        const int own = threadIdx.x / kOutputs, sample = first + own;  // from here each thread has one sample's output
        float sum = 0.0f;
#pragma unroll
        for (int p = 0; p < kParts; ++p) sum += partial[p][own][lane];
        if (sample >= batch || output >= layer.outputs) continue;
        scales[Modulation::place(sample, batch, layer.scale_start, layer.outputs, output)] =
            modulation.finished(sum, index, peaks[own]);
    }
}

// ---- entry points for Python ----

#define MODULATION_PARAMETERS                                                                                         \
    (const float* __restrict__ styles, const float* __restrict__ energy, const float* __restrict__ root_eps,          \
     const Layer* __restrict__ layers, const int* __restrict__ blocks, int batch, int row,                            \
     float* __restrict__ directions, float* __restrict__ scales)

#define MODULATION_ARGUMENTS Modulation{styles, energy, root_eps, layers, batch, row}, blocks, directions, scales

KERNEL(modulation_fast_f32, MODULATION_PARAMETERS, modulation_fast(MODULATION_ARGUMENTS))
KERNEL(modulation_naive_f32, MODULATION_PARAMETERS, modulation_naive(MODULATION_ARGUMENTS))
