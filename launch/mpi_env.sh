# Sourced by the scripts: how they start ranks. Sets the array MPIRUN; use: "${MPIRUN[@]}" -np N PROGRAM ...
# Ranks are not bound to cores: each takes the threads that its configuration names.
MPIRUN=(mpirun --bind-to none --oversubscribe)
if [ "$(id -u)" -eq 0 ]; then # in a container; Open MPI wants to be told twice
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

# restkv_ranks N: call before starting N ranks. With more ranks than cores a waiting rank must give its core away.
restkv_ranks() {
  if [ "$1" -gt "$(nproc)" ]; then export OMPI_MCA_mpi_yield_when_idle=1; fi
}
