// toRGB of one resolution and the image so far. The kernels that share it differ in where the features come from.
//
// The image is float [B, 3, H, W], because it is summed over all resolutions; the last one may be bytes [B, H, W, 3]:
// clip(127.5 v + 128, 0, 255), truncated. Up-sampling puts zeros between pixels and filters with outer(t, t) / 16,
// t = [1, 3, 3, 1], zeros outside the border: along each axis an output is 3/4 of the nearer input and 1/4 of the farther.
#pragma once

#include "storage.cuh"

constexpr int kColours = 3;
constexpr int kTile = 512;    // NCHW: channels whose weights are in shared memory; StyleGAN's widest layer
constexpr int kMembers = 32;  // channels last: the most neighbouring threads that share a pixel
constexpr int kPixels = 4;    // channels last: pixels per thread, loaded at the same time

// Channels last: the threads of a block. A group of neighbours shares kPixels pixels. Each member reads one slot (an
// access of channels) of each pixel, or every members-th slot of a wide layer. So neighbours read neighbouring memory at
// any width, and a thread's constants stay in registers while it walks over pixels.
struct Team {
    int slots, members, groups, member, group;
    int turn, begin;  // for the pixel that this thread finishes: its p, and its group's first thread

    __device__ explicit Team(int count) : slots(count) {
        members = slots > kMembers ? ceil_div(slots, ceil_div(slots, kMembers)) : slots;
        if (members < kPixels) members = kPixels;  // else a tile has more pixels than the block has threads
        groups = kBlock / members;
        member = threadIdx.x % members;
        group = threadIdx.x / members;
        turn = threadIdx.x / groups;
        begin = threadIdx.x % groups * members;
    }

    // Pixels of a tile, which a block processes at once: consecutive in the plane.
    __device__ int tile() const { return groups * kPixels; }

    __device__ int pixel(int first, int p) const { return first + p * groups + group; }

    __device__ bool has(int first, int p, int pixels) const { return (group < groups) & (pixel(first, p) < pixels); }

    // All loads start before the first value is used.
    template <class T, int L>
    __device__ void load(const T* source, int first, int slot, int pixels, Packed<T, L> (&features)[kPixels]) const {
#pragma unroll
        for (int p = 0; p < kPixels; ++p) {
            const bool wanted = has(first, p, pixels) & (slot < slots);  // one predicate, no branches
            features[p].clear();
            if (wanted) features[p].load(source + (pixel(first, p) * slots + slot) * L);
        }
    }
};

// The members' partial sums. A gap after every 32 lets threads that each add up a group use different banks.
struct Partial {
    float sums[kPixels][kColours][kBlock + kBlock / 32];

    __device__ static int place(int thread) { return thread + thread / 32; }

    __device__ void put(const float (&own)[kPixels][kColours]) {
#pragma unroll
        for (int p = 0; p < kPixels; ++p) {
#pragma unroll
            for (int colour = 0; colour < kColours; ++colour) sums[p][colour][place(threadIdx.x)] = own[p][colour];
        }
    }
};

struct ToRGB {
    const float* styles;  // [B, C]
    const float* weight;  // [3, C]
    const float* bias;    // [3]
    const float* skip;    // [B, 3, H / 2, W / 2], read if has_skip
    int batch, channels, height, width, has_skip, as_bytes;
    float clamp;  // infinity: no clamp; applies to this resolution's colours, before the skip is added

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

    // Interpolates between the two input rows around output row `row`, at input column `column`.
    __device__ float skip_rows(int sample, int colour, int row, int column) const {
        const int near = row / 2, far = row % 2 ? near + 1 : near - 1;
        return 0.75f * skip_at(sample, colour, near, column) + 0.25f * skip_at(sample, colour, far, column);
    }

    __device__ float upsampled_skip(int sample, int colour, int row, int column) const {
        if (!has_skip) return 0.0f;
        const int near = column / 2, far = column % 2 ? near + 1 : near - 1;
        return 0.75f * skip_rows(sample, colour, row, near) + 0.25f * skip_rows(sample, colour, row, far);
    }

    // NaN becomes 0, since a byte has no NaN.
    __device__ static unsigned char byte_of(float value) {
        const float scaled = value * 127.5f + 128.0f;
        return static_cast<unsigned char>(scaled > 0.0f ? (scaled < 255.0f ? scaled : 255.0f) : 0.0f);
    }

    __device__ void put(void* image, int sample, int colour, int pixel, float value) const {
        if (as_bytes) {
            const size_t at = (static_cast<size_t>(sample) * pixels() + pixel) * kColours + colour;
            static_cast<unsigned char*>(image)[at] = byte_of(value);
        } else {
            static_cast<float*>(image)[(static_cast<size_t>(sample) * kColours + colour) * pixels() + pixel] = value;
        }
    }

    // Channels of the tile that starts at channel `first`.
    __device__ int tile_end(int first) const { return channels - first < kTile ? channels - first : kTile; }

    // All threads of the block compute weights times styles of a tile of channels.
    __device__ void fill(float (&tile)[kColours][kTile], int sample, int first) const {
        for (int k = threadIdx.x; k < tile_end(first); k += kBlock) {
#pragma unroll
            for (int colour = 0; colour < kColours; ++colour) {
                tile[colour][k] = weighted_style(sample, colour, first + k);
            }
        }
    }

    // Weights times styles of L neighbouring channels.
    template <int L>
    __device__ void weights_of(int sample, int channel, float (&values)[kColours][L]) const {
        float style[L];
        load_floats(styles + static_cast<size_t>(sample) * channels + channel, style);
#pragma unroll
        for (int colour = 0; colour < kColours; ++colour) {
            load_floats(weight + static_cast<size_t>(colour) * channels + channel, values[colour]);
#pragma unroll
            for (int lane = 0; lane < L; ++lane) values[colour][lane] *= style[lane];
        }
    }

    // upsampled_skip of all colours of a pixel, which share the index arithmetic.
    __device__ void upsampled_skips(int sample, int pixel, float (&values)[kColours]) const {
#pragma unroll
        for (int colour = 0; colour < kColours; ++colour) values[colour] = 0.0f;
        if (!has_skip) return;
        const int rows = height / 2, columns = width / 2, plane = rows * columns;
        const int row = static_cast<unsigned>(pixel) / static_cast<unsigned>(width), column = pixel - row * width;
        const int down = row % 2 ? 1 : -1, across = column % 2 ? 1 : -1;  // to the farther input
        const bool has_row = static_cast<unsigned>(row / 2 + down) < static_cast<unsigned>(rows);
        const bool has_column = static_cast<unsigned>(column / 2 + across) < static_cast<unsigned>(columns);
        const float* near = skip + static_cast<size_t>(sample) * kColours * plane + row / 2 * columns + column / 2;
#pragma unroll
        for (int colour = 0; colour < kColours; ++colour, near += plane) {
            float far_row = 0.0f, far_column = 0.0f, far_both = 0.0f;
            if (has_row) far_row = near[down * columns];
            if (has_column) far_column = near[across];
            if (has_row & has_column) far_both = near[down * columns + across];
            const float here = 0.75f * near[0] + 0.25f * far_row, beside = 0.75f * far_column + 0.25f * far_both;
            values[colour] = 0.75f * here + 0.25f * beside;
        }
    }

    // One thread per pixel of the tile at pixel `first`, so that neighbours write neighbouring memory.
    __device__ void put_tile(void* image, int sample, int first, const Team& team, const Partial& partial) const {
        const int own = threadIdx.x, pixel = first + own;
        if ((own >= team.tile()) | (pixel >= pixels())) return;
        float skips[kColours], sums[kColours] = {};
        upsampled_skips(sample, pixel, skips);
#pragma unroll 4
        for (int member = 0; member < team.members; ++member) {
            const int at = Partial::place(team.begin + member);
#pragma unroll
            for (int colour = 0; colour < kColours; ++colour) sums[colour] += partial.sums[team.turn][colour][at];
        }
        const size_t begin = static_cast<size_t>(sample) * kColours * pixels();
        float* planes = static_cast<float*>(image) + begin + pixel;
        unsigned char* bytes = static_cast<unsigned char*>(image) + begin + pixel * kColours;
#pragma unroll
        for (int colour = 0; colour < kColours; ++colour) {
            const float value = finished(sums[colour], colour) + skips[colour];
            if (as_bytes) bytes[colour] = byte_of(value);
            if (!as_bytes) planes[colour * pixels()] = value;
        }
    }
};
