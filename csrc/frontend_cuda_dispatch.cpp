// Checks and errors of the frontend on CUDA.
#include "cuda_check.h"
#include "frontend_cuda.h"

namespace fusion_engine {

void log_mel_cuda(const FrontendPlan& plan, const void* tables, const FrontendCall& call,
                  void* stream) {
    check_frontend_call(plan.params, call);
    const FrontendTask task{plan.params, call, static_cast<const std::uint32_t*>(tables)};
    const auto words = static_cast<std::int32_t>(plan.tables.size());
    check_cuda(launch_log_mel(task, words, static_cast<cudaStream_t>(stream)),
               "launching the frontend");
}

}  // namespace fusion_engine
