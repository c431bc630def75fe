# restkv_folder(NAME): the static library restkv_NAME (alias restkv::NAME) of one top-level folder.
# Sources are found by pattern, so that a new policy or op needs no build-file change.
# With CUDA the files *_gpu.cu take the place of the files *_nogpu.cc (which throw the clear error that this build has
# no GPU backend).
function(restkv_folder NAME)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  list(FILTER sources EXCLUDE REGEX "main\\.cc$|_bench\\.cc$")
  if(RESTKV_HAS_CUDA)
    file(GLOB_RECURSE gpu_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*_gpu.cu)
    list(FILTER sources EXCLUDE REGEX "_nogpu\\.cc$")
    list(APPEND sources ${gpu_sources})
    restkv_specific_code(${gpu_sources})
  endif()
  add_library(restkv_${NAME} STATIC ${sources})
  add_library(restkv::${NAME} ALIAS restkv_${NAME})
  set_target_properties(restkv_${NAME} PROPERTIES EXPORT_NAME ${NAME} POSITION_INDEPENDENT_CODE ON)
  restkv_compile_options(restkv_${NAME})
  target_include_directories(restkv_${NAME} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>
                                                   $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/restkv>)
  if(RESTKV_HAS_CUDA)
    target_link_libraries(restkv_${NAME} PRIVATE ${RESTKV_CUDA_LIBRARIES})
  endif()
endfunction()

# Files *_sm90a_gpu.cu use instructions that compute capability 9.0 alone has. They are compiled for it (sm_90a) beside
# the architectures of the build, which get the same kernels empty, and ask at run time which code was loaded.
function(restkv_specific_code)
  if(NOT "${CMAKE_CUDA_ARCHITECTURES}" MATCHES "(^|;)90(-real|-virtual)?(;|$)" OR
     "${CMAKE_CUDA_ARCHITECTURES}" MATCHES "90a")
    return()
  endif()
  foreach(source IN LISTS ARGN)
    if(source MATCHES "_sm90a_gpu\\.cu$")
      set_property(SOURCE ${source} APPEND PROPERTY COMPILE_OPTIONS "--generate-code=arch=compute_90a,code=[sm_90a]")
    endif()
  endforeach()
endfunction()

# The warnings and the language level that every target of ours gets.
function(restkv_compile_options TARGET)
  target_compile_features(${TARGET} PUBLIC cxx_std_20)
  # A flag, not cuda_std_20: CMake 3.25 does not know the standards of a newer nvcc.
  target_compile_options(${TARGET} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:-std=c++20;-DFMT_CONSTEVAL=;-DFMT_USE_CONSTEXPR=1>")
  target_compile_options(${TARGET} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wno-psabi>")
  if(RESTKV_WERROR)
    target_compile_options(${TARGET} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:-Werror>")
  endif()
  if(RESTKV_MARCH)
    target_compile_options(${TARGET} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:-march=${RESTKV_MARCH}>")
  endif()
endfunction()
