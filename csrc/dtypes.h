// Storage types of layer outputs.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#endif

#include "host_device.h"

namespace fusion_engine {

enum class DType : std::int32_t { kFloat32, kFloat16, kBFloat16 };

struct Float16 {
    std::uint16_t bits;
    static constexpr std::uint16_t kInfinity = 0x7c00;
};

struct BFloat16 {
    std::uint16_t bits;
    static constexpr std::uint16_t kInfinity = 0x7f80;
};

constexpr int size_of(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

}  // namespace fusion_engine
