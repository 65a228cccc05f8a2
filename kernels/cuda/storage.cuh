// Storage types and 16-byte accesses. Everything is stored as T and computed in float.
//
// A kernel is compiled in three ways: NVRTC and nvcc make PTX and cubin, and a host compiler makes the emulated version
// that the tests compare with torch (tests/kernels/emulator.hpp defines the CUDA keywords). No CUDA header is included,
// so the NVRTC library alone is enough.
#pragma once

#if defined(__CUDACC__)
#define KERNEL_FOR(blocks, name, parameters, ...) \
    extern "C" __global__ void __launch_bounds__(kBlock, blocks) name parameters { __VA_ARGS__; }
#else
#include "emulator.hpp"
#endif

// KERNEL_FOR: with that many blocks per multiprocessor at least.
#define KERNEL(name, parameters, ...) KERNEL_FOR(kBlocks, name, parameters, __VA_ARGS__)

constexpr int kBlock = 256;  // threads per block of every kernel; calls.py launches with the same number
constexpr int kBlocks = 2;   // least blocks per multiprocessor: allows 128 registers per thread, enough to avoid spills

struct Half {
    unsigned short bits;
};

struct BFloat16 {
    unsigned short bits;
};

// ---- one element ----

__device__ inline float bits_to_float(unsigned bits) {
#if defined(__CUDACC__)
    return __uint_as_float(bits);
#else
    return emulator::cast<float>(bits);
#endif
}

__device__ inline unsigned float_to_bits(float value) {
#if defined(__CUDACC__)
    return __float_as_uint(value);
#else
    return emulator::cast<unsigned>(value);
#endif
}

__device__ inline float to_float(float value) { return value; }

__device__ inline float to_float(BFloat16 value) { return bits_to_float(static_cast<unsigned>(value.bits) << 16); }

__device__ inline float to_float(Half value) {
#if defined(__CUDACC__)
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
    return wide;
#else
    return emulator::half_to_float(value.bits);
#endif
}

__device__ inline void from_float(float value, float& stored) { stored = value; }

// Rounds to nearest, ties to even, as torch does; overflow gives infinity.
__device__ inline void from_float(float value, Half& stored) {
#if defined(__CUDACC__)
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(stored.bits) : "f"(value));
#else
    stored.bits = emulator::float_to_half(value);
#endif
}

// Uses integers, because sm75 has no instruction for it: adds half a unit of the last kept place, minus one if even.
// NaN is handled apart, because the sum could carry into its sign.
__device__ inline void from_float(float value, BFloat16& stored) {
    const unsigned bits = float_to_bits(value);
    const unsigned rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    stored.bits = static_cast<unsigned short>(value == value ? rounded >> 16 : 0x7fc0u);
}

// ---- 16 bytes at once ----

template <class T>
constexpr int kLanes = 16 / static_cast<int>(sizeof(T));

struct alignas(16) Words {
    unsigned word[4];
};

// A word holds one float or two 16-bit neighbours. From sm80 on one instruction rounds a pair.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define ROUNDS_PAIRS
#endif

__device__ inline void unpack(unsigned word, Half, float& low, float& high) {
#if defined(__CUDACC__)
    asm("{ .reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h; }"
        : "=f"(low), "=f"(high)
        : "r"(word));
#else
    low = to_float(Half{static_cast<unsigned short>(word)});
    high = to_float(Half{static_cast<unsigned short>(word >> 16)});
#endif
}

__device__ inline void unpack(unsigned word, BFloat16, float& low, float& high) {
    low = bits_to_float(word << 16);
    high = bits_to_float(word & 0xffff0000u);
}

template <class T>
__device__ inline unsigned pack(T, float low, float high) {
    T first, second;
    from_float(low, first);
    from_float(high, second);
    return first.bits | static_cast<unsigned>(second.bits) << 16;
}

#if defined(ROUNDS_PAIRS)
__device__ inline unsigned pack(Half, float low, float high) {
    unsigned word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

__device__ inline unsigned pack(BFloat16, float low, float high) {
    unsigned word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}
#endif

template <class T, int L>
__device__ inline void unpack(const Words& words, float (&values)[L]) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        if constexpr (L == 4) {
            values[k] = bits_to_float(words.word[k]);
        } else {
            unpack(words.word[k], T{}, values[2 * k], values[2 * k + 1]);
        }
    }
}

template <class T, int L>
__device__ inline void pack(const float (&values)[L], Words& words) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        if constexpr (L == 4) {
            words.word[k] = float_to_bits(values[k]);
        } else {
            words.word[k] = pack(T{}, values[2 * k], values[2 * k + 1]);
        }
    }
}

// L neighbours as floats: kLanes in one 16-byte access, or a single one. Kernels exist for both. The wide variant needs
// rows that start at multiples of 16 bytes and hold whole groups, which the caller checks; the narrow variant takes any
// shape. So neither handles tails, and neighbouring threads access neighbouring memory in both.
//
// A Packed is what is read or written; 16-bit types need half the registers of floats.
template <class T, int L>
struct Packed {
    static_assert(L == kLanes<T>, "one element or sixteen bytes");
    Words words;

    __device__ void load(const T* from) { words = *reinterpret_cast<const Words*>(from); }
    __device__ void store(T* to) const { *reinterpret_cast<Words*>(to) = words; }
    __device__ void clear() { words = Words{}; }
    __device__ void floats(float (&values)[L]) const { unpack<T>(words, values); }

    // The k-th element, for k known at compile time.
    __device__ float at(int k) const {
        if constexpr (L == 4) {
            return bits_to_float(words.word[k]);
        } else {
            float low, high;
            unpack(words.word[k / 2], T{}, low, high);
            return k % 2 ? high : low;
        }
    }

    __device__ void round(const float (&values)[L]) { pack<T>(values, words); }
};

template <class T>
struct Packed<T, 1> {
    T element;

    __device__ void load(const T* from) { element = *from; }
    __device__ void store(T* to) const { *to = element; }
    __device__ void clear() { element = T{}; }
    __device__ void floats(float (&values)[1]) const { values[0] = to_float(element); }
    __device__ float at(int) const { return to_float(element); }
    __device__ void round(const float (&values)[1]) { from_float(values[0], element); }
};

template <class T, int L>
__device__ inline void load_lanes(const T* from, float (&values)[L]) {
    Packed<T, L> packed;
    packed.load(from);
    packed.floats(values);
}

template <class T, int L>
__device__ inline void store_lanes(T* to, const float (&values)[L]) {
    Packed<T, L> packed;
    packed.round(values);
    packed.store(to);
}

// N neighbours of a float array, four at a time where N allows. The wide variants need a 16-byte address for it too.
template <int N>
__device__ inline void load_floats(const float* from, float (&values)[N]) {
    if constexpr (N == kLanes<float>) {
        load_lanes(from, values);
    } else if constexpr (N % kLanes<float> == 0) {
#pragma unroll
        for (int first = 0; first < N; first += kLanes<float>) {
            float part[kLanes<float>];
            load_lanes(from + first, part);
#pragma unroll
            for (int lane = 0; lane < kLanes<float>; ++lane) values[first + lane] = part[lane];
        }
    } else {
#pragma unroll
        for (int lane = 0; lane < N; ++lane) values[lane] = from[lane];
    }
}

// ---- arithmetic that all kernels share ----

__device__ inline int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Symmetric; NaN passes through as in torch.clamp, while fminf and fmaxf would hide it.
__device__ inline float clamped(float value, float limit) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("min.NaN.f32 %0, %0, %1; max.NaN.f32 %0, %0, %2;" : "+f"(value) : "f"(limit), "f"(-limit));
    return value;
#else
    return value > limit ? limit : (value < -limit ? -limit : value);
#endif
}
