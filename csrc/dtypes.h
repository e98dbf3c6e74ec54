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

FUSION_HD float float_from_bits(std::uint32_t bits) {
#if defined(__CUDA_ARCH__)
    return __uint_as_float(bits);
#else
    return std::bit_cast<float>(bits);
#endif
}

FUSION_HD float to_float(float value) { return value; }

FUSION_HD float to_float(BFloat16 value) { return float_from_bits(std::uint32_t{value.bits} << 16); }

FUSION_HD float to_float(Float16 value) {
#if defined(__CUDA_ARCH__)
    return __half2float(__ushort_as_half(value.bits));
#else
    // Selects instead of branches, so that a loop over lanes vectorises.
    constexpr std::uint32_t kRebias = (127 - 15) << 23;
    constexpr std::uint32_t kHalfInfinity = 0x7c00u << 13;
    const std::uint32_t magnitude = (value.bits & 0x7fffu) << 13;
    const std::uint32_t sign = (value.bits & 0x8000u) << 16;
    const std::uint32_t normal = magnitude + kRebias;
    // A subnormal half: put the mantissa below an implicit one, then subtract that one.
    const float one = float_from_bits(kRebias + (1u << 23));
    const float fraction = float_from_bits(magnitude + kRebias + (1u << 23)) - one;
    const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(fraction);
    const std::uint32_t finite = magnitude < (1u << 23) ? subnormal : normal;
    return float_from_bits(sign | (magnitude >= kHalfInfinity ? normal + kRebias : finite));
#endif
}

}  // namespace fusion_engine
