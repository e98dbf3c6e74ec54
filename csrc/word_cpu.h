// Packed halves on the CPU: vectors of 16-bit integers.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "dtypes.h"
#include "host_device.h"

namespace fusion_engine {

template <class Value, int V>
struct VectorOf {
    using type [[gnu::vector_size(sizeof(Value) * V)]] = Value;
};

template <class Value, int V>
using Vector = VectorOf<Value, V>::type;

template <class Half, int V>
struct HalfWord {
    using Lanes = Vector<std::int16_t, V>;
    using Bits = Vector<std::uint32_t, V>;
    using Floats = Vector<float, V>;
    using Check = Lanes;  // the largest magnitudes

    static constexpr auto kInfinity = static_cast<std::int16_t>(Half::kInfinity);

    Lanes lanes;  // integers of the order of the values

    // Two's complement of sign and magnitude, and back.
    static FUSION_KERNEL Lanes turned(Lanes x) { return x ^ ((x >> 15) & 0x7fff); }

    static FUSION_KERNEL bool is_marked(const Check& check) {
        bool marked = false;
        for (int i = 0; i < V; ++i) marked |= check[i] >= kInfinity;
        return marked;
    }

    FUSION_KERNEL void load(const Half* row) {
        std::memcpy(&lanes, row, sizeof lanes);
        lanes = turned(lanes);
    }

    FUSION_KERNEL void lower() { lanes = ~(Lanes{} + kInfinity); }

    FUSION_KERNEL void mark(Check& check) const {
        const Lanes magnitude = lanes ^ (lanes >> 15);
        check = check > magnitude ? check : magnitude;
    }

    FUSION_KERNEL void raise(const HalfWord& other) {
        lanes = lanes > other.lanes ? lanes : other.lanes;
    }

    FUSION_KERNEL void unpack(float (&values)[V]) const {
        const auto halves = Vector<std::uint16_t, V>(turned(lanes));
        const Bits half = __builtin_convertvector(halves, Bits);
        Bits bits = half << 16;
        if constexpr (std::is_same_v<Half, Float16>) {
            // Finite, subnormal and non-finite halves by one formula, with selects for branches.
            constexpr std::uint32_t kOneExponent = 1u << 23;
            constexpr std::uint32_t kRebias = (127 - 15) * kOneExponent;
            constexpr std::uint32_t kHalfInfinity = std::uint32_t{Half::kInfinity} << 13;
            const Bits magnitude = (half & 0x7fff) << 13;
            const Bits normal = magnitude + kRebias;
            // A subnormal has no implicit one: give it one, then subtract that one.
            const Floats fraction =
                Floats(normal + kOneExponent) - Floats(Bits{} + (kRebias + kOneExponent));
            const Bits finite = magnitude < kOneExponent ? Bits(fraction) : normal;
            const Bits any = magnitude >= kHalfInfinity ? normal + kRebias : finite;
            bits = any | ((half & 0x8000) << 16);
        }
        std::memcpy(values, &bits, sizeof values);
    }
};

}  // namespace fusion_engine
