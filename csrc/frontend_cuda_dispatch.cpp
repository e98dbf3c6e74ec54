// Checks and errors of the frontend on CUDA.
#include "cuda_check.h"
#include "frontend_cuda.h"

namespace fusion_engine {

void log_mel_cuda(const FrontendTables& frontend, const void* words, const FrontendCall& call,
                  void* stream) {
    check_frontend_call(frontend.params, call);
    const FrontendTask task{frontend.params, call, static_cast<const std::uint32_t*>(words)};
    const auto count = static_cast<std::int32_t>(frontend.words.size());
    check_cuda(launch_log_mel(task, count, static_cast<cudaStream_t>(stream)),
               "launching the frontend");
}

}  // namespace fusion_engine
