// A modulated 3x3 convolution that doubles the size: a transposed convolution of stride 2, then the FIR.
//
// Four passes make the unfiltered image u [2 H + 1, 2 W + 1]. Along an axis, with taps k,
//
//     u[2 n] = x[n - 1] k[2] + x[n] k[0]     two taps, n = 0 ... H
//     u[2 n + 1] = x[n] k[1]                 one tap,  n = 0 ... H - 1
//
// so even rows and columns use F(4, 2) and odd ones F(4, 1): 81 products for 4x4 positions of x, where the transposed
// convolution alone has 144. Then y[i] = 1/4 u[i - 1] + 3/4 u[i] + 3/4 u[i + 1] + 1/4 u[i + 2]
// along both axes, and the epilogue. u is made and filtered in strips; a ring of its rows is kept.
#pragma once

#include "winograd.hpp"

namespace dcp {

constexpr Index kStripFloats = 1 << 20;  // of u: 4 MiB stay in the cache until they are filtered

// Pass 2 p + q makes the rows 2 n + p and columns 2 m + q of u.
using EvenEven = Filter<2, 2>;
using EvenOdd = Filter<2, 1>;
using OddEven = Filter<1, 2>;
using OddOdd = Filter<1, 1>;
constexpr Index kOffsets[] = {  // of the passes' kernels: the points of all passes before
    0,
    EvenEven::kPoints,
    EvenEven::kPoints + EvenOdd::kPoints,
    EvenEven::kPoints + EvenOdd::kPoints + OddEven::kPoints,
    EvenEven::kPoints + EvenOdd::kPoints + OddEven::kPoints + OddOdd::kPoints,
};

// weight [outputs, inputs, 3, 3] for compute_up().
inline std::vector<float> pack_up(const float* weight, Index outputs, Index inputs) {
    const Index size = rounded_up(inputs, kLanes) * rounded_up(outputs, kLanes);
    std::vector<float> packed(kOffsets[4] * size, 0.0f);
    const auto taps = [&](Index ty, Index tx) {
        return [=](Index output, Index input, float* g) {
            const float* k = weight + (output * inputs + input) * 9;
            for (Index i = 0; i < ty; ++i)  // two taps: k[2], k[0]; one: k[1]
                for (Index j = 0; j < tx; ++j) g[i * tx + j] = k[(ty == 2 ? 2 - 2 * i : 1) * 3 + (tx == 2 ? 2 - 2 * j : 1)];
        };
    };
    pack_filters<2, 2>(outputs, inputs, taps(2, 2), packed.data());
    pack_filters<2, 1>(outputs, inputs, taps(2, 1), packed.data() + kOffsets[1] * size);
    pack_filters<1, 2>(outputs, inputs, taps(1, 2), packed.data() + kOffsets[2] * size);
    pack_filters<1, 1>(outputs, inputs, taps(1, 1), packed.data() + kOffsets[3] * size);
    return packed;
}

// The last rows of u, row r at place r modulo `rows`.
struct Ring {
    float* data;
    Index rows, width, channels;  // width: of u

    float* at(Index row) const { return data + row % rows * width * channels; }
};

// Row `row` of y from rows row - 1 to row + 2 of u; rows and columns outside u are zero.
inline void filter_row(const Layer& layer, const Ring& u, Index row) {
    static thread_local Scratch scratch;
    const Index channels = u.channels, floats = u.width * channels, height = 2 * layer.height + 1;
    float* line = scratch.of(floats + 2 * channels);  // a column of zeros on both sides
    std::fill_n(line, channels, 0.0f);
    std::fill_n(line + channels + floats, channels, 0.0f);
    const float *above = u.at(row), *here = above, *below = u.at(row + 1), *next = below;
    const float first = row > 0 ? 0.25f : 0.0f, last = row + 2 < height ? 0.25f : 0.0f;
    if (row > 0) above = u.at(row - 1);
    if (row + 2 < height) next = u.at(row + 2);
    for (Index i = 0; i < floats; i += kLanes) {
        const Lanes sum = 0.75f * (load(here + i) + load(below + i)) + first * load(above + i) + last * load(next + i);
        store(line + channels + i, sum);
    }
    for (Index x = 0; x < 2 * layer.width; ++x)
        for (Index c = 0; c < channels; c += kLanes) {
            const float* at = line + x * channels + c;
            const Lanes near = load(at + channels) + load(at + 2 * channels), far = load(at) + load(at + 3 * channels);
            const Index pixel = row * 2 * layer.width + x;
            store(layer.y + pixel * channels + c, layer.epilogue(0.75f * near + 0.25f * far, pixel, c));
        }
}

// Writes every output of a job of pass 2 p + q to its position in u.
template <class F>
void write_unfiltered(const Job& job, const Layer& layer, const Ring& u, Index p, Index q) {
    run<F>(job, layer, [&](Index row, Index column, Index channel, const Lanes* out) {
        const Index rows = std::min(kOut, layer.height + 1 - p - row * kOut);
        const Index columns = std::min(kOut, layer.width + 1 - q - column * kOut);
        for (Index i = 0; i < rows; ++i) {
            float* line = u.at(2 * (row * kOut + i) + p) + channel;
            for (Index j = 0; j < columns; ++j)
                store(line + (2 * (column * kOut + j) + q) * u.channels, out[i * kOut + j]);
        }
    });
}

inline void compute_up(const Layer& layer, Threads& threads, Scratch& scratch) {
    const Index even_high = tiles_of(layer.height + 1), even_wide = tiles_of(layer.width + 1);
    const Index odd_high = tiles_of(layer.height), odd_wide = tiles_of(layer.width), size = layer.inputs * layer.outputs;
    const Pass passes[4] = {
        {EvenEven::kPoints, even_high, even_wide, layer.kernels},
        {EvenOdd::kPoints, even_high, odd_wide, layer.kernels + kOffsets[1] * size},
        {OddEven::kPoints, odd_high, even_wide, layer.kernels + kOffsets[2] * size},
        {OddOdd::kPoints, odd_high, odd_wide, layer.kernels + kOffsets[3] * size},
    };
    const Index u_width = 2 * layer.width + 1, u_height = 2 * layer.height + 1;
    const Index strip = std::max<Index>(1, kStripFloats / (2 * kOut * u_width * layer.outputs));
    const Index rows = std::min(2 * kOut * strip + 4, u_height);  // the strip's and three before it
    const Ring u{scratch.of(rows * u_width * layer.outputs), rows, u_width, layer.outputs};
    Index done = 0;
    for (Index top = 0; top < even_high; top += strip) {
        std::vector<Job> jobs;
        for (const Pass& pass : passes) add_jobs(jobs, pass, top, top + strip, layer, threads.count());
        threads.run(static_cast<Index>(jobs.size()), [&](Index number) {
            const Job& job = jobs[number];
            switch (job.pass - passes) {
                case 0: return write_unfiltered<EvenEven>(job, layer, u, 0, 0);
                case 1: return write_unfiltered<EvenOdd>(job, layer, u, 0, 1);
                case 2: return write_unfiltered<OddEven>(job, layer, u, 1, 0);
                default: return write_unfiltered<OddOdd>(job, layer, u, 1, 1);
            }
        });
        const Index made = std::min(2 * kOut * (top + strip), u_height);
        const Index end = made == u_height ? u_height - 1 : made - 2;
        threads.run(end - done, [&](Index row) { filter_row(layer, u, done + row); });
        done = end;
    }
}

}  // namespace dcp
