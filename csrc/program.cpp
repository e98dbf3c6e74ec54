#include "program.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

namespace fusion_engine {
namespace {

void check(const Driver& driver, int error, const char* what) {
    if (error == 0) return;
    const char* name = nullptr;
    driver.error_name(error, &name);
    throw std::runtime_error(std::string(what) + " failed: " +
                             (name != nullptr ? name : "error " + std::to_string(error)));
}

// The context of the calling thread for as long as this lives.
class CurrentContext {
  public:
    CurrentContext(const Driver& driver, void* context) : driver_(driver) {
        check(driver, driver.push_context(context), "taking the GPU");
    }
    ~CurrentContext() {
        void* popped = nullptr;
        driver_.pop_context(&popped);
    }
    CurrentContext(const CurrentContext&) = delete;
    CurrentContext& operator=(const CurrentContext&) = delete;

  private:
    const Driver& driver_;
};

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

bool load_clip(const HostBuffers& host, const HostClip& clip, std::int64_t row, double largest) {
    const std::int64_t count = std::min(clip.length, host.stride);
    host.lengths[row] = count;
    if (host.ragged.valid != nullptr) count_frames(host.ragged, count, row);
    if (host.type == SampleType::kInt16) {
        std::int16_t* target = static_cast<std::int16_t*>(host.samples) + row * host.stride;
        if (target != clip.samples) {
            std::memcpy(target, clip.samples, static_cast<std::size_t>(count) * sizeof *target);
        }
        return true;
    }
    float* target = static_cast<float*>(host.samples) + row * host.stride;
    if (target == clip.samples) {  // written there by the caller
        return within(target, clip.length, static_cast<float>(largest));
    }
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

void GraphLaunch::launch() const {
    const CurrentContext current(driver, context);
    check(driver, driver.launch_graph(graph, stream), "launching the graph");
}

void GraphLaunch::wait() const {
    const CurrentContext current(driver, context);
    check(driver, driver.synchronize_stream(stream), "running the graph");
}

void GraphLaunch::run() const {
    const CurrentContext current(driver, context);
    check(driver, driver.launch_graph(graph, stream), "launching the graph");
    check(driver, driver.synchronize_stream(stream), "running the graph");
}

void load_clips(const HostBuffers& host, const std::vector<HostClip>& clips, double largest,
                Faulty& faulty) {
    for (std::int64_t row = 0; row < host.clips; ++row) {
        const auto index = static_cast<std::size_t>(row);
        faulty[index] = !load_clip(host, clips[index], row, largest);
    }
    std::fill_n(host.flags, 2 * host.clips, 0u);
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
