// What one thread of layer fusion does: the counted frames of a time lane, one item wide.
//
// It asks for kRowsInFlight rows before it needs the first: several frames of a short time pool, or
// a part of one frame. Rows are pooled as they were loaded. The frames are then a block of the
// compensated sum (accumulator.h), which needs FP32. How frames fall into blocks depends on time
// pool and lanes alone, so that neither an item's width nor frame features change an embedding.
#pragma once

#include <cstddef>
#include <cstdint>

#include "layer_fusion_grid.h"
#include "word.h"

namespace fusion_engine {

constexpr int kRowsInFlight = 8;
static_assert(kRowsInFlight <= kBlockFrames);

// V values of the embedding, over the frames of a lane. The sums are where the block keeps them: on
// a GPU in shared memory, which leaves the registers to the rows in flight.
template <class T, int V>
struct LaneTotal {
    CompensatedSum* sums;
    std::int32_t stride;  // from one value's sum to the next
    Word<T, V> largest;
    std::uint32_t counted;  // frames of the clip
    bool not_finite;        // one of the values that were read

    FUSION_KERNEL void clear() {
        counted = 0;
        not_finite = false;
        largest.lower();
        FUSION_UNROLL
        for (int i = 0; i < V; ++i) sums[i * stride] = {0.0f, 0.0f};
    }

    FUSION_KERNEL void add(const float (&block)[V]) {
        FUSION_KEEP_IN_MEMORY;
        FUSION_UNROLL
        for (int i = 0; i < V; ++i) {
            CompensatedSum sum = sums[i * stride];
            sum.add(block[i]);
            sums[i * stride] = sum;
        }
    }

    FUSION_KERNEL void add_repeated(const Word<T, V>& word, float count) {
        float values[V];
        word.unpack(values);
        FUSION_UNROLL
        for (int i = 0; i < V; ++i) sums[i * stride].add_repeated(values[i], count);
        largest.raise(word);
    }

    // Another lane's, whose sums begin at `other`.
    FUSION_KERNEL void merge(const CompensatedSum* other, const Word<T, V>& other_largest) {
        FUSION_UNROLL
        for (int i = 0; i < V; ++i) {
            CompensatedSum sum = sums[i * stride];
            sum.merge(other[i * stride]);
            sums[i * stride] = sum;
        }
        largest.raise(other_largest);
    }
};

// Rows of a layer, pooled over time. `check`: Word::mark.
template <class T, int V>
struct RowPool {
    using Row = Word<T, V>;

    const LayerOutput& layer;
    typename Row::Check check{};

    template <int kRows>
    FUSION_KERNEL Row of(const Row (&rows)[kRows]) {
        Row pooled = rows[0];
        FUSION_UNROLL
        for (int r = 0; r < kRows; ++r) {
            rows[r].mark(check);
            if (r > 0) pooled.raise(rows[r]);
        }
        return pooled;
    }

    template <int kRows>
    FUSION_KERNEL void add(const T*& next, Row& pooled) {
        Row rows[kRows];
        FUSION_UNROLL
        for (int r = 0; r < kRows; ++r, next += layer.stride_time) rows[r].load(next);
        pooled.raise(of(rows));
    }

    // Less than 2 kRows rows.
    template <int kRows>
    FUSION_KERNEL void add_last(std::int32_t count, const T*& next, Row& pooled) {
        if (count & kRows) add<kRows>(next, pooled);
        if constexpr (kRows > 1) add_last<kRows / 2>(count, next, pooled);
    }

    // Any number of rows.
    FUSION_KERNEL Row of(const T* next, std::int32_t count) {
        Row pooled;
        pooled.lower();
        FUSION_NO_UNROLL
        for (; count >= kRowsInFlight; count -= kRowsInFlight) add<kRowsInFlight>(next, pooled);
        add_last<kRowsInFlight / 2>(count, next, pooled);
        return pooled;
    }
};

// `count` frames of a lane, the first at `next`.
template <class T, int V>
struct LaneFrames {
    using Row = Word<T, V>;

    RowPool<T, V>& pool;
    LaneTotal<T, V>& total;
    const T* next;
    std::int64_t stride;
    std::int32_t count;

    FUSION_KERNEL void add(const Row& pooled, bool first, float (&block)[V]) {
        float values[V];
        pooled.unpack(values);
        FUSION_UNROLL
        for (int i = 0; i < V; ++i) block[i] = first ? values[i] : block[i] + values[i];
        total.largest.raise(pooled);
    }

    template <int kPool, int kCount>
    FUSION_KERNEL void add_block() {
        Row rows[kCount][kPool];
        FUSION_UNROLL
        for (int i = 0; i < kCount; ++i, next += stride) {
            const T* row = next;
            FUSION_UNROLL
            for (int r = 0; r < kPool; ++r, row += pool.layer.stride_time) rows[i][r].load(row);
        }
        float block[V];
        FUSION_UNROLL
        for (int i = 0; i < kCount; ++i) add(pool.of(rows[i]), i == 0, block);
        total.add(block);
    }

    // Less than 2 kCount frames.
    template <int kPool, int kCount>
    FUSION_KERNEL void add_last() {
        if (count & kCount) add_block<kPool, kCount>();
        if constexpr (kCount > 1) add_last<kPool, kCount / 2>();
    }

    template <int kPool>
    FUSION_KERNEL void add_short() {
        constexpr int kAtOnce = kRowsInFlight / kPool;
        FUSION_NO_UNROLL
        for (; count >= kAtOnce; count -= kAtOnce) add_block<kPool, kAtOnce>();
        add_last<kPool, kAtOnce / 2>();
    }

    FUSION_KERNEL void add_all(std::int32_t time_pool) {
        if (time_pool == 1) return add_short<1>();
        if (time_pool == 2) return add_short<2>();
        if (time_pool == 4) return add_short<4>();
        FUSION_NO_UNROLL
        for (; count > 0; --count, next += stride) {
            float block[V];
            add(pool.of(next, time_pool), true, block);
            total.add(block);
        }
    }
};

// The first of a segment's frames that is a lane's: lanes take the clip's in turn, so that short
// segments keep all of them busy. `position` counted frames of the clip come before the segment.
FUSION_HD std::int32_t first_frame(std::int32_t lane, std::int32_t lanes, std::uint32_t position) {
    return static_cast<std::int32_t>((lane - position) & (lanes - 1));
}

// A thread's item in a segment, at its first counted frame.
template <class T>
FUSION_KERNEL const T* segment_start(const FusionInput& input, const LayerOutput& layer,
                                     std::int64_t s, std::int64_t offset) {
    const T* start = static_cast<const T*>(layer.data) + s * layer.stride_segment + offset;
    // A segment's vector stands for each of its counted frames.
    return layer.is_vector ? start : start + input.begin(s) * layer.time_pool * layer.stride_time;
}

// The share of a thread in its item. `where` says its place, and is asked in every segment: a place
// that is kept would take registers of the rows in flight.
template <class T, int V, class Where>
FUSION_KERNEL void reduce_lane(const GridTask& task, const Where& where, LaneTotal<T, V>& total) {
    const GridPlace place = where();
    const FusionInput& input = task.input;
    const LayerOutput& layer = input.layers[place.layer];
    const LayerGrid& grid = task.grid.layers[place.layer];
    const std::int32_t lanes = task.grid.time_lanes;
    total.clear();
    if (place.item >= grid.items) return;
    RowPool<T, V> pool{layer};
    const auto end = static_cast<std::int32_t>(input.first_segment(std::int64_t{place.clip} + 1));
    FUSION_NO_UNROLL
    for (auto s = static_cast<std::int32_t>(input.first_segment(place.clip)); s < end; ++s) {
        const GridPlace here = where();
        const std::int64_t offset = item_at(layer, grid.axis, here.item).offset;
        const T* start = segment_start<T>(input, layer, s, offset);
        const auto counted = static_cast<std::uint32_t>(input.count(s));
        if (layer.is_vector) {
            if (((end - s) & (lanes - 1)) == here.time_lane && counted > 0) {
                total.add_repeated(pool.of(start, 1), static_cast<float>(counted));
            }
        } else {
            const std::int32_t first = first_frame(here.time_lane, lanes, total.counted);
            const std::int32_t rest = static_cast<std::int32_t>(counted) - first;
            const std::int32_t count = rest > 0 ? (rest - 1) / lanes + 1 : 0;
            const std::int64_t pool_stride = layer.time_pool * layer.stride_time;
            LaneFrames<T, V> frames{pool, total, start + first * pool_stride, lanes * pool_stride,
                                    count};
            frames.add_all(layer.time_pool);
        }
        total.counted += counted;
    }
    total.not_finite = Word<T, V>::is_marked(pool.check);
}

// One value of the result: the embedding in one shot, the clip's state otherwise.
FUSION_HD void store_value(const FusionOutput& output, std::int64_t index,
                           const CompensatedSum& sum, float max, float counted) {
    if (output.embedding != nullptr) {
        output.embedding[index] = embedding_of(output.head, sum, max, counted);
        return;
    }
    const FusionState& state = output.state;
    CompensatedSum sofar{state.sum[index], state.compensation[index]};
    sofar.merge(sum);
    state.sum[index] = sofar.sum;
    state.compensation[index] = sofar.compensation;
    state.max[index] = larger(state.max[index], max);
}

// The merged result of an item, by its time lane 0.
template <class T, int V>
FUSION_KERNEL void store_item(const GridTask& task, const GridPlace& place,
                              const LaneTotal<T, V>& total) {
    const LayerGrid& grid = task.grid.layers[place.layer];
    const Item item = item_at(task.input.layers[place.layer], grid.axis, place.item);
    const std::int64_t index = std::int64_t{place.clip} * task.input.dim + grid.first_d + item.d;
    const auto count = static_cast<float>(total.counted);
    float largest[V];
    total.largest.unpack(largest);
    FUSION_UNROLL
    for (int i = 0; i < V; ++i) {
        store_value(task.output, index + i * item.d_stride, total.sums[i * total.stride],
                    largest[i], count);
    }
    const bool first = place.layer == 0 && place.item == 0;
    if (first && task.output.embedding == nullptr) task.output.state.count[place.clip] += count;
}

// Value `index` of [B, D].
FUSION_HD float embedding_of(const FusionState& state, std::int64_t index, std::int64_t dim,
                             Head head) {
    return embedding_of(head, {state.sum[index], state.compensation[index]}, state.max[index],
                        state.count[index / dim]);
}

}  // namespace fusion_engine
