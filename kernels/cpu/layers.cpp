// The operators' C interface, for OpenVINO's operators in Python and for tests.
#include "layers.hpp"

extern "C" {

dcp::Index dcp_lanes() { return dcp::kLanes; }

// Starts the threads now: a thread inherits the cores of its creator, which a runtime may later pin to one.
void dcp_start(dcp::Index threads) { dcp::workers_of(threads); }

dcp::Index dcp_packed_floats(dcp::Index outputs, dcp::Index inputs, dcp::Index up) {
    const dcp::Index points = up ? dcp::kOffsets[4] : dcp::Filter<3, 3>::kPoints;
    return points * dcp::rounded_up(inputs, dcp::kLanes) * dcp::rounded_up(outputs, dcp::kLanes);
}

void dcp_pack(const float* weight, dcp::Index outputs, dcp::Index inputs, dcp::Index up, float* packed) {
    const std::vector<float> made = (up ? dcp::pack_up : dcp::pack)(weight, outputs, inputs);
    std::copy(made.begin(), made.end(), packed);
}

void dcp_modulated_conv(const dcp::ModulatedConv* call) { dcp::run(*call); }

void dcp_to_rgb(const dcp::ToRGB* call) { dcp::run(*call); }
}
