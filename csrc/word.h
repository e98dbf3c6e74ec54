// Words: neighbouring values that one instruction loads, with the arithmetic on all of them.
//
// Halves stay as they were loaded, two to a register, through the maxima of time pool and head: a
// maximum of halves is one of them, so FP32 is needed for their sum alone.
#pragma once

#include "accumulator.h"
#include "dtypes.h"

#if defined(__CUDACC__)
#include "word_cuda.h"
#else
#include "word_cpu.h"
#endif

namespace fusion_engine {

// V values of type T. `raise` takes the maximum, value by value. `mark` leaves in `check` a trace
// of every value that is not finite, also of those that no maximum shows; `is_marked` reads it.
template <class T, int V>
struct Word : HalfWord<T, V> {};

template <int V>
struct alignas(sizeof(float) * V) Word<float, V> {
    using Check = float;  // 0, or NaN: 0 * x

    float registers[V];

    static FUSION_KERNEL bool is_marked(Check check) { return check != 0.0f; }

    FUSION_KERNEL void load(const float* row) { *this = *reinterpret_cast<const Word*>(row); }

    FUSION_KERNEL void lower() {
        FUSION_UNROLL
        for (int i = 0; i < V; ++i) registers[i] = kLowest;
    }

    FUSION_KERNEL void mark(Check& check) const {
        FUSION_UNROLL
        for (int i = 0; i < V; ++i) check += registers[i] * 0.0f;
    }

    FUSION_KERNEL void raise(const Word& other) {
        FUSION_UNROLL
        for (int i = 0; i < V; ++i) registers[i] = larger(registers[i], other.registers[i]);
    }

    FUSION_KERNEL void unpack(float (&values)[V]) const {
        FUSION_UNROLL
        for (int i = 0; i < V; ++i) values[i] = registers[i];
    }
};

}  // namespace fusion_engine
