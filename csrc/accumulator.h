// The arithmetic of Eq. 3: a compensated sum and a maximum, and the heads that read them.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "host_device.h"

namespace fusion_engine {

enum class Head : std::int32_t { kMeanMax, kMean, kMax };

// Frames summed plainly, at most, before the compensated sum takes them. With u = 2^-24 a block's
// rounding error is at most (kBlockFrames - 1) u of its magnitude; blocks add only terms in u^2,
// reading the sum and the head 3 u. So any number of frames, in any split over calls, ends within
// 10 u = 6e-7.
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

struct alignas(8) CompensatedSum {
    float sum;
    float compensation;

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
    }

    FUSION_HD void merge(const CompensatedSum& other) {
        add(other.sum);
        compensation += other.compensation;
    }
};

FUSION_HD float embedding_of(Head head, const CompensatedSum& total, float max, float count) {
    const float mean = (total.sum + total.compensation) / count;
    switch (head) {
        case Head::kMean:
            return mean;
        case Head::kMax:
            return max;
        case Head::kMeanMax:
            break;
    }
    return mean + max;
}

}  // namespace fusion_engine
