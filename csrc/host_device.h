// Marks of the functions that the CPU code and the CUDA kernels share.
#pragma once

#if defined(__CUDACC__)
#define FUSION_HD __host__ __device__ __forceinline__
// Device code under nvcc, host code otherwise: for templates that call either kind.
#define FUSION_KERNEL __device__ __forceinline__
// Arrays that loops index stay in registers only when the loops are unrolled.
#define FUSION_UNROLL _Pragma("unroll")
// Loops whose loads should be in flight together, but not hold more registers than that.
#define FUSION_UNROLL_8 _Pragma("unroll 8")
// Loops whose body is a block of work: more than one in flight does not fit the registers.
#define FUSION_NO_UNROLL _Pragma("unroll 1")
// What is in shared memory to spare registers is read from there again.
#define FUSION_KEEP_IN_MEMORY asm volatile("" ::: "memory")
#else
#define FUSION_HD inline __attribute__((always_inline))
#define FUSION_KERNEL inline
#define FUSION_UNROLL
#define FUSION_UNROLL_8
#define FUSION_NO_UNROLL
#define FUSION_KEEP_IN_MEMORY
#endif
