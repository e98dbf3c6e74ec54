// The arithmetic of Eq. 3: a compensated sum and a maximum, and the heads that read them.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "host_device.h"

namespace fusion_engine {

enum class Head : std::int32_t { kMeanMax, kMean, kMax };

// Frames summed plainly before the compensated sum takes them. With u = 2^-24 a block's rounding
// error is at most (kBlockFrames - 1) u of its magnitude; blocks add only terms in u^2, reading the
// sum and the head 3 u. So any number of frames, in any split over calls, ends within 10 u = 6e-7.
constexpr int kBlockFrames = 8;

constexpr float kLowest = -std::numeric_limits<float>::infinity();

// A NaN in `candidate` loses (it is flagged where it is read).
FUSION_HD float larger(float current, float candidate) {
#if defined(__CUDA_ARCH__)
    return fmaxf(current, candidate);
#else
    return candidate > current ? candidate : current;
#endif
}

struct Accumulator {
    float sum;
    float compensation;
    float max;

    // Adds a partial sum exactly: Knuth's TwoSum, its rounding error kept in `compensation`.
    FUSION_HD void add(float partial) {
        const float total = sum + partial;
        const float added = total - sum;
        compensation += (sum - (total - added)) + (partial - added);
        sum = total;
    }

    // Adds value * count with no rounding error: the product and its remainder.
    FUSION_HD void add_repeated(float value, float count) {
        const float product = value * count;
        add(product);
        compensation += fmaf(value, count, -product);
        max = larger(max, value);
    }

    FUSION_HD void merge(const Accumulator& other) {
        add(other.sum);
        compensation += other.compensation;
        max = larger(max, other.max);
    }
};

FUSION_HD Accumulator empty_accumulator() { return {0.0f, 0.0f, kLowest}; }

FUSION_HD float embedding_of(Head head, const Accumulator& total, float count) {
    const float mean = (total.sum + total.compensation) / count;
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
