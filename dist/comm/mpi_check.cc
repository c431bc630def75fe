#include "dist/comm/mpi_check.h"

#include <string>

#include "dist/base/error.h"

namespace restkv::detail {

void mpi_failed(const char* call, const char* file, int line, int code) {
  char words[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  if (MPI_Error_string(code, words, &length) != MPI_SUCCESS) length = 0;
  int rank = -1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  fail_runtime("{}:{}: {} failed on rank {} with code {}: {}", file, line, call, rank, code,
               std::string(words, static_cast<size_t>(length)));
}

}  // namespace restkv::detail
