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
pkg_check_modules(OPENBLAS REQUIRED IMPORTED_TARGET openblas)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)

if(TARGET yaml-cpp::yaml-cpp)
  set(RESTKV_YAML_TARGET yaml-cpp::yaml-cpp)
else()
  set(RESTKV_YAML_TARGET yaml-cpp) # the name before yaml-cpp 0.8
endif()

include(RestkvCuda)
