# The kernels for NVIDIA GPUs: fastmodel._cuda by nvcc, and the same sources by the C++ compiler as
# fastmodel._cuda_emulated, which runs them on the CPU for tests.

set(FASTMODEL_CUDA AUTO CACHE STRING "AUTO (where nvcc and an NVIDIA device are found), ON or OFF")
set(FASTMODEL_CUDA_EMULATED OFF CACHE BOOL "Build fastmodel._cuda_emulated")

set(has_cuda ${FASTMODEL_CUDA})
if(FASTMODEL_CUDA STREQUAL "AUTO")
  include(CheckLanguage)
  check_language(CUDA)
  file(GLOB devices /dev/nvidia[0-9]*)
  if(CMAKE_CUDA_COMPILER AND devices)
    set(has_cuda ON)
  else()
    set(has_cuda OFF)
  endif()
elseif(NOT FASTMODEL_CUDA MATCHES "^(ON|OFF)$")
  message(FATAL_ERROR "FASTMODEL_CUDA=${FASTMODEL_CUDA} is unknown; set AUTO, ON or OFF")
endif()
message(STATUS "fastmodel: CUDA ${has_cuda} (FASTMODEL_CUDA=${FASTMODEL_CUDA}), emulated ${FASTMODEL_CUDA_EMULATED}")

if(has_cuda)
  # Machine code for sm_80 and sm_90, and PTX for what comes later.
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90)
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 17)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  pybind11_add_module(_cuda NO_EXTRAS csrc/cuda_bindings.cpp)
  set(cuda_flags --threads=2 -Xcompiler=-Wall,-Wextra)
  if(FASTMODEL_CUDA STREQUAL "ON")
    list(APPEND cuda_flags --Werror=all-warnings)  # another nvcc's new warnings must not stop a user
  endif()
  target_compile_options(_cuda PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${warnings}>
                                       "$<$<COMPILE_LANGUAGE:CUDA>:${cuda_flags}>")
  target_include_directories(_cuda PRIVATE csrc)
  target_compile_definitions(_cuda PRIVATE FASTMODEL_CUDA_MODULE=_cuda)
  install(TARGETS _cuda LIBRARY DESTINATION fastmodel)
endif()

if(FASTMODEL_CUDA_EMULATED)
  pybind11_add_module(_cuda_emulated NO_EXTRAS csrc/cuda_bindings.cpp csrc/common/cuda_emulation.cpp)
  # Fibers jump between stacks, which glibc's fortified longjmp takes for a fault.
  target_compile_options(_cuda_emulated PRIVATE ${warnings} -Werror -O1 -U_FORTIFY_SOURCE)
  target_include_directories(_cuda_emulated PRIVATE csrc)
  target_compile_definitions(_cuda_emulated PRIVATE FASTMODEL_CUDA_MODULE=_cuda_emulated
                                                    FASTMODEL_CUDA_EMULATED)
  install(TARGETS _cuda_emulated LIBRARY DESTINATION fastmodel)
endif()

# The op's *_cuda.cu and *_cuda_bindings.cpp, into the modules that are built.
function(fastmodel_add_cuda op)
  file(GLOB kernels CONFIGURE_DEPENDS csrc/${op}/*_cuda.cu)
  file(GLOB bindings CONFIGURE_DEPENDS csrc/${op}/*_cuda_bindings.cpp)
  if(TARGET _cuda)
    target_sources(_cuda PRIVATE ${kernels} ${bindings})
  endif()
  if(TARGET _cuda_emulated)
    foreach(kernel IN LISTS kernels)
      get_filename_component(name ${kernel} NAME_WE)
      set(unit ${CMAKE_CURRENT_BINARY_DIR}/emulated/${name}.cpp)
      file(CONFIGURE OUTPUT ${unit} CONTENT "#include \"${op}/${name}.cu\"\n")
      target_sources(_cuda_emulated PRIVATE ${unit})
    endforeach()
    target_sources(_cuda_emulated PRIVATE ${bindings})
  endif()
endfunction()
