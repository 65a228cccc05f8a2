// CUDA's keywords for a host compiler, enough to run the kernels of kernels/cuda/*.cu, one block after another.
//
// The threads of a block are fibers on one core. A fiber runs until it waits for others (__syncthreads, a warp shuffle)
// or ends; the scheduler continues only when all threads that the hardware would wait for have arrived, and reports an
// error if some never can: a barrier that part of a block skips is undefined on a GPU and an error here. Between two
// barriers fibers run in a chosen order (ascending, descending, even ones first), so a missing barrier shows as a result
// that depends on the order. Shared memory is static: a block finds the previous block's values there, as on a GPU.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __device__
#define __global__
#define __shared__ static
#define __restrict__ __restrict
// Only these are visible from outside, the rest is hidden. Else all libraries in the process would share one copy
// of each inline variable and of each template's static array (GNU's unique symbols), whose sizes may differ by library.
#define EXPORTED extern "C" __attribute__((visibility("default")))
#define KERNEL_FOR(blocks, name, parameters, ...) \
    EXPORTED const char* name parameters { return emulator::run([&] { __VA_ARGS__; }); }

struct Index3 {
    unsigned x = 0, y = 0, z = 0;
};

inline Index3 gridDim, blockDim, blockIdx, threadIdx;

namespace emulator {

constexpr unsigned kWarp = 32;
constexpr size_t kStack = 128 * 1024;

enum class State { ready, at_block_barrier, at_warp_barrier, done };
enum Order { ascending = 0, descending = 1, evens_first = 2 };

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[kStack]};
    State state = State::done;
    unsigned shuffles = 0;
};

inline std::vector<Fiber> fibers;
inline std::vector<float> lanes;  // each thread's value for a shuffle: two sets, for even and odd shuffles
inline ucontext_t scheduler;
inline std::function<void()> body;
inline int order = ascending;

template <class To, class From>
To cast(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To result;
    std::memcpy(&result, &value, sizeof(To));
    return result;
}

inline float half_to_float(unsigned short bits) { return static_cast<float>(cast<_Float16>(bits)); }

inline unsigned short float_to_half(float value) {
    return cast<unsigned short>(static_cast<_Float16>(value));
}

// ---- fibers ----

// AddressSanitizer must know which stack is in use.
inline void announce_switch([[maybe_unused]] const void* stack, [[maybe_unused]] size_t size,
                            [[maybe_unused]] void** keep) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(keep, stack, size);
#endif
}

inline void confirm_switch([[maybe_unused]] void* kept, [[maybe_unused]] const void** stack,
                           [[maybe_unused]] size_t* size) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(kept, stack, size);
#endif
}

inline const void* scheduler_stack = nullptr;
inline size_t scheduler_stack_size = 0;

inline void wait(State state) {
    Fiber& fiber = fibers[threadIdx.x];
    const Index3 self = threadIdx;
    fiber.state = state;
    void* kept = nullptr;
    announce_switch(scheduler_stack, scheduler_stack_size, &kept);
    swapcontext(&fiber.context, &scheduler);
    confirm_switch(kept, &scheduler_stack, &scheduler_stack_size);
    threadIdx = self;
}

// A fiber is reused for a thread of each block, because making a context costs more than most threads.
inline void fiber_main() {
    confirm_switch(nullptr, &scheduler_stack, &scheduler_stack_size);
    for (;;) {
        body();
        wait(State::done);
    }
}

inline void create_fibers(unsigned count) {
    fibers = std::vector<Fiber>(count);
    for (Fiber& fiber : fibers) {
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = kStack;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, fiber_main, 0);
    }
}

inline void resume(unsigned thread) {
    threadIdx.x = thread;
    void* kept = nullptr;
    announce_switch(fibers[thread].stack.get(), kStack, &kept);
    swapcontext(&scheduler, &fibers[thread].context);
    confirm_switch(kept, nullptr, nullptr);
}

// ---- one block ----

inline unsigned in_order(unsigned step, unsigned count) {
    if (order == descending) return count - 1 - step;
    if (order == evens_first) return 2 * step < count ? 2 * step : 2 * (step - (count + 1) / 2) + 1;
    return step;
}

// Whether all of [first, last) wait at one barrier; then they may continue.
inline bool release(unsigned first, unsigned last, State barrier) {
    for (unsigned thread = first; thread < last; ++thread) {
        if (fibers[thread].state != barrier) return false;
    }
    for (unsigned thread = first; thread < last; ++thread) fibers[thread].state = State::ready;
    return true;
}

// Returns null if the block ran to its end.
inline const char* run_block() {
    const unsigned count = blockDim.x;
    for (Fiber& fiber : fibers) fiber.state = State::ready;
    for (;;) {
        unsigned done = 0;
        for (unsigned step = 0; step < count; ++step) {
            const unsigned thread = in_order(step, count);
            if (fibers[thread].state == State::ready) resume(thread);
        }
        for (unsigned thread = 0; thread < count; ++thread) done += fibers[thread].state == State::done;
        if (done == count) return nullptr;
        bool released = release(0, count, State::at_block_barrier);
        for (unsigned first = 0; first < count; first += kWarp) {
            released |= release(first, first + kWarp, State::at_warp_barrier);
        }
        if (!released) return "deadlock: some threads wait at a barrier that others never reach";
    }
}

inline const char* run(const std::function<void()>& kernel) {
    if (blockDim.x % kWarp != 0 || blockDim.y != 1 || blockDim.z != 1) return "blocks are rows of whole warps here";
    if (fibers.size() != blockDim.x) create_fibers(blockDim.x);
    lanes.assign(2 * blockDim.x, 0.0f);
    body = kernel;
    for (unsigned y = 0; y < gridDim.y; ++y) {
        for (unsigned x = 0; x < gridDim.x; ++x) {
            blockIdx = {in_order(x, gridDim.x), y, 0};
            if (const char* problem = run_block()) {
                fibers.clear();  // they are stuck in the kernel
                return problem;
            }
        }
    }
    return nullptr;
}

}  // namespace emulator

// ---- called by kernels ----

inline float rsqrtf(float value) { return 1.0f / std::sqrt(value); }

inline void __syncthreads() { emulator::wait(emulator::State::at_block_barrier); }

inline void __syncwarp() { emulator::wait(emulator::State::at_warp_barrier); }

// All lanes must take part: the mask is always full in these kernels.
inline float __shfl_xor_sync(unsigned, float value, int lane_mask) {
    // A lane may write its next value before others read this one, but not the one after: so two sets are enough.
    float* set = emulator::lanes.data() + emulator::fibers[threadIdx.x].shuffles++ % 2 * blockDim.x;
    set[threadIdx.x] = value;
    emulator::wait(emulator::State::at_warp_barrier);
    return set[threadIdx.x ^ static_cast<unsigned>(lane_mask)];
}

// ---- called by tests before a kernel ----

EXPORTED void emulator_shape(unsigned grid_x, unsigned grid_y, unsigned block_x, int order) {
    gridDim = {grid_x, grid_y, 1};
    blockDim = {block_x, 1, 1};
    emulator::order = order;
}
