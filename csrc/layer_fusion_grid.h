// The CUDA algorithm of layer fusion, in functions that build for the GPU and for the host.
//
// A layer output is cut into items: values that are neighbours in memory, along frequency (NCHW) or
// along channels (NHWC, vectors), and that one load takes. A block of 256 threads holds
// 256 / time_lanes items; the time lanes of an item take its counted frames in turn and are merged
// as a tree. Neighbouring threads hold neighbouring items, then neighbouring frames, so that loads
// coalesce in NCHW as in NHWC.
#pragma once

#include <cstdint>

#include "layer_fusion.h"

namespace fusion_engine {

constexpr int kBlockThreads = 256;
constexpr int kMaxTimeLanes = 32;
constexpr int kWordBytes = 16;    // the widest load
constexpr int kRowsInFlight = 8;  // loads that a thread issues before it needs the first

struct ItemAxis {
    bool along_channels;
    std::int32_t width;  // values of an item, a power of two
};

struct LayerGrid {
    ItemAxis axis;
    std::int32_t items;
    std::int32_t adjacent;     // items that are neighbours in memory, a power of two
    std::int32_t first_block;  // of this layer within a clip's blocks
    std::int32_t first_d;
};

struct Grid {
    LayerGrid layers[kMaxLayers];
    std::int32_t time_lanes;  // a power of two
    std::int32_t blocks_per_clip;
};

// What a kernel gets, by value.
struct GridTask {
    FusionInput input;
    FusionOutput output;
    Grid grid;
};

// Fills `target_threads` with time lanes where the clips and items alone do not.
Grid make_grid(const FusionInput& input, std::int64_t target_threads);

// Which block, item and time lane a thread is.
struct GridPlace {
    std::int64_t clip;
    std::int32_t layer;
    std::int32_t item;
    std::int32_t time_lane;
};

FUSION_HD GridPlace place_of(const GridTask& task, std::int64_t block, std::int32_t thread) {
    const Grid& grid = task.grid;
    const std::int64_t clip = block / grid.blocks_per_clip;
    const auto rest = static_cast<std::int32_t>(block % grid.blocks_per_clip);
    std::int32_t layer = 0;
    while (layer + 1 < task.input.layer_count && rest >= grid.layers[layer + 1].first_block) {
        ++layer;
    }
    const LayerGrid& part = grid.layers[layer];
    const std::int32_t items_per_block = kBlockThreads / grid.time_lanes;
    const std::int32_t row = thread / part.adjacent;
    const std::int32_t item = (rest - part.first_block) * items_per_block +
                              row / grid.time_lanes * part.adjacent + thread % part.adjacent;
    return {clip, layer, item, row % grid.time_lanes};
}

struct Item {
    std::int64_t offset;    // elements from the segment's start
    std::int32_t d;         // index of its first value in the embedding's part of this layer
    std::int32_t d_stride;  // from one value to the next
};

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

// A thread's partial result: V values of the embedding, over the frames of its time lane.
template <int V>
struct LaneReduction {
    Accumulator total[V];
    float check;  // 0, or NaN once a value read is not finite: 0 * x
    float pooled[V];
    float partial[V];
    std::int32_t rows_pooled;
    std::int32_t frames_summed;

    FUSION_HD void clear() {
        check = 0.0f;
        rows_pooled = 0;
        frames_summed = 0;
        FUSION_UNROLL
        for (int i = 0; i < V; ++i) {
            total[i] = empty_accumulator();
            pooled[i] = kLowest;
            partial[i] = 0.0f;
        }
    }

    FUSION_HD void pool(int i, float value) {
        check += value * 0.0f;
        pooled[i] = larger(pooled[i], value);
    }

    FUSION_HD void end_window() {
        FUSION_UNROLL
        for (int i = 0; i < V; ++i) {
            partial[i] += pooled[i];
            total[i].max = larger(total[i].max, pooled[i]);
            pooled[i] = kLowest;
        }
        rows_pooled = 0;
        if (++frames_summed == kBlockFrames) end_block();
    }

    FUSION_HD void end_block() {
        frames_summed = 0;
        FUSION_UNROLL
        for (int i = 0; i < V; ++i) {
            total[i].add(partial[i]);
            partial[i] = 0.0f;
        }
    }
};

// V values that one instruction loads.
template <class T, int V>
struct alignas(sizeof(T) * V) Word {
    T values[V];
};

// Where a thread's frame features go.
struct FrameColumns {
    float* data;  // its first value at the clip's first counted frame; null: nowhere
    std::int64_t value_stride;
    std::int64_t room;  // frames that fit

    template <int V>
    FUSION_HD void write(std::int64_t frame, const float (&values)[V]) const {
        if (data == nullptr || frame >= room) return;
        FUSION_UNROLL
        for (int i = 0; i < V; ++i) data[frame + i * value_stride] = values[i];
    }
};

FUSION_HD FrameColumns frame_columns(const FrameFeatures& frames, std::int64_t clip,
                                     std::int64_t index, std::int32_t d_stride) {
    if (frames.data == nullptr) return {nullptr, 0, 0};
    const std::int64_t start = frames.offsets != nullptr ? frames.offsets[clip] : 0;
    return {frames.data + index * frames.total + start, d_stride * frames.total,
            frames.total - start};
}

// One segment's counted frames `first`, `first + lanes`, ... of a map; `position` counted frames of
// the clip come before the segment. A segment has less than 2^31 rows.
template <class T, int V>
FUSION_HD void reduce_segment(const LayerOutput& layer, const T* start, std::int32_t first,
                              std::int32_t count, std::int32_t lanes, std::int64_t position,
                              const FrameColumns& frames, LaneReduction<V>& result) {
    if (first >= count) return;
    const std::int32_t pool = layer.time_pool;
    const std::int32_t rows = ((count - first - 1) / lanes + 1) * pool;
    const std::int64_t skip = std::int64_t{lanes - 1} * pool * layer.stride_time;
    const T* next = start + std::int64_t{first} * pool * layer.stride_time;
    std::int64_t frame = position + first;
    std::int32_t rows_loaded = 0;
    for (std::int32_t row = 0; row < rows; row += kRowsInFlight) {
        Word<T, V> words[kRowsInFlight];
        FUSION_UNROLL
        for (int i = 0; i < kRowsInFlight; ++i) {
            if (row + i >= rows) continue;
            words[i] = *reinterpret_cast<const Word<T, V>*>(next);
            next += layer.stride_time;
            if (++rows_loaded == pool) {
                rows_loaded = 0;
                next += skip;
            }
        }
        FUSION_UNROLL
        for (int i = 0; i < kRowsInFlight; ++i) {
            if (row + i >= rows) continue;
            FUSION_UNROLL
            for (int v = 0; v < V; ++v) result.pool(v, to_float(words[i].values[v]));
            if (++result.rows_pooled == pool) {
                frames.write(frame, result.pooled);
                frame += lanes;
                result.end_window();
            }
        }
    }
    result.end_block();
}

// A segment's vector stands for each of its counted frames.
template <class T, int V>
FUSION_HD void reduce_vector(const T* start, std::int64_t count, std::int64_t position,
                             const FrameColumns& frames, LaneReduction<V>& result) {
    const Word<T, V> word = *reinterpret_cast<const Word<T, V>*>(start);
    float values[V];
    FUSION_UNROLL
    for (int v = 0; v < V; ++v) {
        values[v] = to_float(word.values[v]);
        result.check += values[v] * 0.0f;
        result.total[v].add_repeated(values[v], static_cast<float>(count));
    }
    if (frames.data == nullptr) return;
    for (std::int64_t i = 0; i < count; ++i) frames.write(position + i, values);
}

// The thread's share of its item. Returns the clip's counted frames.
template <class T, int V>
FUSION_HD std::int64_t reduce_lane(const GridTask& task, const GridPlace& place,
                                   LaneReduction<V>& result) {
    const FusionInput& input = task.input;
    const LayerOutput& layer = input.layers[place.layer];
    const LayerGrid& grid = task.grid.layers[place.layer];
    const std::int32_t lanes = task.grid.time_lanes;
    const Item item = item_at(layer, grid.axis, place.item);
    const FrameColumns frames =
        frame_columns(task.output.frames, place.clip,
                      place.clip * input.dim + grid.first_d + item.d, item.d_stride);
    const std::int64_t first_segment = input.first_segment(place.clip);
    const std::int64_t last_segment = input.first_segment(place.clip + 1);
    std::int64_t position = 0;
    for (std::int64_t s = first_segment; s < last_segment; ++s) {
        const T* start = static_cast<const T*>(layer.data) + s * layer.stride_segment + item.offset;
        const std::int64_t count = input.count(s);
        if (layer.is_vector) {
            const bool mine = ((s - first_segment) & (lanes - 1)) == place.time_lane;
            if (mine && count > 0) reduce_vector<T, V>(start, count, position, frames, result);
        } else {
            start += input.begin(s) * layer.time_pool * layer.stride_time;
            // Lanes take the clip's frames in turn, so that short segments keep all of them busy.
            const auto first =
                static_cast<std::int32_t>((place.time_lane - position) & (lanes - 1));
            reduce_segment<T, V>(layer, start, first, static_cast<std::int32_t>(count), lanes,
                                 position, frames, result);
        }
        position += count;
    }
    return position;
}

// One value of the result: the embedding in one shot, the clip's state otherwise.
FUSION_HD void store_value(const FusionOutput& output, std::int64_t index, const Accumulator& total,
                           float count) {
    if (output.embedding != nullptr) {
        output.embedding[index] = embedding_of(output.head, total, count);
        return;
    }
    const FusionState& state = output.state;
    Accumulator sofar{state.sum[index], state.compensation[index], state.max[index]};
    sofar.merge(total);
    state.sum[index] = sofar.sum;
    state.compensation[index] = sofar.compensation;
    state.max[index] = sofar.max;
}

// The merged result of an item, by its time lane 0.
template <int V>
FUSION_HD void store_item(const GridTask& task, const GridPlace& place,
                          const LaneReduction<V>& result, std::int64_t counted) {
    const LayerGrid& grid = task.grid.layers[place.layer];
    const Item item = item_at(task.input.layers[place.layer], grid.axis, place.item);
    const std::int64_t index = place.clip * task.input.dim + grid.first_d + item.d;
    FUSION_UNROLL
    for (int i = 0; i < V; ++i) {
        store_value(task.output, index + i * item.d_stride, result.total[i],
                    static_cast<float>(counted));
    }
    const bool first = place.layer == 0 && place.item == 0;
    if (first && task.output.embedding == nullptr) {
        task.output.state.count[place.clip] += static_cast<float>(counted);
    }
}

// Value `index` of [B, D].
FUSION_HD float embedding_of(const FusionState& state, std::int64_t index, std::int64_t dim,
                             Head head) {
    const Accumulator total{state.sum[index], state.compensation[index], state.max[index]};
    return embedding_of(head, total, state.count[index / dim]);
}

// Calls run.template operator()<T, V>() for the layer's dtype and item width.
template <class Run>
FUSION_KERNEL void dispatch(DType dtype, std::int32_t width, Run& run) {
    if (dtype == DType::kFloat32) {
        if (width == 4) return run.template operator()<float, 4>();
        if (width == 2) return run.template operator()<float, 2>();
        return run.template operator()<float, 1>();
    }
    if (dtype == DType::kFloat16) {
        if (width == 8) return run.template operator()<Float16, 8>();
        if (width == 4) return run.template operator()<Float16, 4>();
        if (width == 2) return run.template operator()<Float16, 2>();
        return run.template operator()<Float16, 1>();
    }
    if (width == 8) return run.template operator()<BFloat16, 8>();
    if (width == 4) return run.template operator()<BFloat16, 4>();
    if (width == 2) return run.template operator()<BFloat16, 2>();
    return run.template operator()<BFloat16, 1>();
}

}  // namespace fusion_engine
