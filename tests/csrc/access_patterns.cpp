// Prints which addresses the kernels' own index functions give to the threads of a warp.
//
// Each line is one access of one warp: `name: bytes that a lane accesses, its lanes' byte offsets`.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "frontend_fft.h"
#include "frontend_grid.h"
#include "layer_fusion_lane.h"

using namespace fusion_engine;

namespace {

using Offsets = std::vector<std::int64_t>;

// One line for each warp.
void print(const std::string& name, int bytes, const Offsets& offsets) {
    for (std::size_t first = 0; first < offsets.size(); first += kWarpThreads) {
        std::printf("%s: %d", name.c_str(), bytes);
        for (std::size_t i = first; i < first + kWarpThreads && i < offsets.size(); ++i) {
            std::printf(" %lld", static_cast<long long>(offsets[i]));
        }
        std::printf("\n");
    }
}

// Points that are their own index tell where a pass reads them, and where it has written them.
template <int kPoints, int kDone>
void fft_pass() {
    using Pass = FftPass<kPoints, kDone>;
    Offsets reads[kPointsPerLane];
    Offsets writes[kPointsPerLane];
    // Where a frame has fewer lanes than a warp, its neighbours' points follow.
    for (std::int32_t thread = 0; thread < std::max(Pass::kLanes, kWarpThreads); ++thread) {
        const std::int32_t lane = thread % Pass::kLanes;
        const std::int64_t first = thread / Pass::kLanes * kPoints;
        Complex z[kPointsPerLane];
        if constexpr (kDone > 1) {
            std::vector<Complex> shared(kPoints);
            for (int i = 0; i < kPoints; ++i) shared[i] = {static_cast<float>(i), 0.0f};
            Pass::read(shared.data(), lane, z);
            for (int i = 0; i < kPointsPerLane; ++i) {
                reads[i].push_back((first + static_cast<std::int64_t>(z[i].re)) * sizeof(Complex));
            }
        }
        for (int i = 0; i < kPointsPerLane; ++i) z[i] = {static_cast<float>(i + 1), 0.0f};
        std::vector<Complex> shared(kPoints, Complex{0.0f, 0.0f});
        Pass::write(z, lane, shared.data());
        for (int slot = 0; slot < kPoints; ++slot) {
            const int i = static_cast<int>(shared[slot].re);
            if (i > 0) writes[i - 1].push_back((first + slot) * sizeof(Complex));
        }
    }
    const std::string name = std::to_string(kPoints) + " points";
    for (const Offsets& offsets : reads) print(name, sizeof(Complex), offsets);
    for (const Offsets& offsets : writes) print(name, sizeof(Complex), offsets);
    if constexpr (kDone * Pass::kRadix < kPoints) fft_pass<kPoints, kDone * Pass::kRadix>();
}

// The sums that a thread clears, value by value.
template <class T, int V>
void lane_sums(const char* name) {
    std::vector<CompensatedSum> sums(kBlockThreads * V);
    Offsets offsets[V];
    for (int thread = 0; thread < kBlockThreads; ++thread) {
        for (CompensatedSum& sum : sums) sum = {1.0f, 1.0f};
        LaneTotal<T, V> total;
        total.sums = sums.data() + thread;
        total.stride = kBlockThreads;
        total.clear();
        int value = 0;
        for (std::size_t i = 0; i < sums.size(); ++i) {
            if (sums[i].sum == 0.0f) offsets[value++].push_back(i * sizeof(CompensatedSum));
        }
    }
    for (const Offsets& each : offsets) print(name, sizeof(CompensatedSum), each);
}

// The first row that each thread of a clip's first block reads.
void first_rows(const char* name, DType dtype, bool nhwc, std::int32_t channels, std::int32_t freq,
                std::int32_t time_pool, std::int64_t target_threads) {
    const std::int32_t time = 64 * time_pool;
    FusionInput input{};
    LayerOutput& layer = input.layers[0];
    layer = {nullptr, 1, dtype, false, channels, freq, time, time_pool};
    layer.stride_segment = std::int64_t{channels} * time * freq;
    layer.stride_channel = nhwc ? 1 : std::int64_t{time} * freq;
    layer.stride_time = nhwc ? std::int64_t{freq} * channels : freq;
    layer.stride_freq = nhwc ? channels : 1;
    input.layer_count = 1;
    input.clips = 1;
    complete_input(input);
    const GridTask task{input, {}, make_grid(input, target_threads)};
    Offsets offsets;
    for (std::int32_t thread = 0; thread < kBlockThreads; ++thread) {
        const GridPlace place = place_of(task, 0, thread);
        const Item item = item_at(layer, task.grid.layers[0].axis, place.item);
        const std::int64_t row = first_frame(place.time_lane, task.grid.time_lanes, 0) * time_pool;
        offsets.push_back((item.offset + row * layer.stride_time) * size_of(dtype));
    }
    print(name, task.grid.layers[0].axis.width * size_of(dtype), offsets);
}

}  // namespace

int main() {
    fft_pass<64, 1>();
    fft_pass<128, 1>();
    fft_pass<256, 1>();
    fft_pass<512, 1>();
    fft_pass<1024, 1>();
    lane_sums<Float16, 8>("sums");
    for (const std::int64_t threads : {1, 1 << 20}) {
        const std::string lanes = threads == 1 ? "1 lane" : "32 lanes";
        const auto rows = [&](const char* name, DType dtype, bool nhwc, int channels, int freq,
                              int pool) {
            first_rows((name + (", " + lanes)).c_str(), dtype, nhwc, channels, freq, pool, threads);
        };
        rows("NHWC float16", DType::kFloat16, true, 512, 4, 2);
        rows("NHWC float32", DType::kFloat32, true, 512, 4, 2);
        rows("NCHW float16, 32 frequencies", DType::kFloat16, false, 64, 32, 16);
        rows("NCHW float16, 8 frequencies", DType::kFloat16, false, 256, 8, 4);
        rows("NCHW float32, 2 frequencies", DType::kFloat32, false, 2048, 2, 1);
    }
}
