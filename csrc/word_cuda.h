// Packed halves on the GPU: an instruction for two of them.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <type_traits>

#include "dtypes.h"
#include "host_device.h"

namespace fusion_engine {

template <class Half>
using Pair = std::conditional_t<std::is_same_v<Half, Float16>, __half2, __nv_bfloat162>;

template <class Half>
__device__ __forceinline__ Pair<Half> as_pair(std::uint32_t bits) {
    return reinterpret_cast<const Pair<Half>&>(bits);
}

template <class To>
__device__ __forceinline__ std::uint32_t bits_of(To pair) {
    return reinterpret_cast<const std::uint32_t&>(pair);
}

template <class Half>
__device__ __forceinline__ float value(std::uint32_t pair, bool high) {
    if constexpr (std::is_same_v<Half, Float16>) {
        return high ? __high2float(as_pair<Half>(pair)) : __low2float(as_pair<Half>(pair));
    } else {
        return __uint_as_float(high ? pair & 0xffff0000u : pair << 16);
    }
}

template <class Half>
__device__ __forceinline__ std::uint32_t larger_pair(std::uint32_t a, std::uint32_t b) {
#if __CUDA_ARCH__ >= 800
    return bits_of(__hmax2(as_pair<Half>(a), as_pair<Half>(b)));
#else
    if constexpr (std::is_same_v<Half, Float16>) {
        const std::uint32_t mask = __hgt2_mask(as_pair<Half>(a), as_pair<Half>(b));
        return (a & mask) | (b & ~mask);
    } else {
        // The low half is too small to change which high half is larger.
        const float high = fmaxf(__uint_as_float(a), __uint_as_float(b));
        const float low = fmaxf(__uint_as_float(a << 16), __uint_as_float(b << 16));
        return __byte_perm(__float_as_uint(low), __float_as_uint(high), 0x7632);
    }
#endif
}

template <class Half, int V>
struct alignas(sizeof(Half) * V) HalfWord {
    using Register = std::conditional_t<V == 1, std::uint16_t, std::uint32_t>;
    using Check = std::uint32_t;
    static constexpr int kRegisters = (V + 1) / 2;
    static constexpr std::uint32_t kBoth = 0x10001;  // times a half: that half twice

    Register registers[kRegisters];

    static __device__ __forceinline__ bool is_marked(Check check) {
#if __CUDA_ARCH__ >= 800
        return check != 0;
#else
        return (check & 0x8000 * kBoth) != 0;
#endif
    }

    __device__ __forceinline__ void load(const Half* row) {
        *this = *reinterpret_cast<const HalfWord*>(row);
    }

    __device__ __forceinline__ void lower() {
        FUSION_UNROLL
        for (int i = 0; i < kRegisters; ++i)
            registers[i] = static_cast<Register>((0x8000 | Half::kInfinity) * kBoth);
    }

    __device__ __forceinline__ void mark(Check& check) const {
        FUSION_UNROLL
        for (int i = 0; i < kRegisters; ++i) {
#if __CUDA_ARCH__ >= 800
            // 0 * x + 0 is NaN, or +0.
            check = bits_of(
                __hfma2(as_pair<Half>(registers[i]), as_pair<Half>(0), as_pair<Half>(check)));
#else
            // An exponent of ones carries into the sign.
            constexpr std::uint32_t kExponents = Half::kInfinity * kBoth;
            constexpr std::uint32_t kLast = (Half::kInfinity & -Half::kInfinity) * kBoth;
            check |= (registers[i] & kExponents) + kLast;
#endif
        }
    }

    __device__ __forceinline__ void raise(const HalfWord& other) {
        FUSION_UNROLL
        for (int i = 0; i < kRegisters; ++i) {
            registers[i] =
                static_cast<Register>(larger_pair<Half>(registers[i], other.registers[i]));
        }
    }

    __device__ __forceinline__ void unpack(float (&values)[V]) const {
        FUSION_UNROLL
        for (int i = 0; i < V; ++i) values[i] = value<Half>(registers[i / 2], i % 2 == 1);
    }
};

}  // namespace fusion_engine
