// Modulated 3x3 convolutions on a CPU, tile by tile.
//
// Tiles of 4x4 outputs are transformed (see filters.hpp), multiplied for all input channels at once, kPoints matrix
// products [tiles, inputs] x [inputs, outputs], and transformed back. Features are [H, W, C], channels last, C rounded up
// to whole vectors. Tiles beyond the lower and right edge read zeros, and their outputs there are dropped. The values in the
// added channels have no meaning, but are finite.
#pragma once

#include <cstdlib>

#include "filters.hpp"
#include "threads.hpp"

namespace dcp {

constexpr float kSlope = 0.2f;

// y = lrelu(scale conv(style x) + noise + bias), clamped, for one image. inputs and outputs are rounded up.
struct Layer {
    Index height, width, inputs, outputs;       // of x [height, width, inputs]
    const float *x, *kernels;                   // kernels: from pack()
    const float *style, *scale, *bias, *noise;  // [inputs], [outputs], [outputs], [H, W] of y or null
    float clamp;                                // 0: no clamp
    float* y;

    Lanes epilogue(Lanes value, Index pixel, Index channel) const {
        value = value * load(scale + channel) + load(bias + channel);
        if (noise) value += noise[pixel];
        value = larger(value, kSlope * value);
        return clamp > 0 ? larger(smaller(value, all(clamp)), all(-clamp)) : value;
    }
};

// A convolution of x with one set of filters: a layer has one pass, an up-sampling layer four.
struct Pass {
    Index points;                   // products of a tile
    Index grid_height, grid_width;  // in tiles
    const float* kernels;           // blocks of columns [points, inputs, block]
};

// Tiles along an axis of `size` positions; the last may be partly beyond it.
inline Index tiles_of(Index size) { return (size + kOut - 1) / kOut; }

// The columns of the matrix products in blocks of 1 to kMostVectors vectors, avoiding blocks of one vector.
inline std::vector<Index> blocks(Index columns) {
    std::vector<Index> starts{0};
    while (starts.back() < columns) {
        const Index left = columns - starts.back(), narrow = kWidest - kLanes;
        const bool spare = left == kWidest + kLanes && narrow > kLanes;  // 5 vectors: 3 and 2, not 4 and 1
        starts.push_back(starts.back() + std::min(left, spare ? narrow : kWidest));
    }
    return starts;
}

// Filters of Ty x Tx taps as blocks of columns [kPoints, inputs, block], inputs and columns rounded up. `taps` returns
// the taps of an output and an input.
template <int Ty, int Tx, class Taps>
void pack_filters(Index outputs, Index inputs, const Taps& taps, float* packed) {
    const Index depth = rounded_up(inputs, kLanes);
    const std::vector<Index> starts = blocks(rounded_up(outputs, kLanes));
    float g[Ty * Tx];
    for (size_t block = 0; block + 1 < starts.size(); ++block) {
        const Index columns = starts[block + 1] - starts[block];
        float* to = packed + starts[block] * Filter<Ty, Tx>::kPoints * depth;
        for (Index column = 0; column < columns && starts[block] + column < outputs; ++column)
            for (Index input = 0; input < inputs; ++input) {
                taps(starts[block] + column, input, g);
                Filter<Ty, Tx>::kernel(g, to + input * columns + column, depth * columns);
            }
    }
}

// ---- a pass ----

// Memory kept from call to call.
class Scratch {
public:
    Scratch() = default;
    Scratch(const Scratch&) = delete;
    ~Scratch() { std::free(data_); }

    float* of(Index floats) {
        if (floats > size_) {
            std::free(data_);
            data_ = static_cast<float*>(std::aligned_alloc(64, rounded_up(floats * sizeof(float), 64)));
            size_ = floats;
        }
        return data_;
    }

private:
    float* data_ = nullptr;
    Index size_ = 0;
};

// A part of a pass: some tiles of some blocks of columns.
struct Job {
    const Pass* pass;
    Index first, count, first_block, last_block;  // tiles row by row
};

constexpr Index kFewTiles = 8;  // least tiles per job: with fewer, kernels are read for too few products

// Cuts a pass's tiles in rows `top` to `bottom` of its grid into jobs. With many tiles, a job is some tiles of all columns.
// Its transformed tiles (`space` floats) are read again for every block of columns and should stay in a core's second-level
// cache. Kernels too large for that cache are read again for every job, so jobs are larger then. With few tiles, a job is
// some tiles of one block of columns.
inline void add_jobs(std::vector<Job>& jobs, const Pass& pass, Index top, Index bottom, const Layer& layer, Index threads) {
    const Index first = top * pass.grid_width, count = (std::min(bottom, pass.grid_height) - top) * pass.grid_width;
    const Index column_blocks = static_cast<Index>(blocks(layer.outputs).size()) - 1;
    const bool many = count >= kFewTiles * threads;
    const Index space = pass.points * layer.inputs * layer.outputs < 400000 ? 100000 : 420000;
    const Index most = std::max<Index>(4, space / (pass.points * layer.inputs));
    const Index parts = many ? rounded_up((count + most - 1) / most, threads)  // so that no thread is idle at the end
                             : std::min((count + kFewTiles - 1) / kFewTiles, (threads + column_blocks - 1) / column_blocks);
    for (Index part = 0; part < parts; ++part) {
        const Index begin = count * part / parts, end = count * (part + 1) / parts, step = many ? column_blocks : 1;
        for (Index block = 0; block < column_blocks && end > begin; block += step)
            jobs.push_back({&pass, first + begin, end - begin, block, block + step});
    }
}

// Passes every vector of 4x4 outputs to sink(tile row, tile column, channel, outputs).
template <class F, class Sink>
void run(const Job& job, const Layer& layer, const Sink& sink) {
    static thread_local Scratch scratch;
    const Pass& pass = *job.pass;
    const std::vector<Index> starts = blocks(layer.outputs);
    const Index count = job.count, inputs = layer.inputs;
    float* points = scratch.of(F::kPoints * count * (inputs + kWidest));
    float* products = points + F::kPoints * count * inputs;
    for (Index t = 0; t < count; ++t) {
        const Index row = (job.first + t) / pass.grid_width, column = (job.first + t) % pass.grid_width;
        F::read(layer.x, layer.style, layer.height, layer.width, inputs, row * kOut, column * kOut, points + t * inputs,
                count * inputs);
    }
    for (Index block = job.first_block; block < job.last_block; ++block) {
        const Index columns = starts[block + 1] - starts[block], size = inputs * columns;
        const float* kernel = pass.kernels + starts[block] * F::kPoints * inputs;
        for (Index p = 0; p < F::kPoints; ++p)
            matrix_product(points + p * count * inputs, kernel + p * size, products + p * count * columns, count, inputs,
                           columns, kernel + (p + 1) * size);
        for (Index t = 0; t < count; ++t)
            for (Index k = 0; k < columns; k += kLanes) {
                Lanes out[kOut * kOut];
                F::write(products + t * columns + k, count * columns, out);
                sink((job.first + t) / pass.grid_width, (job.first + t) % pass.grid_width, starts[block] + k, out);
            }
    }
}

// ---- a layer that keeps the size ----

// weight [outputs, inputs, 3, 3] for compute().
inline std::vector<float> pack(const float* weight, Index outputs, Index inputs) {
    std::vector<float> packed(Filter<3, 3>::kPoints * rounded_up(inputs, kLanes) * rounded_up(outputs, kLanes), 0.0f);
    const auto taps = [&](Index output, Index input, float* g) {
        std::copy_n(weight + (output * inputs + input) * 9, 9, g);
    };
    pack_filters<3, 3>(outputs, inputs, taps, packed.data());
    return packed;
}

inline void compute(const Layer& layer, Threads& threads) {
    const Pass pass{Filter<3, 3>::kPoints, tiles_of(layer.height), tiles_of(layer.width), layer.kernels};
    std::vector<Job> jobs;
    add_jobs(jobs, pass, 0, pass.grid_height, layer, threads.count());
    threads.run(static_cast<Index>(jobs.size()), [&](Index job) {
        run<Filter<3, 3>>(jobs[job], layer, [&](Index row, Index column, Index channel, const Lanes* out) {
            const Index rows = std::min(kOut, layer.height - row * kOut);
            const Index columns = std::min(kOut, layer.width - column * kOut);
            for (Index i = 0; i < rows; ++i)
                for (Index j = 0; j < columns; ++j) {
                    const Index pixel = (row * kOut + i) * layer.width + column * kOut + j;
                    store(layer.y + pixel * layer.outputs + channel, layer.epilogue(out[i * kOut + j], pixel, channel));
                }
        });
    });
}

}  // namespace dcp
