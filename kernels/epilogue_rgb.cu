// A resolution's last epilogue and its colours in one pass, channels last: v = clamp(lrelu(x * scale + noise + bias)),
// y = v * next_scale, image = clamp(sum_c v[c] styles[c] weight[o, c] + rgb_bias[o]) + the up-sampled image so far.
//
// Floor: x read once and y written once, where the two kernels it replaces read it again, and a third one multiplies it
// by the styles of the next layer. At the last resolution nobody else wants y: it is not stored, and x is all that moves.
#include "epilogue.cuh"
#include "to_rgb.cuh"

constexpr int kPixels = 4;  // pixels per group, for which a channel's constants are read from shared memory once

// ---- naive: one thread per pixel and colour; the first colour's stores y ----

template <class T>
__device__ inline void epilogue_rgb_naive(const T* x, const Epilogue& epilogue, const ToRGB& rgb, int keeps, T* y,
                                          void* image) {
    const int index = blockIdx.x * kBlock + threadIdx.x, pixels = rgb.pixels(), channels = rgb.channels;
    if (index >= kColours * pixels) return;
    const int colour = index / pixels, pixel = index % pixels;
    for (int sample = blockIdx.y; sample < rgb.batch; sample += gridDim.y) {
        const size_t offset = epilogue.sample_offset(sample) + static_cast<size_t>(pixel) * channels;
        float sum = 0.0f;
        for (int channel = 0; channel < channels; ++channel) {
            const ChannelTerms terms = epilogue.terms(sample, channel);
            const float value = epilogue.unscaled(to_float(x[offset + channel]), terms, epilogue.noise_at(sample, pixel));
            if (keeps && colour == 0) from_float(value * terms.next, y[offset + channel]);
            sum += value * rgb.weighted_style(sample, colour, channel);
        }
        const float skip = rgb.upsampled_skip(sample, colour, pixel / rgb.width, pixel % rgb.width);
        rgb.put(image, sample, colour, pixel, rgb.finished(sum, colour) + skip);
    }
}

// ---- kGroup threads share a pixel, add up, and each writes one colour ----

// What a block keeps of a tile of channels.
struct Constants {
    alignas(16) float scale[kTile];
    alignas(16) float bias[kTile];
    alignas(16) float next[kTile];
    alignas(16) float weight[kColours][kTile];

    __device__ void fill(const Epilogue& epilogue, const ToRGB& rgb, int sample, int first) {
        __syncthreads();  // the last tile has been read
        rgb.fill(weight, sample, first);
        for (int k = threadIdx.x; k < rgb.tile_end(first); k += kBlock) {
            const ChannelTerms terms = epilogue.terms(sample, first + k);
            scale[k] = terms.scale;
            bias[k] = terms.bias;
            next[k] = terms.next;
        }
        __syncthreads();
    }
};

template <class T, int L>
__device__ inline void epilogue_rgb(const T* x, const Epilogue& epilogue, const ToRGB& rgb, int keeps, T* y,
                                    void* image) {
    constexpr int kGroups = kBlock / kGroup;
    __shared__ Constants constants;
    const int member = threadIdx.x % kGroup, channels = rgb.channels, pixels = rgb.pixels();
    const int first_pixel = blockIdx.x * kGroups * kPixels + threadIdx.x / kGroup;
    for (int sample = blockIdx.y; sample < rgb.batch; sample += gridDim.y) {
        const size_t offset = epilogue.sample_offset(sample) + static_cast<size_t>(first_pixel) * channels;
        float noise[kPixels], sums[kPixels][kColours] = {};
#pragma unroll
        for (int p = 0; p < kPixels; ++p) {
            const int pixel = first_pixel + p * kGroups;
            noise[p] = pixel < pixels ? epilogue.noise_at(sample, pixel) : 0.0f;
        }
        for (int first = 0; first < channels; first += kTile) {
            constants.fill(epilogue, rgb, sample, first);
            for (int k = member * L; k < rgb.tile_end(first); k += kGroup * L) {
                const size_t at = offset + first + k;
                Packed<T, L> features[kPixels];
#pragma unroll  // every load is under way before the first is used
                for (int p = 0; p < kPixels; ++p) {
                    const bool inside = first_pixel + p * kGroups < pixels;
                    if (inside) features[p].load(x + at + static_cast<size_t>(p * kGroups) * channels);
                    if (!inside) features[p].clear();
                }
                float scale[L], bias[L], next[L], weight[kColours][L];
                load_floats(&constants.scale[k], scale);
                load_floats(&constants.bias[k], bias);
                load_floats(&constants.next[k], next);
#pragma unroll
                for (int colour = 0; colour < kColours; ++colour) load_floats(&constants.weight[colour][k], weight[colour]);
#pragma unroll
                for (int p = 0; p < kPixels; ++p) {
                    float values[L];
                    features[p].floats(values);
#pragma unroll
                    for (int lane = 0; lane < L; ++lane) {
                        const ChannelTerms terms{scale[lane], bias[lane], next[lane]};
                        values[lane] = epilogue.unscaled(values[lane], terms, noise[p]);
#pragma unroll
                        for (int colour = 0; colour < kColours; ++colour) {
                            sums[p][colour] += values[lane] * weight[colour][lane];
                        }
                        values[lane] *= next[lane];
                    }
                    if (!keeps || first_pixel + p * kGroups >= pixels) continue;
                    store_lanes(y + at + static_cast<size_t>(p * kGroups) * channels, values);
                }
            }
        }
#pragma unroll
        for (int p = 0; p < kPixels; ++p) rgb.put_group(image, sample, first_pixel + p * kGroups, sums[p]);
    }
}

// ---- what Python calls ----

// Inputs, integers, outputs, as in epilogue.cuh and for the same reason.
#define BOTH_PARAMETERS(T)                                                                                            \
    (const T* __restrict__ x, const float* __restrict__ scale, const float* __restrict__ noise,                       \
     const float* __restrict__ bias, const float* __restrict__ next_scale, const float* __restrict__ styles,          \
     const float* __restrict__ weight, const float* __restrict__ rgb_bias, const float* __restrict__ skip, int batch, \
     int channels, int height, int width, int noise_kind, int scales_next, int has_skip, int as_bytes, int keeps,     \
     int clamp_bits, int rgb_clamp_bits, T* __restrict__ y, void* __restrict__ image)

#define BOTH_ARGUMENTS                                                                                                \
    x, Epilogue{scale, noise, bias, next_scale, batch, channels, height, width, noise_kind, scales_next,              \
                bits_to_float(clamp_bits)},                                                                           \
        ToRGB{styles, weight, rgb_bias, skip, batch, channels, height, width, has_skip, as_bytes,                     \
              bits_to_float(rgb_clamp_bits)},                                                                         \
        keeps, y, image

#define BOTH_KERNELS(T, tag)                                                                                          \
    KERNEL(epilogue_rgb_nhwc_wide_##tag, BOTH_PARAMETERS(T), epilogue_rgb<T, kLanes<T>>(BOTH_ARGUMENTS))              \
    KERNEL(epilogue_rgb_nhwc_narrow_##tag, BOTH_PARAMETERS(T), epilogue_rgb<T, 1>(BOTH_ARGUMENTS))                    \
    KERNEL(epilogue_rgb_nhwc_naive_##tag, BOTH_PARAMETERS(T), epilogue_rgb_naive<T>(BOTH_ARGUMENTS))

BOTH_KERNELS(float, f32)
BOTH_KERNELS(Half, f16)
BOTH_KERNELS(BFloat16, bf16)
