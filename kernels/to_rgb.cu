// The image of one resolution: clamp(sum_c x[c] styles[c] weight[o, c] + bias[o]) + the up-sampled image so far.
//
// Floor: x read once; the image is 3 of its C channels and small. The image is planar float, [B, 3, H, W], because it is
// summed over all resolutions, or, as the last one, bytes in [B, H, W, 3]: clip(127.5 v + 128, 0, 255), truncated.
// Up-sampling is zeros between pixels, then outer(t, t) / 16 with t = [1, 3, 3, 1], zeros outside the border: of each
// axis an output sees two inputs, 3/4 of the nearer and 1/4 of the farther.
//
// Weights times styles of a tile of channels go to shared memory, computed once per block.
#include "storage.cuh"

constexpr int kColours = 3;
constexpr int kTile = 512;   // channels per tile, 6 kB; StyleGAN's widest layer in one
constexpr int kGroup = 4;    // channels-last: neighbouring threads that share a pixel; 64 bytes of it at a time
constexpr int kPixels = 2;   // channels-last: pixels per group, for which weights are read from shared memory once

struct ToRGB {
    const float* styles;  // [B, C]
    const float* weight;  // [3, C]
    const float* bias;    // [3]
    const float* skip;    // [B, 3, H / 2, W / 2], read when has_skip
    int batch, channels, height, width, has_skip, as_bytes;
    float clamp;  // infinity: none; of this resolution's colours, before the skip is added

    __device__ int pixels() const { return height * width; }

    __device__ float weighted_style(int sample, int colour, int channel) const {
        return styles[static_cast<size_t>(sample) * channels + channel] * weight[colour * channels + channel];
    }

    __device__ float finished(float sum, int colour) const { return clamped(sum + bias[colour], clamp); }

    // Plane of the image so far; rows and columns outside are zero.
    __device__ float skip_at(int sample, int colour, int row, int column) const {
        const int rows = height / 2, columns = width / 2;
        if (row < 0 || row >= rows || column < 0 || column >= columns) return 0.0f;
        return skip[(static_cast<size_t>(sample) * kColours + colour) * rows * columns + row * columns + column];
    }

    // Between the two rows that output row `row` lies between, at input column `column`.
    __device__ float skip_rows(int sample, int colour, int row, int column) const {
        const int near = row / 2, far = row % 2 ? near + 1 : near - 1;
        return 0.75f * skip_at(sample, colour, near, column) + 0.25f * skip_at(sample, colour, far, column);
    }

    __device__ float upsampled_skip(int sample, int colour, int row, int column) const {
        if (!has_skip) return 0.0f;
        const int near = column / 2, far = column % 2 ? near + 1 : near - 1;
        return 0.75f * skip_rows(sample, colour, row, near) + 0.25f * skip_rows(sample, colour, row, far);
    }

    __device__ void put(void* image, int sample, int colour, int pixel, float value) const {
        if (as_bytes) {  // NaN becomes 0: a byte has no NaN
            const float scaled = value * 127.5f + 128.0f;
            const float byte = scaled > 0.0f ? (scaled < 255.0f ? scaled : 255.0f) : 0.0f;
            const size_t at = (static_cast<size_t>(sample) * pixels() + pixel) * kColours + colour;
            static_cast<unsigned char*>(image)[at] = static_cast<unsigned char>(byte);
        } else {
            static_cast<float*>(image)[(static_cast<size_t>(sample) * kColours + colour) * pixels() + pixel] = value;
        }
    }

    // All threads of the block together: weights times styles of channels from `first` on, zeros beyond the last.
    __device__ void fill(float (&tile)[kColours][kTile], int sample, int first) const {
        __syncthreads();  // the last tile has been read
        for (int k = threadIdx.x; k < kColours * kTile; k += kBlock) {
            const int channel = first + k % kTile;
            tile[k / kTile][k % kTile] = channel < channels ? weighted_style(sample, k / kTile, channel) : 0.0f;
        }
        __syncthreads();
    }
};

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

// ---- channels last: kGroup threads share a pixel, add up, and each writes one colour ----

template <class T, int L>
__device__ inline void rgb_nhwc(const T* x, const ToRGB& rgb, void* image) {
    constexpr int kGroups = kBlock / kGroup;
    alignas(16) __shared__ float tile[kColours][kTile];
    const int member = threadIdx.x % kGroup, channels = rgb.channels, pixels = rgb.pixels();
    const int first_pixel = blockIdx.x * kGroups * kPixels + threadIdx.x / kGroup;
    for (int sample = blockIdx.y; sample < rgb.batch; sample += gridDim.y) {
        const T* source = x + static_cast<size_t>(sample) * channels * pixels;
        float sums[kPixels][kColours] = {};
        for (int first = 0; first < channels; first += kTile) {
            rgb.fill(tile, sample, first);
            const int end = channels - first < kTile ? channels - first : kTile;
            for (int k = member * L; k < end; k += kGroup * L) {
                float values[kPixels][L] = {};
#pragma unroll
                for (int p = 0; p < kPixels; ++p) {
                    const int pixel = first_pixel + p * kGroups;
                    if (pixel < pixels) load_lanes(source + static_cast<size_t>(pixel) * channels + first + k, values[p]);
                }
#pragma unroll
                for (int colour = 0; colour < kColours; ++colour) {
#pragma unroll
                    for (int lane = 0; lane < L; ++lane) {
                        const float weight = tile[colour][k + lane];
#pragma unroll
                        for (int p = 0; p < kPixels; ++p) sums[p][colour] += values[p][lane] * weight;
                    }
                }
            }
        }
#pragma unroll
        for (int p = 0; p < kPixels; ++p) {
            const int pixel = first_pixel + p * kGroups;
#pragma unroll
            for (int colour = 0; colour < kColours; ++colour) {
                float sum = sums[p][colour];
                for (int step = 1; step < kGroup; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
                if (member != colour || pixel >= pixels) continue;
                const float skip = rgb.upsampled_skip(sample, colour, pixel / rgb.width, pixel % rgb.width);
                rgb.put(image, sample, colour, pixel, rgb.finished(sum, colour) + skip);
            }
        }
    }
}

// ---- NCHW: a thread has L pixels of a row and walks through the channels ----

// The skip image at N outputs from `column` on: its rows are combined once per input column, then across.
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
    const bool in_plane = row < rgb.height;  // threads beyond still help to fill tiles
    for (int sample = blockIdx.y; sample < rgb.batch; sample += gridDim.y) {
        const T* source = x + static_cast<size_t>(sample) * rgb.channels * pixels + pixel;
        float sums[kColours][L] = {};
        for (int first = 0; first < rgb.channels; first += kTile) {
            rgb.fill(tile, sample, first);
            const int end = !in_plane ? 0 : rgb.channels - first < kTile ? rgb.channels - first : kTile;
#pragma unroll 4  // four loads under way at a time
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

// ---- what Python calls ----

// Inputs, integers, outputs, as in epilogue.cuh and for the same reason.
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
