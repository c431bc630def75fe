# Every dependency comes from the distribution's packages. cmake/restkv-config.cmake.in finds the same ones again for
# a project that uses the installed library.
find_package(MPI REQUIRED COMPONENTS CXX)
find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(CLI11 REQUIRED)
find_package(PkgConfig REQUIRED)
# PREFIX=MODULE gives the target PkgConfig::PREFIX.
set(RESTKV_PKG_MODULES OPENBLAS=openblas PCRE2=libpcre2-8 UTF8PROC=libutf8proc SENTENCEPIECE=sentencepiece)
foreach(module IN LISTS RESTKV_PKG_MODULES)
  string(REPLACE "=" ";" module ${module})
  list(GET module 0 prefix)
  list(GET module 1 name)
  pkg_check_modules(${prefix} REQUIRED IMPORTED_TARGET ${name})
endforeach()

if(TARGET yaml-cpp::yaml-cpp)
  set(RESTKV_YAML_TARGET yaml-cpp::yaml-cpp)
else()
  set(RESTKV_YAML_TARGET yaml-cpp) # the name before yaml-cpp 0.8
endif()

include(RestkvCuda)
