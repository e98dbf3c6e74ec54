// The frontend kernel for the CPU.
#include "cuda_runtime_api.h"

// Of a block; blocks run one after another.
#define __shared__ static

#include "../../../csrc/frontend_cuda.cu"
