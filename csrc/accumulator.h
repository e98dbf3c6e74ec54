// The arithmetic of Eq. 3: a compensated sum and a maximum, and the heads that read them.
#pragma once

#include <cstdint>
#include <limits>

#include "host_device.h"

namespace fusion_engine {

enum class Head : std::int32_t { kMeanMax, kMean, kMax };

// Frames summed plainly before the compensated sum takes them. A block's rounding error is at most
// (kBlockFrames - 1) / 2 * 2^-24 = 4.5e-7 of its mean magnitude, and blocks add none: the result of
// any number of frames, in any split over calls, stays within 1e-6 of its largest value.
constexpr int kBlockFrames = 16;

constexpr float kLowest = -std::numeric_limits<float>::infinity();

// The larger value, elementwise for vector types; a NaN in `candidate` loses (it is flagged where
// it is read).
template <class Value>
FUSION_HD Value larger(Value current, Value candidate) {
    return candidate > current ? candidate : current;
}

// `Value` is float, or a vector type whose elements are independent sums.
template <class Value>
struct Accumulator {
    Value sum;
    Value compensation;
    Value max;

    // Adds a partial sum exactly: Knuth's TwoSum, its rounding error kept in `compensation`.
    FUSION_HD void add(Value partial) {
        const Value total = sum + partial;
        const Value added = total - sum;
        compensation += (sum - (total - added)) + (partial - added);
        sum = total;
    }

    FUSION_HD void merge(const Accumulator& other) {
        add(other.sum);
        compensation += other.compensation;
        max = larger(max, other.max);
    }
};

FUSION_HD Accumulator<float> empty_accumulator() { return {0.0f, 0.0f, kLowest}; }

template <class Value>
FUSION_HD Value embedding_of(Head head, const Accumulator<Value>& total, float count) {
    const Value mean = (total.sum + total.compensation) / count;
    switch (head) {
        case Head::kMean:
            return mean;
        case Head::kMax:
            return total.max;
        case Head::kMeanMax:
            break;
    }
    return mean + total.max;
}

}  // namespace fusion_engine
