// Checks of layer fusion's arguments.
#include "layer_fusion.h"

#include <stdexcept>
#include <string>

namespace fusion_engine {
namespace {

[[noreturn]] void fail(const std::string& message) { throw std::invalid_argument(message); }

std::string layer_name(std::int32_t index) { return "outputs[" + std::to_string(index) + "]"; }

void check_range(const char* what, std::int64_t value, std::int64_t most) {
    if (value >= 0 && value <= most) return;
    fail("got " + std::to_string(value) + " " + what + "; expected 0 to " + std::to_string(most));
}

void check_segment(const FusionInput& input, bool has_time, std::int64_t s) {
    const std::int64_t begin = input.begin(s);
    const std::int64_t count = input.count(s);
    const bool negative = begin < 0 || count < 0;
    const bool outside = has_time && (begin > input.frames || count > input.frames - begin);
    if (!negative && !outside) return;
    fail("segment " + std::to_string(s) + " counts " + std::to_string(count) + " frames from " +
         std::to_string(begin) + "; expected " +
         (negative ? "begins and counts of at least 0"
                   : "frames below the layer outputs' T_o = " + std::to_string(input.frames)));
}

void check_offsets(const FusionInput& input) {
    if (input.offsets == nullptr) return;
    if (input.offsets[0] != 0 || input.offsets[input.clips] != input.segments) {
        fail("offsets run from " + std::to_string(input.offsets[0]) + " to " +
             std::to_string(input.offsets[input.clips]) +
             "; expected 0 to the number of segments, " + std::to_string(input.segments));
    }
    for (std::int64_t b = 0; b < input.clips; ++b) {
        if (input.offsets[b + 1] < input.offsets[b]) {
            fail("offsets decrease from " + std::to_string(input.offsets[b]) + " to " +
                 std::to_string(input.offsets[b + 1]) + " at clip " + std::to_string(b));
        }
    }
}

}  // namespace

void check_state(std::int64_t clips, std::int64_t dim) {
    check_range("clips", clips, kMaxSegments);
    check_range("values of D", dim, kMaxDim);
}

void complete_input(FusionInput& input) {
    input.segments = input.layers[0].segments;
    check_range("clips", input.clips, kMaxSegments);
    check_range("segments", input.segments, kMaxSegments);
    std::int64_t dim = 0;
    std::int32_t first_map = -1;
    input.frames = 1;
    for (std::int32_t l = 0; l < input.layer_count; ++l) {
        const LayerOutput& layer = input.layers[l];
        if (layer.segments != input.segments) {
            fail(layer_name(l) + " has " + std::to_string(layer.segments) +
                 " segments, outputs[0] has " + std::to_string(input.segments));
        }
        dim += std::int64_t{layer.channels} * layer.freq;
        if (layer.channels < 1 || layer.freq < 1) {
            fail(layer_name(l) + " has " + std::to_string(layer.channels) + " channels and " +
                 std::to_string(layer.freq) + " frequencies; expected at least 1");
        }
        if (layer.time_pool < 1) {
            fail("time_pools[" + std::to_string(l) + "] is " + std::to_string(layer.time_pool) +
                 "; expected at least 1");
        }
        if (layer.is_vector) {
            if (layer.time_pool != 1) {
                fail(layer_name(l) + " is a vector and has time_pool " +
                     std::to_string(layer.time_pool) + "; expected 1");
            }
            continue;
        }
        const std::int64_t frames = layer.time / layer.time_pool;
        if (first_map >= 0 && frames != input.frames) {
            fail(layer_name(l) + " has T_o = " + std::to_string(layer.time) + " // " +
                 std::to_string(layer.time_pool) + " = " + std::to_string(frames) + ", " +
                 layer_name(first_map) + " has " + std::to_string(input.frames) +
                 "; expected the same");
        }
        if (first_map < 0) first_map = l;
        input.frames = frames;
    }
    if (dim > kMaxDim) {
        fail("the layers add up to D = " + std::to_string(dim) + "; expected at most 2^28");
    }
    input.dim = static_cast<std::int32_t>(dim);
    if (input.offsets == nullptr && input.clips != input.segments) {
        fail(std::to_string(input.clips) + " clips have " + std::to_string(input.segments) +
             " segments and no offsets");
    }
}

std::int64_t check_arrays(const FusionInput& input, const FusionOutput& output) {
    check_offsets(input);
    bool has_time = false;
    for (std::int32_t l = 0; l < input.layer_count; ++l) has_time |= !input.layers[l].is_vector;

    std::int64_t counted = 0;
    for (std::int64_t b = 0; b < input.clips; ++b) {
        std::int64_t frames = 0;
        for (std::int64_t s = input.first_segment(b); s < input.first_segment(b + 1); ++s) {
            check_segment(input, has_time, s);
            if (input.count(s) > kMaxCounted - frames) {
                fail("clip " + std::to_string(b) + " counts more than 2^31 frames");
            }
            frames += input.count(s);
        }
        if (frames == 0 && output.embedding != nullptr) {
            fail("clip " + std::to_string(b) + " has no counted frame; expected at least one");
        }
        const std::int64_t start = output.frames.offsets != nullptr ? output.frames.offsets[b] : 0;
        if (output.frames.data != nullptr && (start < 0 || start > output.frames.total - frames)) {
            fail("clip " + std::to_string(b) + " writes " + std::to_string(frames) +
                 " frame features at " + std::to_string(start) + "; the frames buffer holds " +
                 std::to_string(output.frames.total));
        }
        counted += frames;
    }
    return counted;
}

}  // namespace fusion_engine
