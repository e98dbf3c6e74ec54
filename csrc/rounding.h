// FP32 to half precision: to the nearest, ties to even, as a cast in a graph rounds.
#pragma once

#include <bit>
#include <cstdint>

#include "dtypes.h"

namespace fusion_engine {

constexpr std::uint16_t kHalfNan = 0x7fff;  // what the GPU makes of any NaN

FUSION_HD std::uint32_t bits_of(float value) {
#if defined(__CUDA_ARCH__)
    return __float_as_uint(value);
#else
    return std::bit_cast<std::uint32_t>(value);
#endif
}

FUSION_HD BFloat16 to_bfloat16(float value) {
    const std::uint32_t bits = bits_of(value);
    if (value != value) return {kHalfNan};
    return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

FUSION_HD Float16 to_float16(float value) {
#if defined(__CUDA_ARCH__)
    return {__half_as_ushort(__float2half_rn(value))};
#else
    constexpr std::uint32_t kRebias = (127u - 15u) << 23;
    constexpr std::uint32_t kSmallestNormal = kRebias + (1u << 23);
    constexpr std::uint32_t kInfinity = (127u + 16u) << 23;  // what rounds to 2^16 is no half
    if (value != value) return {kHalfNan};
    const std::uint32_t bits = bits_of(value);
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    std::uint32_t half = 0x7c00u;
    if (magnitude < kSmallestNormal) {
        // An addition rounds to the spacing of subnormal halves, 2^-24, which is that of 0.5.
        half = bits_of(std::bit_cast<float>(magnitude) + 0.5f) - bits_of(0.5f);
    } else if (magnitude < kInfinity) {
        // The carry of the largest ones gives infinity.
        half = (magnitude - kRebias + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    }
    return {static_cast<std::uint16_t>(half | ((bits >> 16) & 0x8000u))};
#endif
}

}  // namespace fusion_engine
