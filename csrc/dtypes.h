// Half-precision storage types and their exact conversion to FP32.
#pragma once

#include <bit>
#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#endif

#include "host_device.h"

namespace fusion_engine {

enum class DType : std::int32_t { kFloat32, kFloat16, kBFloat16 };

struct Float16 {
    std::uint16_t bits;
};

struct BFloat16 {
    std::uint16_t bits;
};

constexpr int size_of(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

FUSION_HD float to_float(float value) { return value; }

FUSION_HD float to_float(BFloat16 value) {
    const std::uint32_t bits = std::uint32_t{value.bits} << 16;
#if defined(__CUDA_ARCH__)
    return __uint_as_float(bits);
#else
    return std::bit_cast<float>(bits);
#endif
}

FUSION_HD float to_float(Float16 value) {
#if defined(__CUDA_ARCH__)
    return __half2float(__ushort_as_half(value.bits));
#else
    // Finite, subnormal and non-finite halves by one formula, with selects for branches.
    constexpr std::uint32_t kOneExponent = 1u << 23;
    constexpr std::uint32_t kRebias = (127 - 15) * kOneExponent;
    constexpr std::uint32_t kHalfInfinity = 0x7c00u << 13;
    const std::uint32_t magnitude = (value.bits & 0x7fffu) << 13;
    const std::uint32_t normal = magnitude + kRebias;
    // A subnormal has no implicit one: give it one with the exponent, then subtract that one.
    const float fraction =
        std::bit_cast<float>(normal + kOneExponent) - std::bit_cast<float>(kRebias + kOneExponent);
    const std::uint32_t finite =
        magnitude < kOneExponent ? std::bit_cast<std::uint32_t>(fraction) : normal;
    const std::uint32_t bits = magnitude >= kHalfInfinity ? normal + kRebias : finite;
    return std::bit_cast<float>(bits | ((value.bits & 0x8000u) << 16));
#endif
}

}  // namespace fusion_engine
