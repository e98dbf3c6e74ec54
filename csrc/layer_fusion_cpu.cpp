// Layer fusion on the CPU: vectors of up to 16 items' values, no intermediate in memory.
#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstring>
#include <system_error>
#include <thread>
#include <type_traits>
#include <vector>

#include "layer_fusion.h"
#include "layer_items.h"

// The wheel targets baseline x86-64; the loader picks the widest version the processor has.
// Every version does the same operations in the same order, so the results are the same.
// A sanitizer's runtime is not ready yet when the loader asks for the version.
#if defined(__x86_64__) && !defined(FUSION_ENGINE_SANITIZED) && defined(__GLIBC__) && \
    defined(__GNUC__) && !defined(__clang__)
#define FUSION_MULTIVERSION __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FUSION_MULTIVERSION
#endif
#define FUSION_INLINE inline __attribute__((always_inline))

namespace fusion_engine {
namespace {

constexpr int kLanes = 16;
constexpr double kTaskBytes = 128 << 10;
// Half a millisecond of work: less is not worth starting a thread for.
constexpr double kBytesPerThread = 8 << 20;

// GCC's vector types: elementwise arithmetic and comparison, of any width on any target.
template <int N>
struct Vector {
    typedef float Float __attribute__((vector_size(N * sizeof(float))));
    typedef std::int32_t Int __attribute__((vector_size(N * sizeof(float))));
    typedef std::uint32_t Bits __attribute__((vector_size(N * sizeof(float))));
    typedef std::uint16_t Half __attribute__((vector_size(N * sizeof(Float16))));
};
template <int N>
using Float = typename Vector<N>::Float;
template <int N>
using Int = typename Vector<N>::Int;

template <int N>
FUSION_INLINE Float<N> broadcast(float value) {
    return Float<N>{} + value;
}

template <class T, int N>
FUSION_INLINE Float<N> load(const T* source) {
    if constexpr (std::is_same_v<T, float>) {
        Float<N> values;
        std::memcpy(&values, source, sizeof values);
        return values;
    } else {
        typename Vector<N>::Half halves;
        std::memcpy(&halves, source, sizeof halves);
        const auto bits = __builtin_convertvector(halves, typename Vector<N>::Bits);
        if constexpr (std::is_same_v<T, BFloat16>) return std::bit_cast<Float<N>>(bits << 16);
        return float_of_half_bits<Float<N>>(bits);
    }
}

// N independent values of the result, and the largest magnitude read as its bits: finite ones are
// below infinity's, and integers have a maximum that sees NaN.
template <int N>
struct Reduction {
    Accumulator<Float<N>> total{Float<N>{}, Float<N>{}, broadcast<N>(kLowest)};
    Int<N> magnitude{};

    FUSION_INLINE void note(Float<N> values) {
        magnitude = larger(magnitude, std::bit_cast<Int<N>>(values) & 0x7fffffff);
    }
    FUSION_INLINE bool non_finite() const {
        std::int32_t largest = 0;
        for (int i = 0; i < N; ++i) largest = std::max<std::int32_t>(largest, magnitude[i]);
        return largest >= 0x7f800000;
    }
};

// Max-pools `frames` windows of `pool` rows and reduces them (Eq. 1 and 3).
template <class T, int N>
FUSION_INLINE void reduce_frames(const T* row, std::ptrdiff_t stride_time, int pool,
                                 std::int64_t frames, Reduction<N>& result) {
    for (std::int64_t begin = 0; begin < frames; begin += kBlockFrames) {
        const std::int64_t end = std::min<std::int64_t>(begin + kBlockFrames, frames);
        Float<N> partial{};
        for (std::int64_t frame = begin; frame < end; ++frame) {
            Float<N> pooled = broadcast<N>(kLowest);
            for (int j = 0; j < pool; ++j, row += stride_time) {
                const Float<N> values = load<T, N>(row);
                result.note(values);
                pooled = larger(pooled, values);
            }
            partial += pooled;
            result.total.max = larger(result.total.max, pooled);
        }
        result.total.add(partial);
    }
}

template <class Wide, class Narrow>
FUSION_INLINE void split(const Wide& from, Narrow& lower, Narrow& upper) {
    std::memcpy(&lower, &from, sizeof lower);
    std::memcpy(&upper, reinterpret_cast<const char*>(&from) + sizeof lower, sizeof upper);
}

// Folds the upper half of the lanes into the lower until N are left.
template <int N, int M>
FUSION_INLINE void fold(const Reduction<M>& wide, Reduction<N>& result) {
    if constexpr (M == N) {
        result.total.merge(wide.total);
        result.magnitude = larger(result.magnitude, wide.magnitude);
    } else {
        Reduction<M / 2> lower;
        Reduction<M / 2> upper;
        split(wide.total.sum, lower.total.sum, upper.total.sum);
        split(wide.total.compensation, lower.total.compensation, upper.total.compensation);
        split(wide.total.max, lower.total.max, upper.total.max);
        split(wide.magnitude, lower.magnitude, upper.magnitude);
        lower.total.merge(upper.total);
        lower.magnitude = larger(lower.magnitude, upper.magnitude);
        fold<N>(lower, result);
    }
}

// Rows of N < 16 values that follow each other and are not pooled: 16 values at a time, frame i's
// in lanes i * N mod 16 and up. The last vector is loaded from the end, what it repeats is masked.
template <class T, int N>
FUSION_INLINE void reduce_flat(const T* row, std::int64_t frames, Reduction<N>& result) {
    const std::int64_t values = frames * N;
    const std::int64_t whole = values / kLanes;
    const int rest = static_cast<int>(values % kLanes);
    Reduction<kLanes> wide;
    reduce_frames<T, kLanes>(row, kLanes, 1, whole, wide);
    if (rest != 0) {
        const Float<kLanes> last = load<T, kLanes>(row + values - kLanes);
        constexpr Int<kLanes> kLane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        wide.note(last);
        wide.total.max = larger(wide.total.max, last);
        wide.total.add(kLane >= kLanes - rest ? last : Float<kLanes>{});
    }
    fold<N>(wide, result);
}

struct Task {
    std::int64_t clip;
    std::int32_t layer;
    ItemAxis axis;
    std::int32_t first_item;
    std::int32_t last_item;
    std::int64_t output;  // index of the layer's d = 0 of this clip in [B, D]
    float count;
    bool non_finite;
};

template <int N>
FUSION_INLINE void store(const FusionOutput& output, std::int64_t index, std::int32_t d_stride,
                         const Accumulator<Float<N>>& total, float count) {
    if (output.embedding != nullptr && d_stride == 1) {
        const Float<N> values = embedding_of(output.head, total, count);
        std::memcpy(output.embedding + index, &values, sizeof values);
        return;
    }
    for (int i = 0; i < N; ++i) {
        store_result(output, index + i * d_stride,
                     {total.sum[i], total.compensation[i], total.max[i]}, count);
    }
}

// All frames of the clip for the task's items: each value of the result is wholly one worker's.
template <class T, int N>
FUSION_INLINE void reduce_items(const FusionInput& input, const FusionOutput& output, Task& task) {
    const LayerOutput& layer = input.layers[task.layer];
    const bool flat = !task.axis.along_channels && N < kLanes && layer.freq == N &&
                      layer.time_pool == 1 && layer.stride_time == N;
    const std::int64_t end = input.first_segment(task.clip + 1);
    for (std::int32_t index = task.first_item; index < task.last_item; ++index) {
        const Item item = item_at(layer, task.axis, index);
        Reduction<N> result;
        for (std::int64_t s = input.first_segment(task.clip); s < end; ++s) {
            const T* start = static_cast<const T*>(layer.data) + s * layer.stride_segment +
                             item.offset + input.begin(s) * layer.time_pool * layer.stride_time;
            const std::int64_t frames = input.count(s);
            if (flat && frames * N >= kLanes) {
                reduce_flat<T, N>(start, frames, result);
            } else {
                reduce_frames<T, N>(start, layer.stride_time, layer.time_pool, frames, result);
            }
        }
        task.non_finite |= result.non_finite();
        store<N>(output, task.output + item.d, item.d_stride, result.total, task.count);
    }
}

// A vector stands for each of its segment's counted frames.
template <class T>
FUSION_INLINE void reduce_vectors(const FusionInput& input, const FusionOutput& output,
                                  Task& task) {
    const LayerOutput& layer = input.layers[task.layer];
    const std::int64_t end = input.first_segment(task.clip + 1);
    for (std::int32_t d = task.first_item; d < task.last_item; ++d) {
        Reduction<1> checked;
        Accumulator<float> total = empty_accumulator();
        for (std::int64_t s = input.first_segment(task.clip); s < end; ++s) {
            if (input.count(s) == 0) continue;
            const T* source = static_cast<const T*>(layer.data) + s * layer.stride_segment +
                              d * layer.stride_channel;
            checked.note(load<T, 1>(source));
            add_repeated(total, to_float(*source), static_cast<float>(input.count(s)));
        }
        task.non_finite |= checked.non_finite();
        store_result(output, task.output + d, total, task.count);
    }
}

// Frame features of the task's items, in a pass of their own: the data is in the cache by now.
template <class T>
FUSION_INLINE void write_frames(const FusionInput& input, const FrameFeatures& frames,
                                const Task& task) {
    const LayerOutput& layer = input.layers[task.layer];
    const std::int64_t end = input.first_segment(task.clip + 1);
    const std::int64_t start = frames.offsets != nullptr ? frames.offsets[task.clip] : 0;
    const std::int32_t width = task.axis.width;
    for (std::int32_t i = task.first_item * width; i < task.last_item * width; ++i) {
        const Item item = item_at(layer, task.axis, i / width);
        const std::int32_t lane = i % width;
        const std::int64_t lane_stride =
            task.axis.along_channels ? layer.stride_channel : layer.stride_freq;
        float* out =
            frames.data + (task.output + item.d + lane * item.d_stride) * frames.total + start;
        for (std::int64_t s = input.first_segment(task.clip); s < end; ++s) {
            const T* row = static_cast<const T*>(layer.data) + s * layer.stride_segment +
                           item.offset + lane * lane_stride +
                           input.begin(s) * layer.time_pool * layer.stride_time;
            for (std::int64_t frame = 0; frame < input.count(s); ++frame) {
                float pooled = kLowest;
                for (int j = 0; j < layer.time_pool; ++j, row += layer.stride_time) {
                    pooled = larger(pooled, to_float(*row));
                }
                *out++ = pooled;
            }
        }
    }
}

template <class T>
FUSION_INLINE void run_task(const FusionInput& input, const FusionOutput& output, Task& task) {
    if (input.layers[task.layer].is_vector) {
        reduce_vectors<T>(input, output, task);
    } else {
        switch (task.axis.width) {
            case 16:
                reduce_items<T, 16>(input, output, task);
                break;
            case 8:
                reduce_items<T, 8>(input, output, task);
                break;
            case 4:
                reduce_items<T, 4>(input, output, task);
                break;
            case 2:
                reduce_items<T, 2>(input, output, task);
                break;
            default:
                reduce_items<T, 1>(input, output, task);
        }
    }
    if (output.frames.data != nullptr) write_frames<T>(input, output.frames, task);
}

FUSION_MULTIVERSION void run_float32(const FusionInput& in, const FusionOutput& out, Task& task) {
    run_task<float>(in, out, task);
}
FUSION_MULTIVERSION void run_float16(const FusionInput& in, const FusionOutput& out, Task& task) {
    run_task<Float16>(in, out, task);
}
FUSION_MULTIVERSION void run_bfloat16(const FusionInput& in, const FusionOutput& out, Task& task) {
    run_task<BFloat16>(in, out, task);
}

void run(const FusionInput& input, const FusionOutput& output, Task& task) {
    switch (input.layers[task.layer].dtype) {
        case DType::kFloat32:
            return run_float32(input, output, task);
        case DType::kFloat16:
            return run_float16(input, output, task);
        case DType::kBFloat16:
            return run_bfloat16(input, output, task);
    }
}

// As double: of repeated rows the product can exceed 64 bits.
double bytes_per_value(const LayerOutput& layer, std::int64_t counted) {
    return static_cast<double>(counted) * layer.time_pool * size_of(layer.dtype);
}

std::vector<Task> make_tasks(const FusionInput& input, const std::vector<std::int64_t>& counted) {
    std::vector<Task> tasks;
    for (std::int64_t clip = 0; clip < input.clips; ++clip) {
        std::int64_t output = clip * input.dim;
        const std::int64_t frames = counted[static_cast<std::size_t>(clip)];
        for (std::int32_t l = 0; l < input.layer_count; ++l) {
            const LayerOutput& layer = input.layers[l];
            const ItemAxis axis = layer.is_vector
                                      ? ItemAxis{true, 1}
                                      : choose_item_axis(layer, input.segments, kLanes, false);
            const std::int32_t items = item_count(layer, axis);
            const double item_bytes = axis.width * bytes_per_value(layer, frames);
            const auto step = static_cast<std::int32_t>(
                std::clamp(kTaskBytes / std::max(item_bytes, 1.0), 1.0, std::max(items, 1) * 1.0));
            for (std::int32_t first = 0; first < items; first += step) {
                tasks.push_back({clip, l, axis, first, std::min(first + step, items), output,
                                 static_cast<float>(frames), false});
            }
            output += layer.dim();
        }
    }
    return tasks;
}

}  // namespace

void fuse_cpu(const FusionInput& input, const FusionOutput& output, int threads) {
    const std::vector<std::int64_t> counted = check_arrays(input, output);
    std::vector<Task> tasks = make_tasks(input, counted);

    double bytes = 0;
    for (std::int32_t l = 0; l < input.layer_count; ++l) {
        for (const std::int64_t frames : counted) {
            bytes += input.layers[l].dim() * bytes_per_value(input.layers[l], frames);
        }
    }
    const auto most = std::min(static_cast<double>(tasks.size()), static_cast<double>(threads));
    const auto workers =
        static_cast<std::int64_t>(std::clamp(bytes / kBytesPerThread, 1.0, std::max(most, 1.0)));
    std::atomic<std::size_t> next{0};
    const auto work = [&] {
        for (std::size_t i = next++; i < tasks.size(); i = next++) run(input, output, tasks[i]);
    };
    {
        std::vector<std::jthread> others;
        try {
            for (std::int64_t i = 1; i < workers; ++i) others.emplace_back(work);
        } catch (const std::system_error&) {
            // No more threads can start: those that did, and this one, do the work.
        }
        work();
    }

    for (const Task& task : tasks) {
        if (task.non_finite) output.flags[task.clip] |= 1u << task.layer;
    }
    if (output.embedding == nullptr) {
        for (std::int64_t clip = 0; clip < input.clips; ++clip) {
            output.state.count[clip] += static_cast<float>(counted[static_cast<std::size_t>(clip)]);
        }
    }
}

void finalize_cpu(const FusionState& state, std::int64_t clips, std::int64_t dim, Head head,
                  float* embedding) {
    for (std::int64_t i = 0; i < clips * dim; ++i) {
        embedding[i] = embedding_of<float>(
            head, {state.sum[i], state.compensation[i], state.max[i]}, state.count[i / dim]);
    }
}

}  // namespace fusion_engine
