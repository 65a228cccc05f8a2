// Winograd's minimal filters with four outputs: F(4, 3), F(4, 2) and, for symmetry, F(4, 1).
//
// Winograd 1980, "Arithmetic Complexity of Computations"; Lavin & Gray 2015, "Fast Algorithms for Convolutional Neural
// Networks". Outputs y[m] = sum_k g[k] d[m + k], m = 0 ... 3, of the values d and the taps g:
//
//     y = A' [(G g) .* (B' d)]
//
// A two-dimensional filter applies each matrix along both axes: 4x4 outputs of 3x3 taps need 36 products, not 144.
#pragma once

#include "vectors.hpp"

namespace dcp {

constexpr Index kOut = 4;

// kPoints: number of inputs of four outputs, and of products. kFirst: position of the first input relative to the first
// output. input is B', output A', each on vectors `step` apart.
template <int Taps>
struct Axis;

// The points 0, 1, -1, 2, -2 and infinity.
template <>
struct Axis<3> {
    static constexpr Index kPoints = 6, kFirst = -1;
    static constexpr double kG[6][3] = {{1. / 4, 0, 0},
                                        {-1. / 6, -1. / 6, -1. / 6},
                                        {-1. / 6, 1. / 6, -1. / 6},
                                        {1. / 24, 1. / 12, 1. / 6},
                                        {1. / 24, -1. / 12, 1. / 6},
                                        {0, 0, 1}};

    static void input(const Lanes* d, Lanes* out, Index step) {
        const Lanes d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
        const Lanes even = d4 - 4 * d2, odd = d3 - 4 * d1, even2 = d4 - d2, odd2 = 2 * (d3 - d1);
        out[0] = 4 * d0 - 5 * d2 + d4;
        out[step] = even + odd;
        out[2 * step] = even - odd;
        out[3 * step] = even2 + odd2;
        out[4 * step] = even2 - odd2;
        out[5 * step] = 4 * d1 - 5 * d3 + d5;
    }

    static void output(const Lanes* m, Lanes* out, Index step) {
        const Lanes sum1 = m[step] + m[2 * step], difference1 = m[step] - m[2 * step];
        const Lanes sum2 = m[3 * step] + m[4 * step], difference2 = m[3 * step] - m[4 * step];
        out[0] = m[0] + sum1 + sum2;
        out[step] = difference1 + 2 * difference2;
        out[2 * step] = sum1 + 4 * sum2;
        out[3 * step] = difference1 + 8 * difference2 + m[5 * step];
    }
};

// The points 0, 1, -1, 2 and infinity. B' has the coefficients of the products of (x - other points), and of x (x - 1)
// (x + 1) (x - 2); the denominators of Lagrange's formula are in G.
template <>
struct Axis<2> {
    static constexpr Index kPoints = 5, kFirst = -1;
    static constexpr double kG[5][2] = {{1. / 2, 0}, {-1. / 2, -1. / 2}, {-1. / 6, 1. / 6}, {1. / 6, 1. / 3}, {0, 1}};

    static void input(const Lanes* d, Lanes* out, Index step) {
        const Lanes d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step];
        const Lanes odd = d3 - d1;
        out[0] = 2 * (d0 - d2) + odd;
        out[step] = d3 - d2 - 2 * d1;
        out[2 * step] = d3 - 3 * d2 + 2 * d1;
        out[3 * step] = odd;
        out[4 * step] = d4 - d2 - 2 * odd;
    }

    static void output(const Lanes* m, Lanes* out, Index step) {
        const Lanes sum = m[step] + m[2 * step], difference = m[step] - m[2 * step], two = m[3 * step];
        out[0] = m[0] + sum + two;
        out[step] = difference + 2 * two;
        out[2 * step] = sum + 4 * two;
        out[3 * step] = difference + 8 * two + m[4 * step];
    }
};

// One tap: no multiplication to save.
template <>
struct Axis<1> {
    static constexpr Index kPoints = 4, kFirst = 0;
    static constexpr double kG[4][1] = {{1}, {1}, {1}, {1}};

    static void input(const Lanes* d, Lanes* out, Index step) {
        for (Index i = 0; i < kPoints; ++i) out[i * step] = d[i * step];
    }

    static void output(const Lanes* m, Lanes* out, Index step) { input(m, out, step); }
};

// The transforms of a filter of Ty x Tx taps on tiles. Features are [height, width, inputs] times style [inputs].
template <int Ty, int Tx>
struct Filter {
    using Y = Axis<Ty>;
    using X = Axis<Tx>;
    static constexpr Index kPoints = Y::kPoints * X::kPoints;

    // G g G' of taps g [Ty, Tx], kPoints numbers `stride` apart.
    static void kernel(const float* g, float* out, Index stride) {
        for (Index i = 0; i < Y::kPoints; ++i)
            for (Index j = 0; j < X::kPoints; ++j) {
                double sum = 0;
                for (Index k = 0; k < Ty * Tx; ++k) sum += Y::kG[i][k / Tx] * g[k] * X::kG[j][k % Tx];
                out[(i * X::kPoints + j) * stride] = static_cast<float>(sum);
            }
    }

    // B' d B of the tile whose first output is (top, left), kPoints rows of `inputs` floats `stride` apart.
    static void read(const float* x, const float* style, Index height, Index width, Index inputs, Index top, Index left,
                     float* out, Index stride) {
        top += Y::kFirst, left += X::kFirst;
        const bool inside = top >= 0 && left >= 0 && top + Y::kPoints <= height && left + X::kPoints <= width;
        const float* corner = x + (top * width + left) * inputs;
        for (Index c = 0; c < inputs; c += kLanes) {
            const Lanes factor = load(style + c);
            Lanes d[kPoints], half[kPoints];
            for (Index i = 0; i < Y::kPoints; ++i)
                for (Index j = 0; j < X::kPoints; ++j) {
                    const bool there = inside || (top + i >= 0 && top + i < height && left + j >= 0 && left + j < width);
                    d[i * X::kPoints + j] = there ? load(corner + (i * width + j) * inputs + c) * factor : Lanes{};
                }
            for (Index j = 0; j < X::kPoints; ++j) Y::input(d + j, half + j, X::kPoints);
            for (Index i = 0; i < Y::kPoints; ++i) X::input(half + i * X::kPoints, d + i * X::kPoints, 1);
            for (Index p = 0; p < kPoints; ++p) store(out + p * stride + c, d[p]);
        }
    }

    // A' m A: a vector of 4x4 outputs of kPoints products `stride` apart.
    static void write(const float* products, Index stride, Lanes* out) {
        Lanes m[kPoints], half[kOut * X::kPoints], row[X::kPoints];
        for (Index p = 0; p < kPoints; ++p) m[p] = load(products + p * stride);
        for (Index j = 0; j < X::kPoints; ++j) Y::output(m + j, half + j, X::kPoints);
        for (Index i = 0; i < kOut; ++i) {
            X::output(half + i * X::kPoints, row, 1);
            for (Index j = 0; j < kOut; ++j) out[i * kOut + j] = row[j];
        }
    }
};

}  // namespace dcp
