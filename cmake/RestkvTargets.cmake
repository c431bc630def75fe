# restkv_folder(NAME): the static library restkv_NAME (alias restkv::NAME) of one top-level folder.
# Sources are found by pattern, so that a new policy or op needs no build-file change.
# Files *_gpu.cu are compiled only with CUDA, *_nogpu.cc only without it (they throw the clear error).
function(restkv_folder NAME)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  list(FILTER sources EXCLUDE REGEX "main\\.cc$|_bench\\.cc$")
  add_library(restkv_${NAME} STATIC ${sources})
  add_library(restkv::${NAME} ALIAS restkv_${NAME})
  set_target_properties(restkv_${NAME} PROPERTIES EXPORT_NAME ${NAME} POSITION_INDEPENDENT_CODE ON)
  restkv_compile_options(restkv_${NAME})
  target_include_directories(restkv_${NAME} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>
                                                   $<INSTALL_INTERFACE:include/restkv>)
endfunction()

# The warnings and the language level that every target of ours gets.
function(restkv_compile_options TARGET)
  target_compile_features(${TARGET} PUBLIC cxx_std_20)
  target_compile_options(${TARGET} PRIVATE -Wall -Wextra -Wno-psabi)
  if(RESTKV_WERROR)
    target_compile_options(${TARGET} PRIVATE -Werror)
  endif()
  if(RESTKV_MARCH)
    target_compile_options(${TARGET} PRIVATE -march=${RESTKV_MARCH})
  endif()
endfunction()
