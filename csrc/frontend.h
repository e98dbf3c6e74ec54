// The frontend: from samples in memory to the network's input, in one launch: log-mel, or what the
// network's first operations make of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "dtypes.h"
#include "host_device.h"

namespace fusion_engine {

constexpr int kMinFft = 128;
constexpr int kMaxFft = 2048;

enum class SampleType : std::int32_t { kFloat32, kInt16 };  // int16 PCM is taken as x / 32768
enum class Logarithm : std::int32_t { kDecibel, kLnAdd, kLnMax };

// What a frontend computes. Lengths in samples.
struct FrontendSettings {
    std::int64_t n_fft;
    std::int64_t win_length;
    std::int64_t hop_length;
    std::int64_t n_mels;
    bool reflect;  // frames are centred and reflected at the clip's ends; else whole frames only
    bool remove_dc;
    bool magnitude;  // the mel spectrum sums magnitudes, not powers
    double preemphasis;
    Logarithm log;
    double log_offset;
    double mean;     // subtracted from the log-mel
    double divisor;  // it is then divided by this
    DType out;       // what is then rounded to
};

// What a kernel needs to know beside the tables.
struct FrontendParams {
    std::int32_t n_fft;
    std::int32_t win_length;
    std::int32_t hop_length;
    std::int32_t n_mels;
    std::int32_t centre;  // samples of the first frame that lie before the clip
    bool remove_dc;
    bool magnitude;
    float mean_factor;  // 1 / win_length
    float preemphasis;
    Logarithm log;
    float log_offset;
    float log_floor;  // the logarithm of log_offset
    float mean;
    float scale;
    float padding;  // a zero of log-mel, normalised
    DType out;
    // Where the tables begin, in words of 4 bytes; the window is first.
    std::int32_t twiddles;
    std::int32_t turns;
    std::int32_t mel_starts;
    std::int32_t mel_slices;
    std::int32_t mel_weights;
    std::int32_t affine;  // [2, n_mels] scales and offsets of the log-mel; 0: none

    // The smallest number of samples that gives `frames` frames.
    FUSION_HD std::int64_t samples(std::int64_t frames) const {
        return (frames - 1) * hop_length + (centre != 0 ? 0 : win_length);
    }
};

// Settings and tables, made once for a frontend. The tables are computed in FP64 and rounded once;
// a kernel reads them through one pointer.
struct FrontendTables {
    FrontendParams params;
    std::vector<std::uint32_t> words;
};

// `window` [win_length], `filters` [n_fft / 2 + 1, n_mels] row by row; `affine` [2, n_mels], the
// scale and the offset of each bin of the normalised log-mel, or null. Throws
// std::invalid_argument, also for an n_fft that no kernel takes.
FrontendTables make_frontend_tables(const FrontendSettings& settings, const double* window,
                                    const double* filters, const float* affine);

// A call. Clip b's samples begin at b * stride; a clip that is too short for its frames is padded
// with zeros on the right, and the reflection is at the end of the padded clip.
struct FrontendCall {
    const void* samples;
    SampleType type;
    std::int64_t clips;           // B
    std::int64_t stride;          // samples from one clip to the next
    const std::int64_t* lengths;  // [B], null: `stride`
    std::int64_t frames;          // of every clip, from its start
    std::int64_t least;  // 0; else a clip has as many as its samples give, from this to `frames`
    void* out;           // [B, out_frames, n_mels] of the tables' type
    std::int64_t out_frames;  // rows after a clip's frames become the padding
    std::uint32_t* flags;     // [B], bit 0 is set when a sample read is not finite; null: none
};

// The CUDA algorithm built for the host: the same threads and order of sums.
// Throws std::invalid_argument.
void log_mel_on_host_grid(const FrontendTables& frontend, const FrontendCall& call);

// CUDA; every pointer is a device pointer, `words` those of `frontend`, and the work is queued on
// `stream` (a cudaStream_t). Nothing is allocated. Flags are or-ed, never cleared. Throw
// std::runtime_error on a CUDA error or in a build without CUDA, std::invalid_argument on wrong
// sizes; arrays in device memory are trusted.
void log_mel_cuda(const FrontendTables& frontend, const void* words, const FrontendCall& call,
                  void* stream);

// Checks what can be checked without reading the arrays. Throws std::invalid_argument.
void check_frontend_call(const FrontendParams& params, const FrontendCall& call);

}  // namespace fusion_engine
