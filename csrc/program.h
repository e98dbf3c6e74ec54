// The host's side of a run that is one CUDA graph: samples into page-locked memory, a launch, a
// wait, results out. Nothing here is linked to CUDA: the driver's functions come as addresses.
#pragma once

#include <cstdint>
#include <vector>

#include "frontend.h"

namespace fusion_engine {

// Functions of the CUDA driver, 0 is success. Contexts, graphs and streams are its handles.
struct Driver {
    int (*push_context)(void* context);
    int (*pop_context)(void** context);
    int (*launch_graph)(void* graph, void* stream);
    int (*synchronize_stream)(void* stream);
    int (*error_name)(int error, const char** name);
};

// A graph on the stream that it was recorded on.
struct GraphLaunch {
    Driver driver;
    void* context;
    void* graph;
    void* stream;

    // Throw std::runtime_error with the driver's name of the error.
    void launch() const;
    void wait() const;
    void run() const;  // both
};

enum class ClipType : std::int32_t { kFloat32, kFloat64, kInt16 };

// Samples that the caller holds.
struct HostClip {
    const void* samples;
    ClipType type;
    std::int64_t length;
};

// Clips of different lengths in one batch: what a graph reads of each, and how it follows from the
// samples.
struct RaggedBuffers {
    std::int32_t* valid;   // [B], frames of log-mel; null: all clips have as many
    std::int64_t* counts;  // [B], steps
    std::int64_t hop_length;
    std::int64_t first;  // samples that the first frame takes
    std::int64_t least;  // frames
    std::int64_t frames_per_step;
    std::int64_t step_offset;
};

// Page-locked memory that a graph reads and writes.
struct HostBuffers {
    void* samples;  // [B, stride]
    SampleType type;
    std::int64_t clips;      // B
    std::int64_t stride;     // the most samples of a clip that are read
    std::int64_t* lengths;   // [B]
    std::uint32_t* flags;    // [2, B], of layer outputs and of samples; zero before a run
    const float* embedding;  // [B, D]
    std::int64_t dim;        // D
    RaggedBuffers ragged;
};

// Which clips of a batch have no embedding.
using Faulty = std::vector<bool>;

// Fills samples, lengths and flags in one pass, in which every sample is checked. A clip with one
// that is not finite, or beyond `largest`, is faulty, and runs all the same. One that is in its
// place already is not copied.
void load_clips(const HostBuffers& host, const std::vector<HostClip>& clips, double largest,
                Faulty& faulty);

// Copies the embeddings [B, D] and the flags [B] of layer outputs. A clip with a flag, or with a
// value that is not finite, is faulty.
void store_results(const HostBuffers& host, float* embedding, std::uint32_t* flags, Faulty& faulty);

}  // namespace fusion_engine
