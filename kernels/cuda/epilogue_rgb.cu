// A resolution's last epilogue and its toRGB in one pass, channels last: v = clamp(lrelu(x * scale + noise + bias)),
// y = v * next_scale, image = clamp(sum_c v[c] styles[c] weight[o, c] + rgb_bias[o]) + the up-sampled image so far.
//
// Memory traffic: x is read once and y written once. Two separate kernels would read y again, and a third would multiply
// it by the styles of the next layer. At the last resolution y is not needed and not stored.
#include "epilogue.cuh"
#include "to_rgb.cuh"

// ---- naive: one thread per pixel and colour; that of the first colour stores y ----

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

// ---- fast: threads share pixels as described at Team ----

// A thread's constants for its L channels.
template <int L>
struct Constants {
    ChannelTerms terms[L];
    float weights[kColours][L];

    __device__ void load(const Epilogue& epilogue, const ToRGB& rgb, int sample, int slot) {
        epilogue.terms_of(sample, slot * L, terms);
        rgb.weights_of(sample, slot * L, weights);
    }

    // Turns features into unscaled y and adds its contribution to the colour sums.
    __device__ void apply(const Epilogue& epilogue, float noise, float (&values)[L], float (&sums)[kColours]) const {
#pragma unroll
        for (int lane = 0; lane < L; ++lane) {
            values[lane] = epilogue.unscaled(values[lane], terms[lane], noise);
#pragma unroll
            for (int colour = 0; colour < kColours; ++colour) sums[colour] += values[lane] * weights[colour][lane];
        }
    }
};

template <class T, int L>
__device__ inline void epilogue_rgb(const T* x, const Epilogue& epilogue, const ToRGB& rgb, int keeps, T* y,
                                    void* image) {
    __shared__ Partial partial;
    const int channels = rgb.channels, pixels = rgb.pixels();
    const Team team(channels / L);
    const int step = team.stride();
    for (int sample = blockIdx.y; sample < rgb.batch; sample += gridDim.y) {
        const T* source = x + epilogue.sample_offset(sample);
        T* target = y + epilogue.sample_offset(sample);
        int first = team.first();
        Packed<T, L> features[kPixels];
        team.load(source, first, team.member, pixels, features);
        Constants<L> constants;
        if (team.member < team.slots) constants.load(epilogue, rgb, sample, team.member);
        for (; first < pixels; first += step) {
            float noise[kPixels], sums[kPixels][kColours] = {};
#pragma unroll
            for (int p = 0; p < kPixels; ++p) {
                noise[p] = team.has(first, p, pixels) ? epilogue.noise_at(sample, team.pixel(first, p)) : 0.0f;
            }
            for (int slot = team.member; slot < team.slots; slot += team.members) {
                if (slot != team.member) {
                    team.load(source, first, slot, pixels, features);
                    constants.load(epilogue, rgb, sample, slot);
                }
#pragma unroll
                for (int p = 0; p < kPixels; ++p) {
                    float values[L];
                    features[p].floats(values);
                    constants.apply(epilogue, noise[p], values, sums[p]);
                    if (!keeps || !team.has(first, p, pixels)) continue;
#pragma unroll
                    for (int lane = 0; lane < L; ++lane) values[lane] *= constants.terms[lane].next;
                    store_lanes(target + static_cast<size_t>(team.pixel(first, p)) * channels + slot * L, values);
                }
            }
            partial.put(sums);
            if (team.slots > team.members) constants.load(epilogue, rgb, sample, team.member);
            team.load(source, first + step, team.member, pixels, features);  // loads while this tile is finished
            __syncwarp();
            rgb.put_tile(image, sample, first, team, partial.of_warp());
            __syncwarp();  // until all sums are read
        }
    }
}

// ---- entry points for Python ----

// Order of parameters: inputs, integers, outputs, as in epilogue.cuh and for the same reason.
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
