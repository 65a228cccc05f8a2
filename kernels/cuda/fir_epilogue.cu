// The FIR of transposed up-sampling, then the epilogue: x [B, C, H + 1, W + 1] -> y [B, C, H, W].
//
// The filter is outer(t, t) / 16 with t = [1, 3, 3, 1] (4x4, gain 4), zeros outside the border, padding 1. x is
// read once and y written once. Up to 16 outputs need an input: NCHW shares it through a tile in shared memory;
// channels-last, where a pixel's channels fill whole sectors, slides along a row and leaves the rest to the L1 cache.
#include "epilogue.cuh"

constexpr float kFirGain = 1.0f / 16.0f;

__device__ inline float fir_tap(int index) { return index == 1 || index == 2 ? 3.0f : 1.0f; }

// ---- naive: one thread per output element ----

template <class T, bool kChannelsLast>
__device__ inline void fir_naive(const T* x, const Epilogue& epilogue, T* y) {
    const int index = blockIdx.x * kBlock + threadIdx.x;
    const int channels = epilogue.channels, pixels = epilogue.pixels();
    const int rows = epilogue.height + 1, columns = epilogue.width + 1;
    if (index >= channels * pixels) return;
    const int channel = kChannelsLast ? index % channels : index / pixels;
    const int pixel = kChannelsLast ? index / channels : index % pixels;
    for (int sample = blockIdx.y; sample < epilogue.batch; sample += gridDim.y) {
        const T* source = x + static_cast<size_t>(sample) * channels * rows * columns;
        float sum = 0.0f;
        for (int i = 0; i < 4; ++i) {
            for (int j = 0; j < 4; ++j) {
                const int row = pixel / epilogue.width - 1 + i, column = pixel % epilogue.width - 1 + j;
                if (row < 0 || row >= rows || column < 0 || column >= columns) continue;
                const int at = kChannelsLast ? (row * columns + column) * channels + channel
                                             : (channel * rows + row) * columns + column;
                sum += fir_tap(i) * fir_tap(j) * to_float(source[at]);
            }
        }
        const ChannelTerms term = epilogue.terms(sample, channel);
        from_float(epilogue(sum * kFirGain, term, epilogue.noise_at(sample, pixel)),
                   y[epilogue.sample_offset(sample) + index]);
    }
}

// ---- channels last ----

constexpr int kRows = 2;  // rows per thread: two need five input rows, one needs four

// Outputs per thread along a row: long runs read fewer columns twice, short runs give a small image more threads.
__device__ inline int run_length(int width) { return width < 64 ? 4 : (width < 256 ? width / 16 : 16); }

// A thread computes L channels of kRows rows of a run. Per column it sums the rows. A column's sum enters four outputs of
// its row, so three unfinished ones wait in registers. Runs above one another are in one block: they read the rows they
// share at about the same time, so the second one reads them from the L1 cache.
template <class T, int L>
__device__ inline void fir_nhwc(const T* x, const Epilogue& epilogue, T* y) {
    const int channels = epilogue.channels, width = epilogue.width;
    const int rows = epilogue.height + 1, columns = width + 1, stride = columns * channels;
    const int slots = channels / L, pairs = ceil_div(epilogue.height, kRows), run = run_length(width);
    const int thread = blockIdx.x * kBlock + threadIdx.x;
    const int channel = thread % slots * L, site = thread / slots;
    const int left = site / pairs * run, top = site % pairs * kRows;
    const int steps = (left + run < width ? run : width - left) + 3;  // three inputs come before the first output
    if (left >= width) return;
    // Everything that stays the same along the run is computed here: instructions limit this kernel in 16 bits.
    bool has_row[kRows + 3];
#pragma unroll
    for (int i = 0; i < kRows + 3; ++i) has_row[i] = static_cast<unsigned>(top - 1 + i) < static_cast<unsigned>(rows);
    for (int sample = blockIdx.y; sample < epilogue.batch; sample += gridDim.y) {
        const T* source = x + static_cast<size_t>(sample) * rows * stride + channel;
        T* target = y + epilogue.sample_offset(sample) + channel;
        const float* noise = epilogue.noise_plane(sample);
        ChannelTerms terms[L];
        epilogue.terms_of(sample, channel, terms);
#pragma unroll
        for (int lane = 0; lane < L; ++lane) terms[lane].scale *= kFirGain;  // a power of two, so no rounding
        float pending[kRows][3][L] = {};
        const T* from = source + static_cast<long long>((top - 1) * stride + (left - 1) * channels);
        int pixel = top * width + left - 3;  // the output that the next input completes
#pragma unroll 1  // copies of the body would not fit the instruction cache
        for (int step = 0; step < steps; ++step, from += channels, ++pixel) {
            const bool has_column = static_cast<unsigned>(left - 1 + step) < static_cast<unsigned>(columns);
            Packed<T, L> inputs[kRows + 3];
#pragma unroll
            for (int i = 0; i < kRows + 3; ++i) {
                inputs[i].clear();
                if (has_row[i] & has_column) inputs[i].load(from + static_cast<long long>(stride) * i);
            }
            float sums[kRows][L];
#pragma unroll
            for (int i = 0; i < kRows + 3; ++i) {
                float values[L];
                inputs[i].floats(values);
#pragma unroll
                for (int row = 0; row < kRows; ++row) {
                    if (i < row || i > row + 3) continue;
#pragma unroll
                    for (int lane = 0; lane < L; ++lane) {
                        sums[row][lane] = i == row ? values[lane] : sums[row][lane] + fir_tap(i - row) * values[lane];
                    }
                }
            }
#pragma unroll
            for (int row = 0; row < kRows; ++row) {
                float results[L];
#pragma unroll
                for (int lane = 0; lane < L; ++lane) {
                    const float sum = sums[row][lane];
                    results[lane] = pending[row][0][lane] + sum;
                    pending[row][0][lane] = pending[row][1][lane] + 3.0f * sum;
                    pending[row][1][lane] = pending[row][2][lane] + 3.0f * sum;
                    pending[row][2][lane] = sum;
                }
                if (step < 3 || top + row >= epilogue.height) continue;
                const int at = pixel + row * width;
                const float added = noise ? noise[at] : 0.0f;
#pragma unroll
                for (int lane = 0; lane < L; ++lane) results[lane] = epilogue(results[lane], terms[lane], added);
                store_lanes(target + static_cast<size_t>(at) * channels, results);
            }
        }
    }
}

// ---- NCHW ----

constexpr int kTileWidth = 64;

template <int L>
constexpr int kTileHeight = kBlock * L / kTileWidth;  // so that each thread makes one store

// Input columns of a tile in shared memory. A gap of L / 2 words after every 32 and rows of 4 n + 1 words let the threads
// of a warp, L columns apart on neighbouring rows, use 32 different banks.
struct TileRow {
    static constexpr int kColumns = kTileWidth + 3, kWords = kColumns + 10;
    static_assert(kWords % 4 == 1);

    template <int L>
    __device__ static int place(int column) {
        return column + column / 32 * (L / 2);
    }
};

// A block computes one tile of one plane. Input rows have odd length (2 W + 1), so few start at 16 bytes. They are read
// element by element, a row per warp, with neighbouring threads on neighbours; only the output uses 16-byte accesses.
template <class T, int L>
__device__ inline void fir_nchw(const T* x, const Epilogue& epilogue, T* y) {
    constexpr int H = kTileHeight<L>, kSlots = kTileWidth / L, kWarp = 32, kWarps = kBlock / kWarp;
    constexpr int kDown = (H + 3 + kWarps - 1) / kWarps, kAcross = (TileRow::kColumns + kWarp - 1) / kWarp;
    __shared__ float tile[H + 3][TileRow::kWords];
    const int rows = epilogue.height + 1, columns = epilogue.width + 1;
    const int across = ceil_div(epilogue.width, kTileWidth), down = ceil_div(epilogue.height, H);
    const int left = blockIdx.x % across * kTileWidth, top = blockIdx.x / across % down * H;
    const int channel = blockIdx.x / (across * down);
    const int row = threadIdx.x / kSlots, slot = threadIdx.x % kSlots * L;
    const int pixel = (top + row) * epilogue.width + left + slot;
    const bool in_plane = top + row < epilogue.height && left + slot < epilogue.width;
    const int first_row = threadIdx.x / kWarp, first_column = threadIdx.x % kWarp;
    for (int sample = blockIdx.y; sample < epilogue.batch; sample += gridDim.y) {
        const T* source = x + (static_cast<size_t>(sample) * epilogue.channels + channel) * rows * columns;
        T read[kDown][kAcross] = {};
#pragma unroll  // all loads start before the first value is stored
        for (int i = 0; i < kDown; ++i) {
            const int tile_row = first_row + i * kWarps, from_row = top - 1 + tile_row;
            const bool has_row = (tile_row < H + 3) & (static_cast<unsigned>(from_row) < static_cast<unsigned>(rows));
#pragma unroll
            for (int j = 0; j < kAcross; ++j) {
                const int tile_column = first_column + j * kWarp, from_column = left - 1 + tile_column;
                const bool has_column = static_cast<unsigned>(from_column) < static_cast<unsigned>(columns);
                if (has_row & has_column & (tile_column < TileRow::kColumns)) {
                    read[i][j] = source[from_row * columns + from_column];
                }
            }
        }
        __syncthreads();  // until the previous sample's tile is read
#pragma unroll
        for (int i = 0; i < kDown; ++i) {
#pragma unroll
            for (int j = 0; j < kAcross; ++j) {
                const int tile_row = first_row + i * kWarps, tile_column = first_column + j * kWarp;
                if ((tile_row >= H + 3) | (tile_column >= TileRow::kColumns)) continue;
                tile[tile_row][TileRow::place<L>(tile_column)] = to_float(read[i][j]);
            }
        }
        __syncthreads();
        if (!in_plane) continue;
        float sums[L + 3];
#pragma unroll
        for (int j = 0; j < L + 3; ++j) {
            const int at = TileRow::place<L>(slot + j / L * L) + j % L;  // whole groups of L have no gap
            const float inner = tile[row + 1][at] + tile[row + 2][at];
            sums[j] = tile[row][at] + tile[row + 3][at] + 3.0f * inner;
        }
        const ChannelTerms term = epilogue.terms(sample, channel);
        float noise[L], values[L];
        epilogue.noise_of(sample, pixel, noise);
#pragma unroll
        for (int lane = 0; lane < L; ++lane) {
            const float sum = sums[lane] + sums[lane + 3] + 3.0f * (sums[lane + 1] + sums[lane + 2]);
            values[lane] = epilogue(sum * kFirGain, term, noise[lane]);
        }
        store_lanes(y + epilogue.sample_offset(sample) + static_cast<size_t>(channel) * epilogue.pixels() + pixel,
                    values);
    }
}

// ---- entry points for Python ----

#define FIR_FORM(T, tag, form, L)                                                                                     \
    KERNEL(fir_nchw_##form##_##tag, EPILOGUE_PARAMETERS(T), fir_nchw<T, L>(EPILOGUE_ARGUMENTS))                       \
    KERNEL(fir_nhwc_##form##_##tag, EPILOGUE_PARAMETERS(T), fir_nhwc<T, L>(EPILOGUE_ARGUMENTS))

#define FIR_KERNELS(T, tag)                                                                                           \
    FIR_FORM(T, tag, wide, kLanes<T>)                                                                                 \
    FIR_FORM(T, tag, narrow, 1)                                                                                       \
    KERNEL(fir_nchw_naive_##tag, EPILOGUE_PARAMETERS(T), fir_naive<T, false>(EPILOGUE_ARGUMENTS))                     \
    KERNEL(fir_nhwc_naive_##tag, EPILOGUE_PARAMETERS(T), fir_naive<T, true>(EPILOGUE_ARGUMENTS))

FIR_KERNELS(float, f32)
FIR_KERNELS(Half, f16)
FIR_KERNELS(BFloat16, bf16)
