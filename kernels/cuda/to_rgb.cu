// The image of one resolution: clamp(sum_c x[c] styles[c] weight[o, c] + bias[o]) + the up-sampled image so far.
//
// x is read once; the image is small, 3 channels of C. Weights times styles are computed once per block: NCHW keeps those
// of a tile of channels in shared memory; channels last each thread keeps those of its channels in registers.
#include "to_rgb.cuh"

// ---- naive: one thread per pixel and colour ----

template <class T, bool kChannelsLast>
__device__ inline void rgb_naive(const T* x, const ToRGB& rgb, void* image) {
    const int index = blockIdx.x * kBlock + threadIdx.x, pixels = rgb.pixels();
    if (index >= kColours * pixels) return;
    const int colour = index / pixels, pixel = index % pixels;
    for (int sample = blockIdx.y; sample < rgb.batch; sample += gridDim.y) {
        const T* source = x + static_cast<size_t>(sample) * rgb.channels * pixels;
        float sum = 0.0f;
        for (int channel = 0; channel < rgb.channels; ++channel) {
            const int at = kChannelsLast ? pixel * rgb.channels + channel : channel * pixels + pixel;
            sum += to_float(source[at]) * rgb.weighted_style(sample, colour, channel);
        }
        const float skip = rgb.upsampled_skip(sample, colour, pixel / rgb.width, pixel % rgb.width);
        rgb.put(image, sample, colour, pixel, rgb.finished(sum, colour) + skip);
    }
}

// ---- channels last ----

template <class T, int L>
__device__ inline void rgb_nhwc(const T* x, const ToRGB& rgb, void* image) {
    __shared__ Partial partial;
    const int pixels = rgb.pixels();
    const Team team(rgb.channels / L);
    const int step = team.stride();
    for (int sample = blockIdx.y; sample < rgb.batch; sample += gridDim.y) {
        const T* source = x + static_cast<size_t>(sample) * rgb.channels * pixels;
        int first = team.first();
        Packed<T, L> features[kPixels];
        team.load(source, first, team.member, pixels, features);
        float weights[kColours][L];
        if (team.member < team.slots) rgb.weights_of(sample, team.member * L, weights);
        for (; first < pixels; first += step) {
            float sums[kPixels][kColours] = {};
            for (int slot = team.member; slot < team.slots; slot += team.members) {
                if (slot != team.member) {
                    team.load(source, first, slot, pixels, features);
                    rgb.weights_of(sample, slot * L, weights);
                }
#pragma unroll
                for (int p = 0; p < kPixels; ++p) {
                    float values[L];
                    features[p].floats(values);
#pragma unroll
                    for (int lane = 0; lane < L; ++lane) {
#pragma unroll
                        for (int colour = 0; colour < kColours; ++colour) {
                            sums[p][colour] += values[lane] * weights[colour][lane];
                        }
                    }
                }
            }
            partial.put(sums);
            if (team.slots > team.members) rgb.weights_of(sample, team.member * L, weights);
            team.load(source, first + step, team.member, pixels, features);  // loads while this tile is finished
            __syncwarp();
            rgb.put_tile(image, sample, first, team, partial.of_warp());
            __syncwarp();  // until all sums are read
        }
    }
}

// ---- NCHW: a thread has L pixels of a row and walks over the channels ----

// The skip image at N outputs from `column` on: first its rows are combined per input column, then the columns.
template <int N>
__device__ inline void upsampled_skip_row(const ToRGB& rgb, int sample, int colour, int row, int column,
                                          float (&values)[N]) {
    if constexpr (N == 1) {
        values[0] = rgb.upsampled_skip(sample, colour, row, column);
    } else {
        float between[N / 2 + 2];
#pragma unroll
        for (int k = 0; k < N / 2 + 2; ++k) between[k] = rgb.skip_rows(sample, colour, row, column / 2 - 1 + k);
#pragma unroll
        for (int k = 0; k < N; ++k) {
            values[k] = 0.75f * between[k / 2 + 1] + 0.25f * between[k % 2 ? k / 2 + 2 : k / 2];
        }
    }
}

template <class T, int L>
__device__ inline void rgb_nchw(const T* x, const ToRGB& rgb, void* image) {
    alignas(16) __shared__ float tile[kColours][kTile];
    const int slots = rgb.width / L, pixels = rgb.pixels();
    const int thread = blockIdx.x * kBlock + threadIdx.x;
    const int row = thread / slots, column = thread % slots * L, pixel = row * rgb.width + column;
    const bool in_plane = row < rgb.height;  // threads outside still help to fill tiles
    for (int sample = blockIdx.y; sample < rgb.batch; sample += gridDim.y) {
        const T* source = x + static_cast<size_t>(sample) * rgb.channels * pixels + pixel;
        float sums[kColours][L] = {};
        for (int first = 0; first < rgb.channels; first += kTile) {
            __syncthreads();  // until the previous tile is read
            rgb.fill(tile, sample, first);
            __syncthreads();
            const int end = in_plane ? rgb.tile_end(first) : 0;
#pragma unroll 4  // four loads in flight
            for (int k = 0; k < end; ++k) {
                float values[L];
                load_lanes(source + static_cast<size_t>(first + k) * pixels, values);
#pragma unroll
                for (int colour = 0; colour < kColours; ++colour) {
                    const float weight = tile[colour][k];
#pragma unroll
                    for (int lane = 0; lane < L; ++lane) sums[colour][lane] += values[lane] * weight;
                }
            }
        }
        if (!in_plane) continue;
#pragma unroll
        for (int colour = 0; colour < kColours; ++colour) {
            float skip[L] = {};
            if (rgb.has_skip) upsampled_skip_row(rgb, sample, colour, row, column, skip);
#pragma unroll
            for (int lane = 0; lane < L; ++lane) {
                rgb.put(image, sample, colour, pixel + lane, rgb.finished(sums[colour][lane], colour) + skip[lane]);
            }
        }
    }
}

// ---- entry points for Python ----

// Order of parameters: inputs, integers, outputs, as in epilogue.cuh and for the same reason.
#define RGB_PARAMETERS(T)                                                                                             \
    (const T* __restrict__ x, const float* __restrict__ styles, const float* __restrict__ weight,                     \
     const float* __restrict__ bias, const float* __restrict__ skip, int batch, int channels, int height, int width,  \
     int has_skip, int as_bytes, int clamp_bits, void* __restrict__ image)

#define RGB_ARGUMENTS                                                                                                 \
    x, ToRGB{styles, weight, bias, skip, batch, channels, height, width, has_skip, as_bytes,                          \
             bits_to_float(clamp_bits)}, image

#define RGB_FORM(T, tag, form, L)                                                                                     \
    KERNEL(rgb_nchw_##form##_##tag, RGB_PARAMETERS(T), rgb_nchw<T, L>(RGB_ARGUMENTS))                                 \
    KERNEL(rgb_nhwc_##form##_##tag, RGB_PARAMETERS(T), rgb_nhwc<T, L>(RGB_ARGUMENTS))

#define RGB_KERNELS(T, tag)                                                                                           \
    RGB_FORM(T, tag, wide, kLanes<T>)                                                                                 \
    RGB_FORM(T, tag, narrow, 1)                                                                                       \
    KERNEL(rgb_nchw_naive_##tag, RGB_PARAMETERS(T), rgb_naive<T, false>(RGB_ARGUMENTS))                               \
    KERNEL(rgb_nhwc_naive_##tag, RGB_PARAMETERS(T), rgb_naive<T, true>(RGB_ARGUMENTS))

RGB_KERNELS(float, f32)
RGB_KERNELS(Half, f16)
RGB_KERNELS(BFloat16, bf16)
