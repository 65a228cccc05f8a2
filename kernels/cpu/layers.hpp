// The operators for their callers: whole batches, the layer's own widths, features [B, H, W, C rounded up].
#pragma once

#include <map>

#include "to_rgb.hpp"
#include "upsampling.hpp"

namespace dcp {

// A batch of 1 is used for every image: x of the constant input, constant noise.
struct ModulatedConv {
    Index batch, x_batch, noise_batch, height, width, inputs, outputs, up, threads;
    const float *x, *packed, *style, *scale, *bias, *noise;  // style [B, inputs], scale [B, outputs]; noise may be null
    float clamp;
    float* y;
};

struct ToRGB {
    Index batch, height, width, inputs, threads;
    const float *x, *styles, *weight, *bias, *skip;  // styles [B, inputs], weight [3, inputs]; skip may be null
    float clamp;
    float* image;
    uint8_t* bytes;
};

struct Workers {
    std::mutex turn;  // held while a layer is computed; callers take turns
    Threads threads;
    Scratch scratch;

    explicit Workers(Index count) : threads(count) {}
};

// The `count` threads of the process (0: one for each core), made at the first call and kept.
inline Workers& workers_of(Index count) {
    static std::mutex mutex;
    static auto& all = *new std::map<Index, Workers>();  // never destroyed, so no thread ends during a call
    const std::lock_guard<std::mutex> lock(mutex);
    if (count < 1) count = std::max(1u, std::thread::hardware_concurrency());
    return all.try_emplace(count, count).first->second;
}

inline void run(const ModulatedConv& call) {
    Workers& workers = workers_of(call.threads);
    const std::lock_guard<std::mutex> turn(workers.turn);
    const Index grow = call.up ? 2 : 1, pixels = call.height * call.width;
    const Index inputs = rounded_up(call.inputs, kLanes), outputs = rounded_up(call.outputs, kLanes);
    const std::vector<float> bias = padded(call.bias, call.outputs);
    for (Index b = 0; b < call.batch; ++b) {
        const std::vector<float> style = padded(call.style + b * call.inputs, call.inputs);
        const std::vector<float> scale = padded(call.scale + b * call.outputs, call.outputs);
        Layer layer{};
        layer.height = call.height, layer.width = call.width, layer.inputs = inputs, layer.outputs = outputs;
        layer.kernels = call.packed, layer.clamp = call.clamp;
        layer.x = call.x + (call.x_batch > 1 ? b * pixels * inputs : 0);
        layer.style = style.data(), layer.scale = scale.data(), layer.bias = bias.data();
        layer.noise = call.noise ? call.noise + (call.noise_batch > 1 ? b * pixels * grow * grow : 0) : nullptr;
        layer.y = call.y + b * pixels * grow * grow * outputs;
        if (call.up) compute_up(layer, workers.threads, workers.scratch);
        else compute(layer, workers.threads);
    }
}

inline void run(const ToRGB& call) {
    Workers& workers = workers_of(call.threads);
    const std::lock_guard<std::mutex> turn(workers.turn);
    const Index inputs = rounded_up(call.inputs, kLanes), pixels = call.height * call.width;
    for (Index b = 0; b < call.batch; ++b) {
        const std::vector<float> kernel = colour_kernel(call.styles + b * call.inputs, call.weight, call.inputs);
        Colours colours{};
        colours.height = call.height, colours.width = call.width, colours.inputs = inputs;
        colours.x = call.x + b * pixels * inputs, colours.kernel = kernel.data(), colours.bias = call.bias;
        colours.skip = call.skip ? call.skip + b * kColours * pixels / 4 : nullptr;
        colours.clamp = call.clamp;
        colours.image = call.image ? call.image + b * kColours * pixels : nullptr;
        colours.bytes = call.bytes ? call.bytes + b * kColours * pixels : nullptr;
        compute(colours, workers.threads);
    }
}

}  // namespace dcp
