// toRGB of one resolution and the image so far. The kernels that share it differ in where the features come from.
//
// The image is float [B, 3, H, W], because it is summed over all resolutions; the last one may be bytes [B, H, W, 3]:
// clip(127.5 v + 128, 0, 255), truncated. Up-sampling puts zeros between pixels and filters with outer(t, t) / 16,
// t = [1, 3, 3, 1], zeros outside the border: along each axis an output is 3/4 of the nearer input and 1/4 of the farther.
#pragma once

#include "storage.cuh"

constexpr int kColours = 3;
constexpr int kTile = 512;    // NCHW: channels whose weights are in shared memory; StyleGAN's widest layer
constexpr int kWarp = 32;     // channels last: also the most neighbouring lanes that share a pixel
constexpr int kWarps = kBlock / kWarp;
constexpr int kPixels = 4;    // channels last: pixels per lane, loaded at the same time
constexpr int kSums = kPixels * kColours;

// Channels last: the lanes of a warp. A group of neighbours shares kPixels pixels. Each member reads one slot (an access of
// channels) of each pixel, or every members-th slot of a wide layer. So neighbours read neighbouring memory at any width,
// and a lane's constants stay in registers while it walks over pixels. Warps never wait for each other.
struct Team {
    int slots, members, groups, member, group;
    int own, colour, step;  // the pixel of the tile that this lane finishes, its first colour, and the step to its next one
    int begin;              // the place of that pixel's first sum in Partial

    __device__ explicit Team(int count) : slots(count) {
        const int lane = threadIdx.x % kWarp;
        members = slots > kWarp ? ceil_div(slots, ceil_div(slots, kWarp)) : slots;
        if (members < kPixels) members = kPixels;  // else a tile has more pixels than the warp has lanes
        groups = kWarp / members;
        member = lane % members;
        group = lane / members;
        const bool spread = tile() * kColours <= kWarp;  // one lane for each colour
        own = spread ? lane % tile() : lane;
        colour = spread ? lane / tile() : 0;
        step = spread ? kColours : 1;
        begin = own % groups * members * kSums + own / groups * kColours;
    }

    // Pixels of a tile, which a warp processes at once: consecutive in the plane.
    __device__ int tile() const { return groups * kPixels; }

    // The first pixel of this warp, and the distance to its next tile.
    __device__ int first() const { return (blockIdx.x * kWarps + threadIdx.x / kWarp) * tile(); }
    __device__ int stride() const { return gridDim.x * kWarps * tile(); }

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

// The partial sums of all lanes, by warp and lane.
struct Partial {
    alignas(16) float sums[kWarps][kWarp * kSums];

    // This warp's sums. They may be read after __syncwarp, and written again after another one.
    __device__ float* of_warp() { return sums[threadIdx.x / kWarp]; }

    __device__ void put(const float (&own)[kPixels][kColours]) {
        float* place = of_warp() + threadIdx.x % kWarp * kSums;
#pragma unroll
        for (int p = 0; p < kPixels; ++p) {
#pragma unroll
            for (int colour = 0; colour < kColours; ++colour) place[p * kColours + colour] = own[p][colour];
        }
    }
};

// Where an output pixel lies in the smaller skip image: its nearer input, and whether the farther ones are inside.
struct SkipSite {
    int near, down, across;
    bool has_row, has_column;
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

    // For all colours of a pixel.
    __device__ SkipSite skip_site(int pixel) const {
        const int rows = height / 2, columns = width / 2;
        const int row = static_cast<unsigned>(pixel) / static_cast<unsigned>(width), column = pixel - row * width;
        const int down = row % 2 ? 1 : -1, across = column % 2 ? 1 : -1;  // to the farther input
        return {row / 2 * columns + column / 2, down * columns, across,
                static_cast<unsigned>(row / 2 + down) < static_cast<unsigned>(rows),
                static_cast<unsigned>(column / 2 + across) < static_cast<unsigned>(columns)};
    }

    // `below`: the sample's and colour's plane of the skip image.
    __device__ static float skip_from(const float* below, const SkipSite& site) {
        const float* near = below + site.near;
        float far_row = 0.0f, far_column = 0.0f, far_both = 0.0f;
        if (site.has_row) far_row = near[site.down];
        if (site.has_column) far_column = near[site.across];
        if (site.has_row & site.has_column) far_both = near[site.down + site.across];
        const float here = 0.75f * near[0] + 0.25f * far_row, beside = 0.75f * far_column + 0.25f * far_both;
        return 0.75f * here + 0.25f * beside;
    }

    // Finishes the tile at pixel `first`: each lane adds up the members' sums of its pixel and colours.
    __device__ void put_tile(void* image, int sample, int first, const Team& team, const float* sums) const {
        const int pixel = first + team.own, plane = (height / 2) * (width / 2);
        if ((team.own >= team.tile()) | (pixel >= pixels())) return;
        const size_t begin = static_cast<size_t>(sample) * kColours;  // 32-bit indices are enough within a sample
        const float* below = skip + begin * plane;
        float* planes = static_cast<float*>(image) + begin * pixels();
        unsigned char* bytes = static_cast<unsigned char*>(image) + begin * pixels();
        SkipSite site{};
        if (has_skip) site = skip_site(pixel);
#pragma unroll 1
        for (int colour = team.colour; colour < kColours; colour += team.step) {
            const float under = has_skip ? skip_from(below + colour * plane, site) : 0.0f;
            const float* own = sums + team.begin + colour;
            float sum = 0.0f;
#pragma unroll 8
            for (int member = 0; member < team.members; ++member) sum += own[member * kSums];
            const float value = finished(sum, colour) + under;
            if (as_bytes) bytes[pixel * kColours + colour] = byte_of(value);
            if (!as_bytes) planes[colour * pixels() + pixel] = value;
        }
    }
};
