// Vectors of floats, as wide as on the target machine, and matrix products of them.
//
// They use the vector extension of GCC and Clang, so the same source works for SSE2, AVX2, AVX-512 and NEON.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace dcp {

using Index = std::ptrdiff_t;

#if defined(__AVX512F__)
constexpr Index kLanes = 16;
constexpr Index kMostVectors = 4;  // per row of accumulators; 32 registers
#elif defined(__AVX__)
constexpr Index kLanes = 8;
constexpr Index kMostVectors = 2;  // 16 registers
#elif defined(__aarch64__)
constexpr Index kLanes = 4;
constexpr Index kMostVectors = 4;  // 32 registers
#else
constexpr Index kLanes = 4;
constexpr Index kMostVectors = 2;
#endif
constexpr Index kWidest = kMostVectors * kLanes;

typedef float Lanes __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline Lanes load(const float* p) { return *reinterpret_cast<const Lanes*>(p); }
inline void store(float* p, Lanes v) { *reinterpret_cast<Lanes*>(p) = v; }
inline Lanes all(float value) { return value - Lanes{}; }  // a plain broadcast: x - 0 is x, while x + 0 is not for -0
inline Lanes larger(Lanes a, Lanes b) { return a > b ? a : b; }
inline Lanes smaller(Lanes a, Lanes b) { return a < b ? a : b; }

inline Index rounded_up(Index value, Index step) { return (value + step - 1) / step * step; }

// `count` values, then zeros up to whole vectors.
inline std::vector<float> padded(const float* values, Index count) {
    std::vector<float> result(rounded_up(count, kLanes), 0.0f);
    std::copy(values, values + count, result.begin());
    return result;
}

// c [R, C lanes] = a [R, depth] b [depth, C lanes]; the accumulators stay in registers. Meanwhile it prefetches `ahead`,
// one cache line per step, because the next operand is in slow shared memory.
template <int R, int C>
inline void product(const float* a, const float* b, float* c, Index depth, const float* ahead) {
    Lanes sums[R][C] = {};
    for (Index k = 0; k < depth; ++k) {
        Lanes row[C];
        __builtin_prefetch(ahead + k * 16, 0, 2);
#pragma GCC unroll 16
        for (int j = 0; j < C; ++j) row[j] = load(b + (k * C + j) * kLanes);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const Lanes factor = all(a[r * depth + k]);
#pragma GCC unroll 16
            for (int j = 0; j < C; ++j) sums[r][j] += factor * row[j];
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int j = 0; j < C; ++j) store(c + (r * C + j) * kLanes, sums[r][j]);
}

template <int R, int C>
inline void product_rows(const float* a, const float* b, float* c, Index rows, Index depth, const float* ahead) {
    const Index lines = depth * C * kLanes / 16, row = C * kLanes;
    Index r = 0, fetched = 0;
    for (; r + R <= rows; r += R, fetched += depth)
        product<R, C>(a + r * depth, b, c + r * row, depth, fetched < lines ? ahead + fetched * 16 : b);
    for (; r + 2 <= rows; r += 2) product<2, C>(a + r * depth, b, c + r * row, depth, b);
    for (; r < rows; ++r) product<1, C>(a + r * depth, b, c + r * row, depth, b);
}

// c [rows, columns] = a [rows, depth] b [depth, columns], columns 1 to kMostVectors vectors. It computes as many
// rows at a time as there are registers for accumulators.
inline void matrix_product(const float* a, const float* b, float* c, Index rows, Index depth, Index columns,
                           const float* ahead) {
    constexpr bool many = kMostVectors == 4;  // registers: 32, or 16
    switch (columns / kLanes) {
        case 4: return product_rows<many ? 6 : 1, 4>(a, b, c, rows, depth, ahead);
        case 3: return product_rows<many ? 8 : 3, 3>(a, b, c, rows, depth, ahead);
        case 2: return product_rows<many ? 12 : 5, 2>(a, b, c, rows, depth, ahead);
        default: return product_rows<many ? 14 : 10, 1>(a, b, c, rows, depth, ahead);
    }
}

}  // namespace dcp
