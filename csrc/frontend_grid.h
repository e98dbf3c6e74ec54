// The CUDA algorithm of the frontend, in functions that build for the GPU and for the host.
//
// A frame belongs to a group of n_fft / 16 lanes (a warp for 512 points), up to 8 frames to a
// block. Sample pairs x[2n] + i x[2n + 1] make one complex FFT of half the size (frontend_fft.h);
// with E and O the spectra of the even and the odd samples, Z = E + i O, and
//     X[k]         = E[k] + w^k O[k],    w = exp(-2 pi i / n_fft),
//     X[n_fft/2-k] = conj(E[k] - w^k O[k]),   2 E[k] = Z[k] + conj Z[n_fft/2 - k],
// so one lane turns the pair k, n_fft/2 - k into two powers. A mel bin is one lane's sum over its
// row of the bank. Rows go in slices of as many as there are lanes, padded with zero weights to the
// slice's longest and stored column by column, so that loads coalesce.
//
// Memory traffic: a frame reads its samples in words of two. Neighbouring frames share most of
// them; they run in one block at the same time, so the overlap is served by the L1 cache, and from
// device memory every sample comes once (1.3 times through the L2 cache, for the blocks' seams).
// Everything in between stays in registers and 8 n_fft / 2 bytes of shared memory a frame. The
// log-mel is written once, in whole lines. What limits a large batch is shared memory: about 250
// cycles of its pipe per 512-point frame, some five times the time of the frame's bytes in HBM.
//
// Rounding: all in FP32, tables rounded from FP64. The error of a bin is white, relative to the
// frame's largest bin, and grows with sqrt(log n_fft), not with n_fft. The mean of a frame is taken
// twice, the second time of what the first leaves, so that a large offset costs no precision.
#pragma once

#include <cmath>
#include <cstdint>

#include "frontend.h"
#include "frontend_fft.h"
#include "rounding.h"

namespace fusion_engine {

constexpr int kMaxFrontendThreads = 256;  // of a block
constexpr int kMaxFramesPerBlock = 8;

// What a kernel gets, by value.
struct FrontendTask {
    FrontendParams params;
    FrontendCall call;
    const std::uint32_t* tables;

    FUSION_HD const float* table(std::int32_t offset) const {
        return reinterpret_cast<const float*>(tables) + offset;
    }
};

template <int kPoints>
struct FrontendShape {
    static constexpr int kLanes = kPoints / kPointsPerLane;
    static constexpr int kFramesPerBlock = kMaxFrontendThreads / kLanes < kMaxFramesPerBlock
                                               ? kMaxFrontendThreads / kLanes
                                               : kMaxFramesPerBlock;
    static constexpr int kThreads = kFramesPerBlock * kLanes;
};

// Which frame a group computes.
struct FramePlace {
    std::int64_t clip;
    std::int32_t frame;
    std::int32_t block_frame;  // the first of its block
};

template <int kPoints>
FUSION_HD std::int64_t blocks_per_clip(const FrontendCall& call) {
    constexpr int kFrames = FrontendShape<kPoints>::kFramesPerBlock;
    return (call.out_frames + kFrames - 1) / kFrames;
}

template <int kPoints>
FUSION_HD FramePlace frame_place(const FrontendCall& call, std::int64_t block, std::int32_t group) {
    // A grid has less than 2^31 blocks, and a 64-bit division is slow on a GPU.
    const auto index = static_cast<std::uint32_t>(block);
    const auto blocks = static_cast<std::uint32_t>(blocks_per_clip<kPoints>(call));
    const auto first =
        static_cast<std::int32_t>(index % blocks * FrontendShape<kPoints>::kFramesPerBlock);
    return {index / blocks, first + group, first};
}

// A lane's part of a frame: samples, then points of the spectrum, then powers.
struct FrameLane {
    Complex z[kPointsPerLane];
    float check;   // 0, or NaN once a sample read is not finite: 0 * x
    float middle;  // lane 0: the value of bin n_fft / 4
};

// Frames of a clip.
FUSION_HD std::int32_t frames_of(const FrontendTask& task, std::int64_t clip) {
    const FrontendParams& params = task.params;
    const FrontendCall& call = task.call;
    const auto most = static_cast<std::int32_t>(call.frames);
    if (call.least == 0) return most;
    const auto least = static_cast<std::int32_t>(call.least);
    const auto length =
        static_cast<std::int32_t>(call.lengths != nullptr ? call.lengths[clip] : call.stride);
    const std::int32_t begun = length - (params.centre != 0 ? 0 : params.win_length);
    const std::int32_t own = begun < 0 ? 0 : 1 + begun / params.hop_length;
    return own < least ? least : own > most ? most : own;
}

FUSION_HD float sample_value(float sample) { return sample; }
FUSION_HD float sample_value(std::int16_t sample) {
    return static_cast<float>(sample) * (1.0f / 32768.0f);
}

template <class Sample>
struct alignas(2 * sizeof(Sample)) SamplePair {
    Sample first;
    Sample second;
};

// Samples 2n and 2n + 1 of the frame for n = lane, lane + kLanes, ...; zeros after the window.
template <int kPoints, class Sample>
FUSION_HD void load_samples(const FrontendTask& task, const FramePlace& place, std::int32_t frames,
                            std::int32_t lane, Complex (&z)[kPointsPerLane]) {
    constexpr int kLanes = FrontendShape<kPoints>::kLanes;
    const FrontendParams& params = task.params;
    const FrontendCall& call = task.call;
    const Sample* clip = static_cast<const Sample*>(call.samples) + place.clip * call.stride;
    const auto length =
        static_cast<std::int32_t>(call.lengths != nullptr ? call.lengths[place.clip] : call.stride);
    const auto begin = static_cast<std::int32_t>(place.frame) * params.hop_length - params.centre;
    const std::int32_t window = params.win_length;

    const bool inside = begin >= 0 && begin + window + (window & 1) <= length;
    const auto address = reinterpret_cast<std::uintptr_t>(clip + begin);
    if (inside && address % sizeof(SamplePair<Sample>) == 0) {
        const auto* source = reinterpret_cast<const SamplePair<Sample>*>(clip + begin);
        SamplePair<Sample> pairs[kPointsPerLane] = {};
        FUSION_UNROLL
        for (int i = 0; i < kPointsPerLane; ++i) {
            const std::int32_t n = lane + i * kLanes;
            if (2 * n < window) pairs[i] = source[n];
        }
        FUSION_UNROLL
        for (int i = 0; i < kPointsPerLane; ++i) {
            const std::int32_t n = lane + i * kLanes;
            z[i].re = sample_value(pairs[i].first);
            if (2 * n + 1 < window) z[i].im = sample_value(pairs[i].second);
        }
        return;
    }

    const auto needed = static_cast<std::int32_t>(params.samples(frames));
    const std::int32_t padded = length > needed ? length : needed;
    const auto at = [&](std::int32_t index) {
        std::int32_t i = begin + index;
        if (i < 0) i = -i;
        if (i >= padded) i = 2 * (padded - 1) - i;
        return index < window && i >= 0 && i < length ? sample_value(clip[i]) : 0.0f;
    };
    FUSION_UNROLL
    for (int i = 0; i < kPointsPerLane; ++i) {
        const std::int32_t n = lane + i * kLanes;
        z[i] = {at(2 * n), at(2 * n + 1)};
    }
}

// Loads a lane's samples. A frame that only fills its block computes zeros.
template <int kPoints>
FUSION_HD void load_frame(const FrontendTask& task, const FramePlace& place, std::int32_t frames,
                          std::int32_t lane, FrameLane& state) {
    FUSION_UNROLL
    for (int i = 0; i < kPointsPerLane; ++i) state.z[i] = {0.0f, 0.0f};
    state.check = 0.0f;
    if (place.frame >= frames) return;
    if (task.call.type == SampleType::kInt16) {
        load_samples<kPoints, std::int16_t>(task, place, frames, lane, state.z);
    } else {
        load_samples<kPoints, float>(task, place, frames, lane, state.z);
        FUSION_UNROLL
        for (int i = 0; i < kPointsPerLane; ++i) {
            state.check += state.z[i].re * 0.0f + state.z[i].im * 0.0f;
        }
    }
}

FUSION_HD float sum_of(const Complex (&z)[kPointsPerLane]) {
    float sum = 0.0f;
    FUSION_UNROLL
    for (int i = 0; i < kPointsPerLane; ++i) sum += z[i].re + z[i].im;
    return sum;
}

// Subtracts the mean of the frame from the lanes' sums; what is after the window stays zero.
template <int kPoints>
FUSION_HD void subtract_mean(const float* sums, const FrontendParams& params, std::int32_t lane,
                             Complex (&z)[kPointsPerLane]) {
    constexpr int kLanes = FrontendShape<kPoints>::kLanes;
    float parts[4] = {};
    for (int i = 0; i < kLanes; i += 4) {
        FUSION_UNROLL
        for (int j = 0; j < 4; ++j) parts[j] += sums[i + j];
    }
    const float mean = ((parts[0] + parts[1]) + (parts[2] + parts[3])) * params.mean_factor;
    const std::int32_t window = params.win_length;
    FUSION_UNROLL
    for (int i = 0; i < kPointsPerLane; ++i) {
        const std::int32_t n = lane + i * kLanes;
        if (2 * n < window) z[i].re -= mean;
        if (2 * n + 1 < window) z[i].im -= mean;
    }
}

// y[n] = x[n] - c x[n - 1], the first sample against itself; `odd` has the frame's odd samples.
template <int kPoints>
FUSION_HD void emphasise(const float* odd, float coefficient, std::int32_t lane,
                         Complex (&z)[kPointsPerLane]) {
    FUSION_UNROLL
    for (int i = 0; i < kPointsPerLane; ++i) {
        const std::int32_t n = lane + i * FrontendShape<kPoints>::kLanes;
        const float before = n > 0 ? odd[n - 1] : z[i].re;
        z[i].im -= coefficient * z[i].re;
        z[i].re -= coefficient * before;
    }
}

template <int kPoints>
FUSION_HD void multiply_window(const float* window, std::int32_t lane,
                               Complex (&z)[kPointsPerLane]) {
    const auto* pairs = reinterpret_cast<const Complex*>(window);
    FUSION_UNROLL
    for (int i = 0; i < kPointsPerLane; ++i) {
        const Complex pair = read_table(pairs + lane + i * FrontendShape<kPoints>::kLanes);
        z[i].re *= pair.re;
        z[i].im *= pair.im;
    }
}

FUSION_HD float power_of(Complex bin) { return bin.re * bin.re + bin.im * bin.im; }

// Reads Z from `shared`: the powers of bins k and kPoints - k into z[i], k = lane + i * kLanes.
// Bin 0 pairs with bin kPoints, for Z repeats; bin kPoints / 2 is alone: lane 0's `middle`.
template <int kPoints>
FUSION_HD void split_spectrum(const Complex* shared, const Complex* turns, std::int32_t lane,
                              FrameLane& state) {
    FUSION_UNROLL
    for (int i = 0; i < kPointsPerLane / 2; ++i) {
        const std::int32_t k = lane + i * FrontendShape<kPoints>::kLanes;
        const Complex a = shared[fft_slot(k)];
        const Complex b = shared[fft_slot((kPoints - k) % kPoints)];
        const Complex even = {a.re + b.re, a.im - b.im};
        const Complex odd = {a.im + b.im, b.re - a.re};
        const Complex turned = odd * read_table(turns + k);
        state.z[i] = {0.25f * power_of(even + turned), 0.25f * power_of(even - turned)};
    }
    if (lane == 0) state.middle = power_of(shared[fft_slot(kPoints / 2)]);
}

template <int kPoints>
FUSION_HD void write_spectrum(const FrameLane& state, std::int32_t lane, float* spectrum) {
    FUSION_UNROLL
    for (int i = 0; i < kPointsPerLane / 2; ++i) {
        const std::int32_t k = lane + i * FrontendShape<kPoints>::kLanes;
        spectrum[k] = state.z[i].re;
        spectrum[kPoints - k] = state.z[i].im;
    }
    if (lane == 0) spectrum[kPoints / 2] = state.middle;
}

FUSION_HD float log_of(const FrontendParams& params, float mel) {
    float value = params.log_floor;
    if (params.log == Logarithm::kLnAdd) {
        value = logf(mel + params.log_offset);
    } else if (!(mel <= params.log_offset)) {  // a NaN is no floor
        value = params.log == Logarithm::kDecibel ? 10.0f * log10f(mel) : logf(mel);
    }
    return (value - params.mean) * params.scale;
}

// Writes a bin of the frame's row: as a graph would that has a Mul, an Add and a Cast.
FUSION_HD void store_bin(const FrontendTask& task, const FramePlace& place, std::int32_t m,
                         float value) {
    const FrontendParams& params = task.params;
    if (params.affine != 0) {
        const float* scales = task.table(params.affine);
        value = value * read_table(scales + m) + read_table(scales + params.n_mels + m);
    }
    const std::int64_t index =
        (place.clip * task.call.out_frames + place.frame) * params.n_mels + m;
    if (params.out == DType::kFloat16) {
        static_cast<Float16*>(task.call.out)[index] = to_float16(value);
    } else if (params.out == DType::kBFloat16) {
        static_cast<BFloat16*>(task.call.out)[index] = to_bfloat16(value);
    } else {
        static_cast<float*>(task.call.out)[index] = value;
    }
}

// The lane's mel bins: lane, lane + kLanes, ...
template <int kPoints>
FUSION_HD void store_mel(const FrontendTask& task, const FramePlace& place, const float* spectrum,
                         std::int32_t lane) {
    constexpr int kLanes = FrontendShape<kPoints>::kLanes;
    const FrontendParams& params = task.params;
    const auto* starts = reinterpret_cast<const std::int32_t*>(task.tables + params.mel_starts);
    const auto* slices = reinterpret_cast<const std::int32_t*>(task.tables + params.mel_slices);
    const float* weights = task.table(params.mel_weights) + lane;
    for (std::int32_t m = lane, slice = 0; m < params.n_mels; m += kLanes, ++slice) {
        const float* values = spectrum + starts[m];
        const std::int32_t width = slices[slice];
        float sum = 0.0f;
        FUSION_UNROLL_8
        for (std::int32_t j = 0; j < width; ++j) {
            sum += read_table(weights) * values[j];
            weights += kLanes;
        }
        store_bin(task, place, m, log_of(params, sum));
    }
}

template <int kPoints>
FUSION_HD void store_padding(const FrontendTask& task, const FramePlace& place, std::int32_t lane) {
    for (std::int32_t m = lane; m < task.params.n_mels; m += FrontendShape<kPoints>::kLanes) {
        store_bin(task, place, m, task.params.padding);
    }
}

template <int kPoints, int kDone, class Group>
FUSION_KERNEL void transform_from(const Complex* twiddles, Group& group) {
    using Pass = FftPass<kPoints, kDone>;
    if constexpr (kDone > 1) {
        group.phase([&](FrameLane& state, std::int32_t lane) {
            Pass::read(group.points(), lane, state.z);
        });
    }
    group.phase([&](FrameLane& state, std::int32_t lane) {
        Pass::transform(twiddles, lane, state.z);
        Pass::write(state.z, lane, group.points());
    });
    if constexpr (kDone * Pass::kRadix < kPoints) {
        transform_from<kPoints, kDone * Pass::kRadix>(twiddles, group);
    }
}

// A frame from its samples to its row of log-mel. `group.phase` runs a function for every lane and
// then waits for all of them; within a phase, no lane touches what another lane writes.
template <int kPoints, class Group>
FUSION_KERNEL void log_mel_frame(const FrontendTask& task, const FramePlace& place, Group& group) {
    const FrontendParams& params = task.params;
    const auto pad = [&](FrameLane&, std::int32_t lane) {
        if (place.frame < task.call.out_frames) store_padding<kPoints>(task, place, lane);
    };
    // All of a block or none: the larger frames' phases wait for the whole block.
    const std::int32_t frames = frames_of(task, place.clip);
    if (place.block_frame >= frames) return group.phase(pad);

    group.phase([&](FrameLane& state, std::int32_t lane) {
        load_frame<kPoints>(task, place, frames, lane, state);
        group.report(state, place);
    });
    for (int pass = 0; params.remove_dc && pass < 2; ++pass) {
        group.phase(
            [&](FrameLane& state, std::int32_t lane) { group.values()[lane] = sum_of(state.z); });
        group.phase([&](FrameLane& state, std::int32_t lane) {
            subtract_mean<kPoints>(group.values(), params, lane, state.z);
        });
    }
    if (params.preemphasis != 0.0f) {
        group.phase([&](FrameLane& state, std::int32_t lane) {
            FUSION_UNROLL
            for (int i = 0; i < kPointsPerLane; ++i) {
                group.values()[lane + i * FrontendShape<kPoints>::kLanes] = state.z[i].im;
            }
        });
        group.phase([&](FrameLane& state, std::int32_t lane) {
            emphasise<kPoints>(group.values(), params.preemphasis, lane, state.z);
        });
    }
    group.phase([&](FrameLane& state, std::int32_t lane) {
        multiply_window<kPoints>(task.table(0), lane, state.z);
    });
    transform_from<kPoints, 1>(reinterpret_cast<const Complex*>(task.table(params.twiddles)),
                               group);
    const auto* turns = reinterpret_cast<const Complex*>(task.table(params.turns));
    group.phase([&](FrameLane& state, std::int32_t lane) {
        split_spectrum<kPoints>(group.points(), turns, lane, state);
    });
    group.phase([&](FrameLane& state, std::int32_t lane) {
        write_spectrum<kPoints>(state, lane, group.values());
    });
    if (params.magnitude) {
        group.phase([&](FrameLane&, std::int32_t lane) {
            for (std::int32_t k = lane; k <= kPoints; k += FrontendShape<kPoints>::kLanes) {
                group.values()[k] = sqrtf(group.values()[k]);
            }
        });
    }
    group.phase([&](FrameLane& state, std::int32_t lane) {
        if (place.frame >= frames) return pad(state, lane);
        store_mel<kPoints>(task, place, group.values(), lane);
    });
}

// Calls run.template operator()<kPoints>() for half the FFT's size.
template <class Run>
void dispatch_points(std::int32_t n_fft, Run&& run) {
    switch (n_fft) {
        case 128:
            return run.template operator()<64>();
        case 256:
            return run.template operator()<128>();
        case 512:
            return run.template operator()<256>();
        case 1024:
            return run.template operator()<512>();
        default:
            static_assert(kMinFft == 128 && kMaxFft == 2048);
            return run.template operator()<1024>();
    }
}

}  // namespace fusion_engine
