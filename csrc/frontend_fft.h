// A complex FFT by a group of lanes, 8 points each, in functions that build for the GPU and for the
// host.
//
// Stockham's autosorting passes (Govindaraju et al. 2008) of radix 8, and a last one of 2, 4 or 8:
// 256 points are 8 * 8 * 4. Between two passes the points cross the lanes through shared memory.
// Element a lies in slot a ^ f(a >> 4), where f makes the 16 lanes whose 8-byte accesses are served
// at once hit 16 different pairs of banks: in reads (neighbours), in the first pass's writes
// (a = 8 lane + i) and in the second's (a = 64 (lane / 8) + lane % 8 + 8 i). No padding is needed.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace fusion_engine {

struct alignas(8) Complex {
    float re;
    float im;
};

FUSION_HD Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
FUSION_HD Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
FUSION_HD Complex operator*(Complex a, Complex b) {
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

FUSION_HD Complex times_minus_i(Complex a) { return {a.im, -a.re}; }

constexpr int kPointsPerLane = 8;

// Constant tables are read through the read-only cache.
FUSION_HD float read_table(const float* entry) {
#if defined(__CUDA_ARCH__)
    return __ldg(entry);
#else
    return *entry;
#endif
}

FUSION_HD Complex read_table(const Complex* entry) {
#if defined(__CUDA_ARCH__)
    const float2 value = __ldg(reinterpret_cast<const float2*>(entry));
    return {value.x, value.y};
#else
    return *entry;
#endif
}

FUSION_HD std::int32_t fft_slot(std::int32_t a) {
    return a ^ ((a >> 4) & 3) ^ (((a >> 6) & 1) * 12);
}

// Discrete Fourier transforms of r points in registers, in natural order.
template <int kRadix>
FUSION_HD void dft(Complex* v) {
    if constexpr (kRadix == 2) {
        const Complex difference = v[0] - v[1];
        v[0] = v[0] + v[1];
        v[1] = difference;
    } else if constexpr (kRadix == 4) {
        const Complex even = v[0] + v[2];
        const Complex even_turned = v[0] - v[2];
        const Complex odd = v[1] + v[3];
        const Complex odd_turned = times_minus_i(v[1] - v[3]);
        v[0] = even + odd;
        v[1] = even_turned + odd_turned;
        v[2] = even - odd;
        v[3] = even_turned - odd_turned;
    } else {
        static_assert(kRadix == 8);
        constexpr float kHalfRoot = 0.70710678118654752f;
        Complex even[4];
        Complex odd[4];
        FUSION_UNROLL
        for (int i = 0; i < 4; ++i) {
            even[i] = v[i] + v[i + 4];
            odd[i] = v[i] - v[i + 4];
        }
        odd[1] = {(odd[1].re + odd[1].im) * kHalfRoot, (odd[1].im - odd[1].re) * kHalfRoot};
        odd[2] = times_minus_i(odd[2]);
        odd[3] = {(odd[3].im - odd[3].re) * kHalfRoot, (odd[3].re + odd[3].im) * -kHalfRoot};
        dft<4>(even);
        dft<4>(odd);
        FUSION_UNROLL
        for (int i = 0; i < 4; ++i) {
            v[2 * i] = even[i];
            v[2 * i + 1] = odd[i];
        }
    }
}

// One pass over kPoints points, of which runs of kDone are transformed already.
template <int kPoints, int kDone>
struct FftPass {
    static constexpr int kLanes = kPoints / kPointsPerLane;
    static constexpr int kRadix = kPoints / kDone < 8 ? kPoints / kDone : 8;
    static constexpr int kButterflies = kPointsPerLane / kRadix;  // of one lane

    static FUSION_HD void read(const Complex* shared, std::int32_t lane, Complex* z) {
        FUSION_UNROLL
        for (int i = 0; i < kPointsPerLane; ++i) {
            const std::int32_t j = lane + i / kRadix * kLanes;
            z[i] = shared[fft_slot(j + i % kRadix * (kPoints / kRadix))];
        }
    }

    // `twiddles`: exp(-2 pi i * q * k / (kDone * kRadix)) at [q - 1][k], pass after pass; those of
    // all passes before this one are kDone - 8.
    static FUSION_HD void transform(const Complex* twiddles, std::int32_t lane, Complex* z) {
        FUSION_UNROLL
        for (int b = 0; b < kButterflies; ++b) {
            if constexpr (kDone > 1) {
                const std::int32_t k = (lane + b * kLanes) % kDone;
                FUSION_UNROLL
                for (int q = 1; q < kRadix; ++q) {
                    const Complex* entry = twiddles + (kDone - 8) + (q - 1) * kDone + k;
                    z[b * kRadix + q] = z[b * kRadix + q] * read_table(entry);
                }
            }
            dft<kRadix>(z + b * kRadix);
        }
    }

    static FUSION_HD void write(const Complex* z, std::int32_t lane, Complex* shared) {
        FUSION_UNROLL
        for (int i = 0; i < kPointsPerLane; ++i) {
            const std::int32_t j = lane + i / kRadix * kLanes;
            const std::int32_t first = j / kDone * kDone * kRadix + j % kDone;
            shared[fft_slot(first + i % kRadix * kDone)] = z[i];
        }
    }
};

}  // namespace fusion_engine
