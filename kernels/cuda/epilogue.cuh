// The epilogue of a modulated convolution at one element: demodulation scale, noise, bias, leaky ReLU, clamp and the
// style scale of the next layer. The kernels that share it differ in where that element comes from.
#pragma once

#include "storage.cuh"

constexpr float kLeakySlope = 0.2f;

enum NoiseKind { kNoNoise = 0, kNoiseShared = 1, kNoisePerSample = 2 };  // absent, [H, W], [B, 1, H, W]

// The terms that depend only on sample and channel.
struct ChannelTerms {
    float scale, bias, next;
};

struct Epilogue {
    const float* scale;       // [B, C]
    const float* noise;       // shape by noise_kind
    const float* bias;        // [C]
    const float* next_scale;  // [B, C], read if scales_next
    int batch, channels, height, width;  // of the output
    int noise_kind, scales_next;
    float clamp;  // infinity: no clamp

    __device__ int pixels() const { return height * width; }

    __device__ size_t sample_offset(int sample) const {
        return static_cast<size_t>(sample) * channels * pixels();
    }

    __device__ ChannelTerms terms(int sample, int channel) const {
        const size_t at = static_cast<size_t>(sample) * channels + channel;
        return {scale[at], bias[channel], scales_next ? next_scale[at] : 1.0f};
    }

    // The noise of a sample, null without noise: for kernels that read it from one place on.
    __device__ const float* noise_plane(int sample) const {
        if (noise_kind == kNoNoise) return nullptr;
        return noise + (noise_kind == kNoisePerSample ? static_cast<size_t>(sample) * pixels() : 0);
    }

    __device__ float noise_at(int sample, int pixel) const {
        if (noise_kind == kNoNoise) return 0.0f;
        const size_t plane = noise_kind == kNoisePerSample ? sample : 0;
        return noise[plane * pixels() + pixel];
    }

    // For N neighbouring pixels.
    template <int N>
    __device__ void noise_of(int sample, int pixel, float (&values)[N]) const {
#pragma unroll
        for (int lane = 0; lane < N; ++lane) values[lane] = 0.0f;
        if (noise_kind == kNoNoise) return;
        const size_t plane = noise_kind == kNoisePerSample ? sample : 0;
        load_floats(noise + plane * pixels() + pixel, values);
    }

    // For N neighbouring channels.
    template <int N>
    __device__ void terms_of(int sample, int channel, ChannelTerms (&values)[N]) const {
        const size_t at = static_cast<size_t>(sample) * channels + channel;
        float scales[N], biases[N], nexts[N];
#pragma unroll
        for (int lane = 0; lane < N; ++lane) nexts[lane] = 1.0f;
        load_floats(scale + at, scales);
        load_floats(bias + channel, biases);
        if (scales_next) load_floats(next_scale + at, nexts);
#pragma unroll
        for (int lane = 0; lane < N; ++lane) values[lane] = {scales[lane], biases[lane], nexts[lane]};
    }

    // Without the style scale of the next layer.
    __device__ float unscaled(float x, const ChannelTerms& term, float noise_value) const {
        const float value = x * term.scale + noise_value + term.bias;
        return clamped(fmaxf(value, value * kLeakySlope), clamp);  // if one is NaN, both are
    }

    __device__ float operator()(float x, const ChannelTerms& term, float noise_value) const {
        return unscaled(x, term, noise_value) * term.next;
    }
};

// Flat parameters in the order of TensorRT's ahead-of-time plugins: inputs, integers, outputs. These have only int32
// scalars, so the clamp is passed as its bits, and no absent inputs, so noise_kind and scales_next are flags.
#define EPILOGUE_PARAMETERS(T)                                                                                        \
    (const T* __restrict__ x, const float* __restrict__ scale, const float* __restrict__ noise,                       \
     const float* __restrict__ bias, const float* __restrict__ next_scale, int batch, int channels, int height,       \
     int width, int noise_kind, int scales_next, int clamp_bits, T* __restrict__ y)

#define EPILOGUE_ARGUMENTS                                                                                            \
    x, Epilogue{scale, noise, bias, next_scale, batch, channels, height, width, noise_kind, scales_next,              \
                bits_to_float(clamp_bits)}, y
