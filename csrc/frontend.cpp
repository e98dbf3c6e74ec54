// The tables of a frontend, and the checks of a call.
#include "frontend.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numbers>
#include <stdexcept>
#include <string>

#include "frontend_fft.h"

namespace fusion_engine {
namespace {

constexpr std::int64_t kLargest = std::numeric_limits<std::int32_t>::max();
// Of a clip, so that the kernel counts samples in 32 bits, also those of a reflected index: 18
// hours at 16 kHz.
constexpr std::int64_t kMaxSamples = 1 << 30;

void check_range(const char* name, std::int64_t value, std::int64_t least, std::int64_t most) {
    if (value >= least && value <= most) return;
    throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) + "; expected " +
                                std::to_string(least) + " to " + std::to_string(most));
}

void check_finite(const char* name, double value) {
    if (std::isfinite(static_cast<float>(value))) return;
    throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) +
                                "; expected a finite FP32 number");
}

void check_settings(const FrontendSettings& settings) {
    const std::int64_t n = settings.n_fft;
    if (n < kMinFft || n > kMaxFft || !std::has_single_bit(static_cast<std::uint64_t>(n))) {
        throw std::invalid_argument("n_fft is " + std::to_string(n) +
                                    "; the CUDA frontend takes powers of two from " +
                                    std::to_string(kMinFft) + " to " + std::to_string(kMaxFft) +
                                    ": compute this log-mel on the CPU");
    }
    check_range("win_length", settings.win_length, 1, n);
    check_range("hop_length", settings.hop_length, 1, kMaxSamples);
    check_range("n_mels", settings.n_mels, 1, 4096);
    check_finite("preemphasis", settings.preemphasis);
    check_finite("log_offset", settings.log_offset);
    check_finite("mean", settings.mean);
    check_finite("1 / divisor", 1.0 / settings.divisor);
    if (static_cast<float>(settings.log_offset) <= 0.0f) {
        throw std::invalid_argument("log_offset is " + std::to_string(settings.log_offset) +
                                    "; expected a positive FP32 number");
    }
}

// Appends to the tables; every section begins at a whole Complex.
class TableWriter {
  public:
    explicit TableWriter(std::vector<std::uint32_t>& words) : words_(words) {}

    std::int32_t begin_section() {
        if (words_.size() % 2 != 0) words_.push_back(0);
        return static_cast<std::int32_t>(words_.size());
    }
    void add(double value) {
        words_.push_back(std::bit_cast<std::uint32_t>(static_cast<float>(value)));
    }
    void add(std::int32_t value) { words_.push_back(static_cast<std::uint32_t>(value)); }

    // exp(-2 pi i * turn / whole)
    void add_turn(std::int64_t turn, std::int64_t whole) {
        const double angle =
            -2.0 * std::numbers::pi * static_cast<double>(turn) / static_cast<double>(whole);
        add(std::cos(angle));
        add(std::sin(angle));
    }

  private:
    std::vector<std::uint32_t>& words_;
};

void add_twiddles(TableWriter& tables, std::int64_t points) {
    for (std::int64_t done = 8; done < points; done *= 8) {
        const std::int64_t radix = std::min<std::int64_t>(8, points / done);
        for (std::int64_t q = 1; q < radix; ++q) {
            for (std::int64_t k = 0; k < done; ++k) tables.add_turn(q * k, done * radix);
        }
    }
}

// The bank's rows between their first and last weight, in slices (see frontend_grid.h).
void add_mel(TableWriter& tables, const FrontendSettings& settings, const double* filters,
             FrontendParams& params) {
    const std::int64_t bins = settings.n_fft / 2 + 1;
    const std::int64_t mels = settings.n_mels;
    const std::int64_t lanes = settings.n_fft / 2 / kPointsPerLane;
    const auto weight = [&](std::int64_t bin, std::int64_t m) {
        return m < mels && bin < bins ? filters[bin * mels + m] : 0.0;
    };
    std::vector<std::int32_t> starts;
    std::vector<std::int32_t> widths;
    for (std::int64_t first = 0; first < mels; first += lanes) {
        std::int64_t width = 0;
        for (std::int64_t m = first; m < first + lanes; ++m) {
            std::int64_t begin = 0;
            std::int64_t end = bins;
            while (begin < bins && weight(begin, m) == 0.0) ++begin;
            while (end > begin && weight(end - 1, m) == 0.0) --end;
            width = std::max(width, end - begin);
            starts.push_back(static_cast<std::int32_t>(begin));
        }
        // No row may read past the last bin, not even with a weight of zero.
        for (auto start = starts.end() - lanes; start != starts.end(); ++start) {
            *start = static_cast<std::int32_t>(std::min<std::int64_t>(*start, bins - width));
        }
        widths.push_back(static_cast<std::int32_t>(width));
    }

    params.mel_starts = tables.begin_section();
    for (const std::int32_t start : starts) tables.add(start);
    params.mel_slices = tables.begin_section();
    for (const std::int32_t width : widths) tables.add(width);
    params.mel_weights = tables.begin_section();
    for (std::size_t slice = 0; slice < widths.size(); ++slice) {
        const std::int64_t first = static_cast<std::int64_t>(slice) * lanes;
        for (std::int32_t j = 0; j < widths[slice]; ++j) {
            for (std::int64_t m = first; m < first + lanes; ++m) {
                tables.add(weight(starts[static_cast<std::size_t>(m)] + j, m));
            }
        }
    }
}

}  // namespace

FrontendTables make_frontend_tables(const FrontendSettings& settings, const double* window,
                                    const double* filters, const float* affine) {
    check_settings(settings);
    FrontendTables frontend{};
    FrontendParams& params = frontend.params;
    params.n_fft = static_cast<std::int32_t>(settings.n_fft);
    params.win_length = static_cast<std::int32_t>(settings.win_length);
    params.hop_length = static_cast<std::int32_t>(settings.hop_length);
    params.n_mels = static_cast<std::int32_t>(settings.n_mels);
    params.centre = settings.reflect ? params.n_fft / 2 : 0;
    params.remove_dc = settings.remove_dc;
    params.magnitude = settings.magnitude;
    params.mean_factor = static_cast<float>(1.0 / static_cast<double>(settings.win_length));
    params.preemphasis = static_cast<float>(settings.preemphasis);
    params.log = settings.log;
    params.log_offset = static_cast<float>(settings.log_offset);
    params.log_floor = static_cast<float>(settings.log == Logarithm::kDecibel
                                              ? 10.0 * std::log10(settings.log_offset)
                                              : std::log(settings.log_offset));
    params.mean = static_cast<float>(settings.mean);
    params.scale = static_cast<float>(1.0 / settings.divisor);
    params.padding = static_cast<float>(-settings.mean / settings.divisor);
    params.out = settings.out;

    TableWriter tables(frontend.words);
    for (std::int64_t n = 0; n < settings.n_fft; ++n) {
        tables.add(n < settings.win_length ? window[n] : 0.0);
    }
    params.twiddles = tables.begin_section();
    add_twiddles(tables, settings.n_fft / 2);
    params.turns = tables.begin_section();
    for (std::int64_t k = 0; k < settings.n_fft / 4; ++k) tables.add_turn(k, settings.n_fft);
    add_mel(tables, settings, filters, params);
    if (affine != nullptr) {
        params.affine = tables.begin_section();
        for (std::int64_t i = 0; i < 2 * settings.n_mels; ++i) {
            check_finite("affine", affine[i]);
            tables.add(affine[i]);
        }
    }
    return frontend;
}

void check_frontend_call(const FrontendParams& params, const FrontendCall& call) {
    check_range("clips", call.clips, 0, kLargest);
    check_range("stride", call.stride, 1, kMaxSamples);
    check_range("frames", call.frames, 1, kMaxSamples);
    check_range("least", call.least, 0, call.frames);
    check_range("the samples of all frames", params.samples(call.frames), 0, kMaxSamples);
    check_range("out_frames", call.out_frames, call.frames, kMaxSamples);
    const std::int64_t longest = std::max(call.stride, params.samples(call.frames));
    if (longest <= params.centre) {
        throw std::invalid_argument("the clips have at most " + std::to_string(longest) +
                                    " samples; expected at least " +
                                    std::to_string(params.centre + 1) + " to reflect " +
                                    std::to_string(params.centre) + " at their ends");
    }
}

}  // namespace fusion_engine
