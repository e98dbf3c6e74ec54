#include "program.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

namespace fusion_engine {
namespace {

// Of samples on their way to the device: long enough for the bus, short enough that the first is
// soon under way.
constexpr std::int64_t kPieceBytes = 2 << 20;

// Whether all values are within ±largest; NaN is not. Without a branch, so that it is vectorised.
template <class T>
bool within(const T* values, std::int64_t count, T largest) {
    std::uint32_t beyond = 0;
    for (std::int64_t i = 0; i < count; ++i) {
        beyond |= static_cast<std::uint32_t>(!(std::fabs(values[i]) <= largest));
    }
    return beyond == 0;
}

// The same, and copies them: every value is read once.
template <class T>
bool copy_within(const T* values, std::int64_t count, T largest, float* target) {
    std::uint32_t beyond = 0;
    for (std::int64_t i = 0; i < count; ++i) {
        const T value = values[i];
        target[i] = static_cast<float>(value);
        beyond |= static_cast<std::uint32_t>(!(std::fabs(value) <= largest));
    }
    return beyond == 0;
}

template <class T>
bool load_floats(const HostClip& clip, std::int64_t count, T largest, float* target) {
    const T* values = static_cast<const T*>(clip.samples);
    const bool sound = copy_within(values, count, largest, target);
    // What is not read is checked all the same: a clip is refused wherever it is bad.
    return within(values + count, clip.length - count, largest) && sound;
}

void count_frames(const RaggedBuffers& ragged, std::int64_t samples, std::int64_t row) {
    const std::int64_t begun = samples - ragged.first;
    const std::int64_t own = begun < 0 ? 0 : 1 + begun / ragged.hop_length;
    const std::int64_t frames = std::max(own, ragged.least);
    ragged.valid[row] = static_cast<std::int32_t>(frames);
    ragged.counts[row] = (frames + ragged.step_offset) / ragged.frames_per_step;
}

std::int64_t sample_bytes(const HostBuffers& host) {
    return host.type == SampleType::kInt16 ? sizeof(std::int16_t) : sizeof(float);
}

bool sound(const HostClip& clip, double largest) {
    return clip.type == ClipType::kInt16 || within(static_cast<const float*>(clip.samples),
                                                   clip.length, static_cast<float>(largest));
}

// Copies a clip to its row; whether it is sound.
bool stage(const HostBuffers& host, const HostClip& clip, std::int64_t row, double largest) {
    const std::int64_t count = host.lengths[row];
    if (host.type == SampleType::kInt16) {
        std::memcpy(static_cast<std::int16_t*>(host.samples) + row * host.stride, clip.samples,
                    static_cast<std::size_t>(count) * sizeof(std::int16_t));
        return true;
    }
    float* target = static_cast<float*>(host.samples) + row * host.stride;
    switch (clip.type) {
        case ClipType::kFloat32:
            return load_floats(clip, count, static_cast<float>(largest), target);
        case ClipType::kFloat64:
            return load_floats(clip, count, largest, target);
        case ClipType::kInt16:
            break;
    }
    const auto* values = static_cast<const std::int16_t*>(clip.samples);
    for (std::int64_t i = 0; i < count; ++i) {
        target[i] = static_cast<float>(values[i]) * (1.0f / 32768.0f);
    }
    return true;
}

}  // namespace

void Stream::check(int error, const char* what) const {
    if (error == 0) return;
    const char* name = nullptr;
    driver_.error_name(error, &name);
    throw std::runtime_error(std::string(what) + " failed: " +
                             (name != nullptr ? name : "error " + std::to_string(error)));
}

void Stream::copy(std::uintptr_t target, const void* source, std::int64_t bytes) const {
    check(driver_.copy_to_device(target, source, static_cast<std::size_t>(bytes), handle_),
          "copying to the GPU");
}

void Stream::launch(void* graph) const {
    check(driver_.launch_graph(graph, handle_), "launching the graph");
}

void Stream::synchronize() const {
    check(driver_.synchronize_stream(handle_), "running the graph");
}

Stream::Current::Current(const Stream& stream) : driver_(stream.driver_) {
    stream.check(driver_.push_context(stream.context_), "taking the GPU");
}

Stream::Current::~Current() {
    void* popped = nullptr;
    driver_.pop_context(&popped);
}

void load_clips(const HostBuffers& host, const Stream& stream, const std::vector<HostClip>& clips,
                bool in_place, double largest, Faulty& faulty) {
    for (std::int64_t row = 0; row < host.clips; ++row) {
        const std::int64_t length = clips[static_cast<std::size_t>(row)].length;
        host.lengths[row] = std::min(length, host.stride);
        if (host.ragged.valid != nullptr) count_frames(host.ragged, host.lengths[row], row);
    }
    std::fill_n(host.flags, 2 * host.clips, 0u);
    const char* const input = reinterpret_cast<const char*>(host.flags);
    const std::int64_t head = static_cast<const char*>(host.samples) - input;
    const std::int64_t row_bytes = host.stride * sample_bytes(host);
    if (in_place) stream.copy(host.device, input, head);
    std::int64_t sent = 0;
    for (std::int64_t row = 0; row < host.clips; ++row) {
        const auto index = static_cast<std::size_t>(row);
        const std::int64_t end = head + (row + 1) * row_bytes;
        if (in_place) {
            stream.copy(host.device + static_cast<std::uintptr_t>(end - row_bytes),
                        clips[index].samples, host.lengths[row] * sample_bytes(host));
            faulty[index] = !sound(clips[index], largest);
            continue;
        }
        faulty[index] = !stage(host, clips[index], row, largest);
        if (end - sent >= kPieceBytes || row + 1 == host.clips) {
            stream.copy(host.device + static_cast<std::uintptr_t>(sent), input + sent, end - sent);
            sent = end;
        }
    }
}

void store_results(const HostBuffers& host, float* embedding, std::uint32_t* flags,
                   Faulty& faulty) {
    constexpr float kLargest = std::numeric_limits<float>::max();
    for (std::int64_t row = 0; row < host.clips; ++row) {
        const std::int64_t first = row * host.dim;
        const bool finite =
            copy_within(host.embedding + first, host.dim, kLargest, embedding + first);
        flags[row] = host.flags[row];
        if (!finite || flags[row] != 0) faulty[static_cast<std::size_t>(row)] = true;
    }
}

}  // namespace fusion_engine
