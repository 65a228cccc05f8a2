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
    const int channels = epilogue.channels, rows = epilogue.height + 1, columns = epilogue.width + 1;
    const int slots = channels / L, pairs = ceil_div(epilogue.height, kRows), run = run_length(epilogue.width);
    const int thread = blockIdx.x * kBlock + threadIdx.x;
    const int channel = thread % slots * L, site = thread / slots;
    const int left = site / pairs * run, top = site % pairs * kRows;
    const int end = left + run < epilogue.width ? left + run : epilogue.width;
    if (left >= epilogue.width) return;
    for (int sample = blockIdx.y; sample < epilogue.batch; sample += gridDim.y) {
        const T* source = x + static_cast<size_t>(sample) * channels * rows * columns + channel;
        T* target = y + epilogue.sample_offset(sample) + channel;
        ChannelTerms terms[L];
        epilogue.terms_of(sample, channel, terms);
#pragma unroll
        for (int lane = 0; lane < L; ++lane) terms[lane].scale *= kFirGain;  // a power of two, so no rounding
        float pending[kRows][3][L] = {};
#pragma unroll 1  // copies of the body would not fit the instruction cache
        for (int column = left - 3; column < end; ++column) {  // the output that the input two columns ahead completes
            Packed<T, L> inputs[kRows + 3];
#pragma unroll
            for (int i = 0; i < kRows + 3; ++i) {
                const int row = top - 1 + i, source_column = column + 2;
                if (row >= 0 && row < rows && source_column >= 0 && source_column < columns) {
                    inputs[i].load(source + (static_cast<size_t>(row) * columns + source_column) * channels);
                } else {
                    inputs[i].clear();
                }
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
                if (column < left || top + row >= epilogue.height) continue;
                const int pixel = (top + row) * epilogue.width + column;
                const float noise = epilogue.noise_at(sample, pixel);
#pragma unroll
                for (int lane = 0; lane < L; ++lane) results[lane] = epilogue(results[lane], terms[lane], noise);
                store_lanes(target + static_cast<size_t>(pixel) * channels, results);
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
    constexpr int H = kTileHeight<L>, kSlots = kTileWidth / L, kWarp = 32;
    __shared__ float tile[H + 3][TileRow::kWords];
    const int rows = epilogue.height + 1, columns = epilogue.width + 1;
    const int across = ceil_div(epilogue.width, kTileWidth), down = ceil_div(epilogue.height, H);
    const int left = blockIdx.x % across * kTileWidth, top = blockIdx.x / across % down * H;
    const int channel = blockIdx.x / (across * down);
    const int row = threadIdx.x / kSlots, slot = threadIdx.x % kSlots * L;
    const int pixel = (top + row) * epilogue.width + left + slot;
    const bool in_plane = top + row < epilogue.height && left + slot < epilogue.width;
    for (int sample = blockIdx.y; sample < epilogue.batch; sample += gridDim.y) {
        const T* source = x + (static_cast<size_t>(sample) * epilogue.channels + channel) * rows * columns;
        __syncthreads();  // until the previous sample's tile is read
#pragma unroll 2
        for (int i = threadIdx.x / kWarp; i < H + 3; i += kBlock / kWarp) {
            const int from_row = top - 1 + i;
            const bool row_inside = from_row >= 0 && from_row < rows;
#pragma unroll
            for (int j = threadIdx.x % kWarp; j < TileRow::kColumns; j += kWarp) {
                const int from_column = left - 1 + j;
                const bool inside = row_inside && from_column >= 0 && from_column < columns;
                tile[i][TileRow::place<L>(j)] = inside ? to_float(source[from_row * columns + from_column]) : 0.0f;
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
