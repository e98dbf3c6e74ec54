# FUSION_ENGINE_CUDA=AUTO|ON|OFF -> FUSION_ENGINE_WITH_CUDA, and FUSION_ENGINE_CUDA_TARGETS: what the
# kernels are compiled for, "sm_80,compute_80,...".

set(FUSION_ENGINE_WITH_CUDA OFF)
set(FUSION_ENGINE_CUDA_TARGETS "")

if(NOT FUSION_ENGINE_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "FUSION_ENGINE_CUDA is '${FUSION_ENGINE_CUDA}'; expected AUTO, ON or OFF")
endif()

# Sets `problem` where the CUDA language cannot be used.
function(fusion_engine_find_cuda problem)
  set(${problem} "" PARENT_SCOPE)
  if(NOT DEFINED CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
    find_program(nvcc nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin)
    mark_as_advanced(nvcc)
    if(nvcc)
      set(ENV{CUDACXX} "${nvcc}")
    endif()
  endif()
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(${problem} "no working nvcc on PATH, in CUDA_HOME or in /usr/local/cuda" PARENT_SCOPE)
    return()
  endif()
  execute_process(COMMAND "${CMAKE_CUDA_COMPILER}" --version OUTPUT_VARIABLE version_text)
  string(REGEX MATCH "release ([0-9.]+)" version "${version_text}")
  if(CMAKE_MATCH_1 VERSION_LESS 12.8) # the first that knows compute capability 10.0 and 12.0
    set(${problem} "${CMAKE_CUDA_COMPILER} is CUDA ${CMAKE_MATCH_1}, 12.8 is needed" PARENT_SCOPE)
  endif()
endfunction()

if(NOT FUSION_ENGINE_CUDA STREQUAL "OFF")
  fusion_engine_find_cuda(problem)
  if(NOT problem)
    set(FUSION_ENGINE_WITH_CUDA ON)
  elseif(FUSION_ENGINE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "FUSION_ENGINE_CUDA=ON, but ${problem}. Install the CUDA toolkit, or set "
                        "CUDACXX to its nvcc.")
  else()
    message(STATUS "Building without CUDA kernels (FUSION_ENGINE_CUDA=AUTO): ${problem}")
  endif()
endif()

if(FUSION_ENGINE_WITH_CUDA)
  # Machine code for the GPUs in use, and PTX of 80, 90 and 120, so that 87, 103, 110 and 121 load.
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 75-real 80 86-real 89-real 90 100-real 120
        CACHE STRING "CUDA architectures")
  endif()
  enable_language(CUDA)
  if(CMAKE_VERSION VERSION_LESS 3.26 AND NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20") # nvcc takes it, older CMake does not know
  endif()
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_EXTENSIONS OFF)
  find_package(CUDAToolkit REQUIRED)
  set(targets "")
  foreach(architecture IN LISTS CMAKE_CUDA_ARCHITECTURES)
    if(architecture MATCHES "^(.+)-real$")
      list(APPEND targets "sm_${CMAKE_MATCH_1}")
    elseif(architecture MATCHES "^(.+)-virtual$")
      list(APPEND targets "compute_${CMAKE_MATCH_1}")
    elseif(architecture MATCHES "^[0-9]")
      list(APPEND targets "sm_${architecture}" "compute_${architecture}")
    else()
      list(APPEND targets "${architecture}") # native, all, all-major
    endif()
  endforeach()
  string(REPLACE ";" "," FUSION_ENGINE_CUDA_TARGETS "${targets}")
  message(STATUS "CUDA kernels with ${CMAKE_CUDA_COMPILER} for ${FUSION_ENGINE_CUDA_TARGETS}")
endif()

# cudart is linked statically: the module imports on a machine with no GPU and no driver.
function(fusion_engine_cuda_options target)
  set_target_properties(${target} PROPERTIES CUDA_RUNTIME_LIBRARY Static CUDA_VISIBILITY_PRESET hidden)
  target_link_libraries(${target} PRIVATE CUDA::cudart_static)
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Wno-unknown-pragmas>)
  if(FUSION_ENGINE_PTXAS_REPORT)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Xptxas=-v>)
  endif()
endfunction()
