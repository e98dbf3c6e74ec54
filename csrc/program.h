// The host's side of a run that is one CUDA graph: samples to the device, a launch, a wait, results
// out. Nothing here is linked to CUDA: the driver's functions come as addresses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "frontend.h"

namespace fusion_engine {

// Functions of the CUDA driver, 0 is success. Contexts, graphs and streams are its handles.
struct Driver {
    int (*push_context)(void* context);
    int (*pop_context)(void** context);
    int (*copy_to_device)(std::uintptr_t target, const void* source, std::size_t bytes,
                          void* stream);
    int (*launch_graph)(void* graph, void* stream);
    int (*synchronize_stream)(void* stream);
    int (*error_name)(int error, const char** name);
};

// A stream of one GPU. Its calls throw std::runtime_error with the driver's name of the error.
class Stream {
  public:
    Stream(const Driver& driver, void* context, void* handle)
        : driver_(driver), context_(context), handle_(handle) {}

    void copy(std::uintptr_t target, const void* source, std::int64_t bytes) const;
    void launch(void* graph) const;
    void synchronize() const;

    // The stream's GPU is the calling thread's for as long as this lives.
    class Current {
      public:
        explicit Current(const Stream& stream);
        ~Current();
        Current(const Current&) = delete;
        Current& operator=(const Current&) = delete;

      private:
        const Driver& driver_;
    };

  private:
    void check(int error, const char* what) const;

    Driver driver_;
    void* context_;
    void* handle_;
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

// Page-locked memory that goes to the device before a run, and that a run writes. From `flags` to
// the end of `samples` it is as it is on the device, from `device` on.
struct HostBuffers {
    std::uint32_t* flags;   // [2, B], of layer outputs and of samples; zero before a run
    std::int64_t* lengths;  // [B]
    void* samples;          // [B, stride]
    std::uintptr_t device;
    SampleType type;
    std::int64_t clips;      // B
    std::int64_t stride;     // the most samples of a clip that are read
    const float* embedding;  // [B, D]
    std::int64_t dim;        // D
    RaggedBuffers ragged;
};

// Which clips of a batch have no embedding.
using Faulty = std::vector<bool>;

// Sends a batch to the device, in a few pieces that are on their way while the next is copied to
// page-locked memory. Every sample is read once, and checked: a clip with one that is not finite,
// or beyond `largest`, is faulty, and runs all the same. Clips that are `in_place`, of the buffers'
// type in page-locked memory of the caller's, are not copied on the host. Within `Stream::Current`.
void load_clips(const HostBuffers& host, const Stream& stream, const std::vector<HostClip>& clips,
                bool in_place, double largest, Faulty& faulty);

// Copies the embeddings [B, D] and the flags [B] of layer outputs. A clip with a flag, or with a
// value that is not finite, is faulty.
void store_results(const HostBuffers& host, float* embedding, std::uint32_t* flags, Faulty& faulty);

}  // namespace fusion_engine
