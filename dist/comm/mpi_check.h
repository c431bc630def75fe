// The one check of MPI calls. Include in .cc files only: it brings in mpi.h.
#pragma once

// The C interface alone: the C++ one would have to be linked.
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

namespace restkv::detail {

/// Throws RuntimeFailure with the call, its place, MPI's words and this process's world rank.
[[noreturn]] void mpi_failed(const char* call, const char* file, int line, int code);

}  // namespace restkv::detail

/// RESTKV_MPI_CHECK(MPI_Barrier(comm)). The communicator must carry MPI_ERRORS_RETURN.
#define RESTKV_MPI_CHECK(call)                                                  \
  do {                                                                          \
    const int restkv_mpi_code = (call);                                         \
    if (restkv_mpi_code != MPI_SUCCESS) [[unlikely]]                            \
      ::restkv::detail::mpi_failed(#call, __FILE__, __LINE__, restkv_mpi_code); \
  } while (0)
