#include "dist/base/blas_kernels.h"

#include <cblas.h>

#include <cstdlib>
#include <mutex>

// What OpenBLAS runs on load when it holds kernels for many processors. Weak: other builds have no such functions.
extern "C" {
void gotoblas_dynamic_init(void) __attribute__((weak));
void gotoblas_dynamic_quit(void) __attribute__((weak));
}

namespace restkv {
namespace {

// The kernels for this processor, or null when the oldest ones are right.
const char* kernels_by_features() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd"))
    return "SkylakeX";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "Haswell";
#endif
  return nullptr;
}

void choose_once() {
  constexpr const char* kVariable = "OPENBLAS_CORETYPE";
  const char* name = kernels_by_features();
  if (name == nullptr || std::string(openblas_get_corename()) != "Prescott" || std::getenv(kVariable) != nullptr)
    return;
  if (gotoblas_dynamic_init == nullptr || gotoblas_dynamic_quit == nullptr) return;
  // The variable is the only way to tell OpenBLAS; it is read by the next line but one.
  ::setenv(kVariable, name, 1);
  gotoblas_dynamic_quit();
  gotoblas_dynamic_init();
  ::unsetenv(kVariable);
}

}  // namespace

std::string choose_blas_kernels() {
  static std::once_flag once;
  std::call_once(once, choose_once);
  return openblas_get_corename();
}

}  // namespace restkv
