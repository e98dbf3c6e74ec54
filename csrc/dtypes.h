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

// The formula for finite, subnormal and non-finite halves alike, with selects for branches; `Float`
// and `Bits` are float and uint32_t, or vectors of them.
template <class Float, class Bits>
inline __attribute__((always_inline)) Float float_of_half_bits(Bits half) {
    constexpr std::uint32_t kOneExponent = 1u << 23;
    constexpr std::uint32_t kRebias = (127 - 15) * kOneExponent;
    constexpr std::uint32_t kHalfInfinity = 0x7c00u << 13;
    const Bits magnitude = (half & 0x7fffu) << 13;
    const Bits normal = magnitude + kRebias;
    // A subnormal has no implicit one: give it one with the exponent, then subtract that one.
    const Float fraction =
        std::bit_cast<Float>(normal + kOneExponent) - std::bit_cast<float>(kRebias + kOneExponent);
    const Bits finite = magnitude < kOneExponent ? std::bit_cast<Bits>(fraction) : normal;
    const Bits bits = magnitude >= kHalfInfinity ? normal + kRebias : finite;
    return std::bit_cast<Float>(bits | ((half & 0x8000u) << 16));
}

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
    return float_of_half_bits<float>(std::uint32_t{value.bits});
#endif
}

}  // namespace fusion_engine
