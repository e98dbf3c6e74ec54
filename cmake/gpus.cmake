# Which GPUs this machine has, and what to compile for them.

# The compute capabilities that nvidia-smi lists, as "90;120"; none without a driver.
function(fusion_engine_find_gpus result)
  set(found "")
  find_program(nvidia_smi nvidia-smi NO_CACHE)
  if(nvidia_smi)
    execute_process(
      COMMAND "${nvidia_smi}" --query-gpu=compute_cap --format=csv,noheader
      OUTPUT_VARIABLE listed ERROR_QUIET TIMEOUT 60)
    string(REGEX MATCHALL "[0-9]+\\.[0-9]" found "${listed}")
    list(TRANSFORM found REPLACE "\\." "")
    list(REMOVE_DUPLICATES found)
  endif()
  set(${result} "${found}" PARENT_SCOPE)
endfunction()

# For each of `gpus` machine code and PTX, or where the compiler does not know it the PTX of the one
# before. `known` are the compiler's architectures; nothing for a GPU that is older than all.
function(fusion_engine_architectures_of gpus known result)
  set(found "")
  list(SORT known COMPARE NATURAL)
  foreach(gpu IN LISTS gpus)
    set(nearest "")
    foreach(architecture IN LISTS known)
      if(architecture LESS_EQUAL gpu)
        set(nearest ${architecture})
      endif()
    endforeach()
    if(nearest AND NOT nearest EQUAL gpu)
      string(APPEND nearest "-virtual")
    endif()
    list(APPEND found ${nearest})
  endforeach()
  list(REMOVE_DUPLICATES found)
  set(${result} "${found}" PARENT_SCOPE)
endfunction()
