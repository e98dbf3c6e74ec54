// Index arithmetic shared by the CPU and the CUDA code: a layer output is cut into items of `width`
// values that are neighbours in memory, along frequency (NCHW) or along channels (NHWC, vectors).
#pragma once

#include <cmath>
#include <cstdint>

#include "layer_fusion.h"

namespace fusion_engine {

struct ItemAxis {
    bool along_channels;
    std::int32_t width;
};

struct Item {
    std::int64_t offset;    // elements from the segment's start
    std::int32_t d;         // index of its first value in the embedding's part of this layer
    std::int32_t d_stride;  // from one value to the next
};

// The axis with the widest items, at most `max_width` (a power of two) values. `aligned` demands
// that every item can be loaded as one aligned word.
ItemAxis choose_item_axis(const LayerOutput& layer, std::int64_t segments, int max_width,
                          bool aligned);

FUSION_HD std::int32_t item_count(const LayerOutput& layer, ItemAxis axis) {
    return layer.dim() / axis.width;
}

// d = c * F + f, Eq. 1's flatten order.
FUSION_HD Item item_at(const LayerOutput& layer, ItemAxis axis, std::int32_t index) {
    std::int32_t c = 0;
    std::int32_t f = 0;
    if (axis.along_channels) {
        const std::int32_t groups = layer.channels / axis.width;
        f = index / groups;
        c = index % groups * axis.width;
    } else {
        const std::int32_t groups = layer.freq / axis.width;
        c = index / groups;
        f = index % groups * axis.width;
    }
    return {c * layer.stride_channel + f * layer.stride_freq, c * layer.freq + f,
            axis.along_channels ? layer.freq : 1};
}

// Adds value * count with no rounding error: the product and its remainder.
FUSION_HD void add_repeated(Accumulator<float>& total, float value, float count) {
    const float product = value * count;
    total.add(product);
    total.compensation += fmaf(value, count, -product);
    total.max = larger(total.max, value);
}

// One value of the result: the embedding in one shot, the clip's state otherwise.
FUSION_HD void store_result(const FusionOutput& output, std::int64_t index,
                            const Accumulator<float>& total, float count) {
    if (output.embedding != nullptr) {
        output.embedding[index] = embedding_of(output.head, total, count);
        return;
    }
    const FusionState& state = output.state;
    Accumulator<float> sofar{state.sum[index], state.compensation[index], state.max[index]};
    sofar.merge(total);
    state.sum[index] = sofar.sum;
    state.compensation[index] = sofar.compensation;
    state.max[index] = sofar.max;
}

}  // namespace fusion_engine
