// The host build of the CUDA frontend: lane by lane, in the kernel's order.
#include "frontend_grid.h"

namespace fusion_engine {
namespace {

template <int kPoints>
class HostGroup {
  public:
    explicit HostGroup(const FrontendTask& task) : task_(task) {}

    Complex* points() { return shared_; }
    float* values() { return &shared_[0].re; }

    template <class Function>
    void phase(Function function) {
        for (std::int32_t lane = 0; lane < FrontendShape<kPoints>::kLanes; ++lane) {
            function(lanes_[lane], lane);
        }
    }

    void report(const FrameLane& lane, const FramePlace& place) const {
        if (lane.check != 0.0f && task_.call.flags != nullptr) task_.call.flags[place.clip] |= 1u;
    }

  private:
    const FrontendTask& task_;
    FrameLane lanes_[FrontendShape<kPoints>::kLanes];
    Complex shared_[kPoints];
};

struct HostGrid {
    const FrontendTask& task;

    template <int kPoints>
    void operator()() const {
        const std::int64_t blocks = task.call.clips * blocks_per_clip<kPoints>(task.call);
        HostGroup<kPoints> group(task);
        for (std::int64_t block = 0; block < blocks; ++block) {
            for (std::int32_t g = 0; g < FrontendShape<kPoints>::kFramesPerBlock; ++g) {
                log_mel_frame<kPoints>(task, frame_place<kPoints>(task.call, block, g), group);
            }
        }
    }
};

}  // namespace

void log_mel_on_host_grid(const FrontendTables& frontend, const FrontendCall& call) {
    check_frontend_call(frontend.params, call);
    const FrontendTask task{frontend.params, call, frontend.words.data()};
    dispatch_points(frontend.params.n_fft, HostGrid{task});
}

}  // namespace fusion_engine
