// One resolution's colours and the image so far, shared by the kernels that differ in where the features come from.
//
// The image is planar float, [B, 3, H, W], because it is summed over all resolutions, or, as the last one, bytes in
// [B, H, W, 3]: clip(127.5 v + 128, 0, 255), truncated. Up-sampling is zeros between pixels, then outer(t, t) / 16 with
// t = [1, 3, 3, 1], zeros outside the border: of each axis an output sees two inputs, 3/4 of the nearer and 1/4 of the
// farther.
#pragma once

#include "storage.cuh"

constexpr int kColours = 3;
constexpr int kTile = 512;  // channels of which a block keeps constants in shared memory; StyleGAN's widest layer in one
constexpr int kGroup = 4;   // channels-last: neighbouring threads that share a pixel; 64 bytes of it at a time

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

    // Channels of the tile that starts at channel `first`.
    __device__ int tile_end(int first) const { return channels - first < kTile ? channels - first : kTile; }

    // All threads of the block together: weights times styles of a tile of channels.
    __device__ void fill(float (&tile)[kColours][kTile], int sample, int first) const {
        for (int k = threadIdx.x; k < tile_end(first); k += kBlock) {
#pragma unroll
            for (int colour = 0; colour < kColours; ++colour) {
                tile[colour][k] = weighted_style(sample, colour, first + k);
            }
        }
    }

    // Add up the sums of a pixel's kGroup threads; each of the first three puts one colour. All lanes of a warp come.
    __device__ void put_group(void* image, int sample, int pixel, const float (&sums)[kColours]) const {
        const int member = threadIdx.x % kGroup;
#pragma unroll
        for (int colour = 0; colour < kColours; ++colour) {
            float sum = sums[colour];
            for (int step = 1; step < kGroup; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
            if (member != colour || pixel >= pixels()) continue;
            const float skip = upsampled_skip(sample, colour, pixel / width, pixel % width);
            put(image, sample, colour, pixel, finished(sum, colour) + skip);
        }
    }
};
