// y = clamp(lrelu(x * scale + noise + bias)) * next_scale, optionally with depth-to-space before it.
//
// x is read once and y written once. Everything else is small (noise H W, scale B C) but needed at every element. So a
// thread keeps the values along its 16 bytes in registers and walks along the other axis. grid.y runs over samples;
// within a sample 32-bit indices are enough. height and width are the output's, in every variant.
#include "epilogue.cuh"

constexpr int kVisits = 4;         // rows of 16 bytes per thread
constexpr int kShuffleBlocks = 3;  // depth-to-space in NHWC: more threads, because each loads only once
constexpr int kShuffleVisits = 2;  // depth-to-space in NCHW: each visit is two loads and two stores

// ---- naive: one thread per output element ----

template <class T, bool kChannelsLast, bool kDepthToSpace>
__device__ inline void modconv_naive(const T* x, const Epilogue& epilogue, T* y) {
    const int index = blockIdx.x * kBlock + threadIdx.x;
    const int channels = epilogue.channels, pixels = epilogue.pixels(), width = epilogue.width;
    if (index >= channels * pixels) return;
    const int channel = kChannelsLast ? index % channels : index / pixels;
    const int pixel = kChannelsLast ? index / channels : index % pixels;
    int source = index;
    if (kDepthToSpace) {
        const int row = pixel / width, column = pixel % width;
        const int source_channel = 4 * channel + 2 * (row % 2) + column % 2;
        const int source_pixel = row / 2 * (width / 2) + column / 2;
        source = kChannelsLast ? source_pixel * 4 * channels + source_channel
                               : source_channel * (pixels / 4) + source_pixel;
    }
    for (int sample = blockIdx.y; sample < epilogue.batch; sample += gridDim.y) {
        const size_t offset = epilogue.sample_offset(sample);
        const float value = to_float(x[offset + source]);
        const float result = epilogue(value, epilogue.terms(sample, channel), epilogue.noise_at(sample, pixel));
        from_float(result, y[offset + index]);
    }
}

// ---- same size ----

// A thread keeps the noise of its pixels and walks over channels.
template <class T, int L>
__device__ inline void modconv_nchw(const T* x, const Epilogue& epilogue, T* y) {
    const int channels = epilogue.channels, pixels = epilogue.pixels();
    const int slots = pixels / L, stride = ceil_div(channels, kVisits);
    const int thread = blockIdx.x * kBlock + threadIdx.x;
    const int pixel = thread % slots * L, first = thread / slots;
    if (first >= stride) return;
    for (int sample = blockIdx.y; sample < epilogue.batch; sample += gridDim.y) {
        const size_t offset = epilogue.sample_offset(sample) + pixel;
        float noise[L];
        Packed<T, L> inputs[kVisits];
#pragma unroll  // all loads start before the first value is used
        for (int visit = 0; visit < kVisits; ++visit) {
            const int channel = first + visit * stride;
            if (channel < channels) inputs[visit].load(x + offset + static_cast<size_t>(channel) * pixels);
        }
        epilogue.noise_of(sample, pixel, noise);
#pragma unroll
        for (int visit = 0; visit < kVisits; ++visit) {
            const int channel = first + visit * stride;
            if (channel >= channels) break;
            const ChannelTerms term = epilogue.terms(sample, channel);
            float values[L];
            inputs[visit].floats(values);
#pragma unroll
            for (int lane = 0; lane < L; ++lane) values[lane] = epilogue(values[lane], term, noise[lane]);
            store_lanes(y + offset + static_cast<size_t>(channel) * pixels, values);
        }
    }
}

// A thread keeps scale, bias and next style of its channels and walks over pixels.
template <class T, int L>
__device__ inline void modconv_nhwc(const T* x, const Epilogue& epilogue, T* y) {
    const int channels = epilogue.channels, pixels = epilogue.pixels();
    const int slots = channels / L, stride = ceil_div(pixels, kVisits);
    const int thread = blockIdx.x * kBlock + threadIdx.x;
    const int channel = thread % slots * L, first = thread / slots;
    if (first >= stride) return;
    for (int sample = blockIdx.y; sample < epilogue.batch; sample += gridDim.y) {
        const size_t offset = epilogue.sample_offset(sample) + channel;
        ChannelTerms terms[L];
        Packed<T, L> inputs[kVisits];
#pragma unroll
        for (int visit = 0; visit < kVisits; ++visit) {
            const int pixel = first + visit * stride;
            if (pixel < pixels) inputs[visit].load(x + offset + static_cast<size_t>(pixel) * channels);
        }
        epilogue.terms_of(sample, channel, terms);
#pragma unroll
        for (int visit = 0; visit < kVisits; ++visit) {
            const int pixel = first + visit * stride;
            if (pixel >= pixels) break;
            const float noise = epilogue.noise_at(sample, pixel);
            float values[L];
            inputs[visit].floats(values);
#pragma unroll
            for (int lane = 0; lane < L; ++lane) values[lane] = epilogue(values[lane], terms[lane], noise);
            store_lanes(y + offset + static_cast<size_t>(pixel) * channels, values);
        }
    }
}

// ---- depth-to-space: input channel 4 c + 2 p + q at (i, j) is output channel c at (2 i + p, 2 j + q) ----

// A thread reads L input columns for one output row: two phases that interleave to 2 L neighbours.
template <class T, int L>
__device__ inline void modconv_d2s_nchw(const T* x, const Epilogue& epilogue, T* y) {
    const int channels = epilogue.channels, width = epilogue.width, columns = width / 2;
    const int slots = columns / L, sites = slots * epilogue.height;
    const int stride = ceil_div(channels, kShuffleVisits), source_pixels = epilogue.pixels() / 4;
    const int thread = blockIdx.x * kBlock + threadIdx.x;
    const int site = thread % sites, first = thread / sites;
    if (first >= stride) return;
    const int row = site / slots, column = site % slots * L;
    const int pixel = row * width + 2 * column;
    for (int sample = blockIdx.y; sample < epilogue.batch; sample += gridDim.y) {
        float noise[2 * L];
        epilogue.noise_of(sample, pixel, noise);
#pragma unroll
        for (int visit = 0; visit < kShuffleVisits; ++visit) {
            const int channel = first + visit * stride;
            if (channel >= channels) break;
            const T* source = x + epilogue.sample_offset(sample) + row / 2 * columns + column +
                              (4 * static_cast<size_t>(channel) + 2 * (row % 2)) * source_pixels;
            float phases[2][L], values[2][L];
            load_lanes(source, phases[0]);
            load_lanes(source + source_pixels, phases[1]);
            const ChannelTerms term = epilogue.terms(sample, channel);
#pragma unroll
            for (int k = 0; k < 2 * L; ++k) values[k / L][k % L] = epilogue(phases[k % 2][k / 2], term, noise[k]);
            T* target = y + epilogue.sample_offset(sample) + static_cast<size_t>(channel) * epilogue.pixels() + pixel;
            store_lanes(target, values[0]);
            store_lanes(target + L, values[1]);
        }
    }
}

// A thread computes L output channels of one input pixel: 4 L neighbours, transposed in registers.
template <class T, int L>
__device__ inline void modconv_d2s_nhwc(const T* x, const Epilogue& epilogue, T* y) {
    const int channels = epilogue.channels, columns = epilogue.width / 2;
    const int slots = channels / L;
    const int thread = blockIdx.x * kBlock + threadIdx.x;
    const int channel = thread % slots * L, site = thread / slots;
    if (site >= epilogue.pixels() / 4) return;
    for (int sample = blockIdx.y; sample < epilogue.batch; sample += gridDim.y) {
        const size_t offset = epilogue.sample_offset(sample);
        const T* source = x + offset + (static_cast<size_t>(site) * channels + channel) * 4;
        Packed<T, L> parts[4];  // unpacked phase by phase, because their floats would need twice the registers
#pragma unroll
        for (int part = 0; part < 4; ++part) parts[part].load(source + part * L);
        ChannelTerms terms[L];
        epilogue.terms_of(sample, channel, terms);
        const int corner = site / columns * 2 * epilogue.width + site % columns * 2;
        const float* plane = epilogue.noise_plane(sample);
        float noise[4];
#pragma unroll
        for (int phase = 0; phase < 4; ++phase) {
            noise[phase] = plane ? plane[corner + phase / 2 * epilogue.width + phase % 2] : 0.0f;
        }
#pragma unroll
        for (int phase = 0; phase < 4; ++phase) {
            const int pixel = corner + phase / 2 * epilogue.width + phase % 2;
            float values[L];
#pragma unroll
            for (int lane = 0; lane < L; ++lane) {
                const int flat = 4 * lane + phase;
                values[lane] = epilogue(parts[flat / L].at(flat % L), terms[lane], noise[phase]);
            }
            store_lanes(y + offset + static_cast<size_t>(pixel) * channels + channel, values);
        }
    }
}

// ---- entry points for Python ----

#define MODCONV_FORM(T, tag, form, L)                                                                                 \
    KERNEL(modconv_nchw_##form##_##tag, EPILOGUE_PARAMETERS(T), modconv_nchw<T, L>(EPILOGUE_ARGUMENTS))               \
    KERNEL(modconv_nhwc_##form##_##tag, EPILOGUE_PARAMETERS(T), modconv_nhwc<T, L>(EPILOGUE_ARGUMENTS))               \
    KERNEL(modconv_d2s_nchw_##form##_##tag, EPILOGUE_PARAMETERS(T), modconv_d2s_nchw<T, L>(EPILOGUE_ARGUMENTS))       \
    KERNEL_FOR(kShuffleBlocks, modconv_d2s_nhwc_##form##_##tag, EPILOGUE_PARAMETERS(T),                               \
               modconv_d2s_nhwc<T, L>(EPILOGUE_ARGUMENTS))

#define MODCONV_KERNELS(T, tag)                                                                                       \
    MODCONV_FORM(T, tag, wide, kLanes<T>)                                                                             \
    MODCONV_FORM(T, tag, narrow, 1)                                                                                   \
    KERNEL(modconv_nchw_naive_##tag, EPILOGUE_PARAMETERS(T), modconv_naive<T, false, false>(EPILOGUE_ARGUMENTS))      \
    KERNEL(modconv_nhwc_naive_##tag, EPILOGUE_PARAMETERS(T), modconv_naive<T, true, false>(EPILOGUE_ARGUMENTS))       \
    KERNEL(modconv_d2s_nchw_naive_##tag, EPILOGUE_PARAMETERS(T), modconv_naive<T, false, true>(EPILOGUE_ARGUMENTS))   \
    KERNEL(modconv_d2s_nhwc_naive_##tag, EPILOGUE_PARAMETERS(T), modconv_naive<T, true, true>(EPILOGUE_ARGUMENTS))

MODCONV_KERNELS(float, f32)
MODCONV_KERNELS(Half, f16)
MODCONV_KERNELS(BFloat16, bf16)
