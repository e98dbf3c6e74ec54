// Layer fusion (Niizumi et al. 2022, Eq. 1-3): max-pool each layer output over time, flatten
// channel-major, concatenate, pool over time. One pass over the input.
#pragma once

#include <cstdint>

#include "accumulator.h"
#include "dtypes.h"

namespace fusion_engine {

constexpr int kMaxLayers = 32;  // one bit of a clip's flags each
// So that 32-bit arithmetic on channels, frames and items has room, and 64-bit sums of a call too.
constexpr std::int64_t kMaxExtent = 1 << 30;  // of an axis of a layer output
constexpr std::int64_t kMaxDim = 1 << 28;
constexpr std::int64_t kMaxSegments = (std::int64_t{1} << 31) - 1;
constexpr std::int64_t kMaxCounted = std::int64_t{1} << 31;  // frames of a clip in one call

// A map [S, C, T, F], or a vector [S, C] (time 1, freq 1). Strides count elements.
struct LayerOutput {
    const void* data;
    std::int64_t segments;
    DType dtype;
    bool is_vector;
    std::int32_t channels;
    std::int32_t freq;
    std::int32_t time;
    std::int32_t time_pool;
    std::int64_t stride_segment;
    std::int64_t stride_channel;
    std::int64_t stride_time;
    std::int64_t stride_freq;

    FUSION_HD std::int32_t dim() const { return channels * freq; }
};

// A call's layer outputs and which of their frames belong to which clip.
struct FusionInput {
    LayerOutput layers[kMaxLayers];
    std::int32_t layer_count;
    std::int32_t dim;             // D, the sum of the layers' dims
    std::int64_t clips;           // B
    std::int64_t segments;        // S
    std::int64_t frames;          // T_o of every segment; 1 where all layers are vectors
    const std::int64_t* offsets;  // [B + 1], null: segment b is clip b
    const std::int64_t* begins;   // [S], null: 0
    const std::int64_t* counts;   // [S], null: `frames`

    FUSION_HD std::int64_t first_segment(std::int64_t clip) const {
        return offsets != nullptr ? offsets[clip] : clip;
    }
    FUSION_HD std::int64_t begin(std::int64_t segment) const {
        return begins != nullptr ? begins[segment] : 0;
    }
    FUSION_HD std::int64_t count(std::int64_t segment) const {
        return counts != nullptr ? counts[segment] : frames;
    }
};

// Where frame features [B, D, total] go, if anywhere: clip b's start at frame offsets[b].
struct FrameFeatures {
    float* data;  // null: not wanted
    std::int64_t total;
    const std::int64_t* offsets;  // [B], null: 0
};

// Clips that are fused in several calls. `sum + compensation` is the sum.
struct FusionState {
    float* sum;           // [B, D], 0 at first
    float* compensation;  // [B, D], 0 at first
    float* max;           // [B, D], -infinity at first
    float* count;         // [B], 0 at first
};

// One shot writes `embedding`; with a null one the call is added to `state`.
struct FusionOutput {
    float* embedding;  // [B, D]
    Head head;
    FusionState state;
    std::uint32_t* flags;  // [B], bit l is set when a value read from layers[l] is not finite
    FrameFeatures frames;
};

// Sets segments, dim, frames and checks what can be checked without reading the arrays.
// Throws std::invalid_argument.
void complete_input(FusionInput& input);

// The sizes of a state. Throws std::invalid_argument.
void check_state(std::int64_t clips, std::int64_t dim);

// Checks host arrays against the input. Returns the counted frames of all clips.
// Throws std::invalid_argument, also for a clip with no counted frame when fused in one shot.
std::int64_t check_arrays(const FusionInput& input, const FusionOutput& output);

// CPU: the CUDA algorithm built for the host, its blocks shared out to `threads`. A GPU gives a
// value to several threads, each with some of the frames, until `target_threads` are busy; with 1
// there is one thread to a value, and the result depends neither on `threads` nor on the other
// clips.
void fuse_cpu(const FusionInput& input, const FusionOutput& output, int threads,
              std::int64_t target_threads);
void finalize_cpu(const FusionState& state, std::int64_t clips, std::int64_t dim, Head head,
                  float* embedding);

// CUDA; every pointer is a device pointer and the work is queued on `stream` (a cudaStream_t).
// Flags are or-ed, never cleared. Throw std::runtime_error on a CUDA error or in a build without
// CUDA, std::invalid_argument on wrong shapes; arrays in device memory are trusted.
void fuse_cuda(const FusionInput& input, const FusionOutput& output, void* stream);
void finalize_cuda(const FusionState& state, std::int64_t clips, std::int64_t dim, Head head,
                   float* embedding, void* stream);

}  // namespace fusion_engine
