// toRGB on a CPU: a 1x1 modulated convolution, added to the image so far at twice its size.
#pragma once

#include <cstdint>

#include "threads.hpp"
#include "vectors.hpp"

namespace dcp {

constexpr Index kColours = 3;

// image = clamp((styles weight) x + bias) + up-sampled skip, for one image.
struct Colours {
    Index height, width, inputs;  // of x [height, width, inputs]; inputs rounded up
    const float *x, *kernel;      // kernel: from colour_kernel()
    const float *bias, *skip;     // [3]; [3, height / 2, width / 2] or null
    float clamp;                  // 0: no clamp
    float* image;                 // [3, height, width], or null
    uint8_t* bytes;               // [height, width, 3] instead of image: clip(127.5 v + 128, 0, 255), truncated
};

// styles [inputs] times weight [3, inputs] as [inputs, one vector], so that a pixel's colours are a row of a product.
inline std::vector<float> colour_kernel(const float* styles, const float* weight, Index inputs) {
    std::vector<float> kernel(rounded_up(inputs, kLanes) * kLanes, 0.0f);
    for (Index i = 0; i < inputs; ++i)
        for (Index c = 0; c < kColours; ++c) kernel[i * kLanes + c] = styles[i] * weight[c * inputs + i];
    return kernel;
}

// Row `row` of the skip image [3, H / 2, W / 2] at twice its size, [3, width], by the FIR 1 3 3 1 along both axes: a
// pixel is 3/4 of the one that contains it and 1/4 of the next nearest; outside the edge are zeros.
inline void enlarged_row(const Colours& colours, Index row, float* out) {
    const Index height = colours.height / 2, width = colours.width / 2;
    const Index near = row / 2, far = row % 2 ? near + 1 : near - 1;
    std::vector<float> line(width + 2, 0.0f);  // a zero on either side
    for (Index c = 0; c < kColours; ++c) {
        const float* plane = colours.skip + c * height * width;
        for (Index x = 0; x < width; ++x) {
            const float other = far >= 0 && far < height ? plane[far * width + x] : 0.0f;
            line[x + 1] = 0.75f * plane[near * width + x] + 0.25f * other;
        }
        for (Index x = 0; x < width; ++x) {
            out[c * colours.width + 2 * x] = 0.75f * line[x + 1] + 0.25f * line[x];
            out[c * colours.width + 2 * x + 1] = 0.75f * line[x + 1] + 0.25f * line[x + 2];
        }
    }
}

inline void compute(const Colours& colours, Threads& threads) {
    threads.run(colours.height, [&](Index row) {
        const Index width = colours.width;
        std::vector<float> sums(width * kLanes), before(colours.skip ? kColours * width : 0);
        const float* x = colours.x + row * width * colours.inputs;
        matrix_product(x, colours.kernel, sums.data(), width, colours.inputs, kLanes, colours.kernel);
        if (colours.skip) enlarged_row(colours, row, before.data());
        for (Index c = 0; c < kColours; ++c)
            for (Index i = 0; i < width; ++i) {
                float value = sums[i * kLanes + c] + colours.bias[c];
                if (colours.clamp > 0) value = std::min(std::max(value, -colours.clamp), colours.clamp);
                if (colours.skip) value += before[c * width + i];
                const float step = std::min(std::max(127.5f * value + 128.0f, 0.0f), 255.0f);
                if (colours.bytes) colours.bytes[(row * width + i) * kColours + c] = static_cast<uint8_t>(step);
                else colours.image[(c * colours.height + row) * width + i] = value;
            }
    });
}

}  // namespace dcp
