# Sourced where ranks run on several hosts (launch/mpirun_hosts.sh, launch/slurm.sbatch): what MPI and NCCL are told, each
# with its reason. A variable that is set already stays.

# Open MPI: a host that is cut off is noticed within about 20 s (without: after more than 5 minutes, or never while data
# waits to be sent), and mpirun ends the ranks of all hosts.
export OMPI_MCA_oob_tcp_keepalive_time="${OMPI_MCA_oob_tcp_keepalive_time:-5}"
export OMPI_MCA_oob_tcp_keepalive_intvl="${OMPI_MCA_oob_tcp_keepalive_intvl:-5}"
export OMPI_MCA_oob_tcp_keepalive_probes="${OMPI_MCA_oob_tcp_keepalive_probes:-3}"
# MPI carries texts and counts between GPU ranks, never K and V: plain TCP will do, and no MPI library has to understand
# the fabric that NCCL drives.
export OMPI_MCA_pml="${OMPI_MCA_pml:-ob1}"
export OMPI_MCA_btl="${OMPI_MCA_btl:-self,vader,tcp}"

# Which network the hosts share for MPI and for NCCL's bootstrap. Hosts have others too (containers, management) on which
# they cannot reach each other, and both libraries may try those first: name it, for example RESTKV_NETWORK=eth0. A subnet
# (10.1.0.0/16) serves Open MPI alone; NCCL wants names.
if [ -n "${RESTKV_NETWORK:-}" ]; then
  export OMPI_MCA_oob_tcp_if_include="$RESTKV_NETWORK" OMPI_MCA_btl_tcp_if_include="$RESTKV_NETWORK"
  case "$RESTKV_NETWORK" in
    */*) ;;
    *) export NCCL_SOCKET_IFNAME="=$RESTKV_NETWORK" ;; # "=": this one exactly, not every name that begins so
  esac
fi

# NCCL's own warnings say why a connection failed; they come to standard error.
export NCCL_DEBUG="${NCCL_DEBUG:-WARN}"
# InfiniBand: an adapter that gets no answer tries for about 8 s (7 times 4 us x 2^18) before the ranks learn of it.
export NCCL_IB_TIMEOUT="${NCCL_IB_TIMEOUT:-18}" NCCL_IB_RETRY_CNT="${NCCL_IB_RETRY_CNT:-7}"
# What restkv itself sets for NCCL, and why: dist/README.md.

# What every rank needs in its environment, for mpirun -x.
RESTKV_EXPORTS=()
for name in NCCL_DEBUG NCCL_IB_TIMEOUT NCCL_IB_RETRY_CNT NCCL_SOCKET_IFNAME NCCL_NVLS_ENABLE \
            NCCL_IB_HCA LD_LIBRARY_PATH PATH; do
  if [ -n "${!name:-}" ]; then RESTKV_EXPORTS+=(-x "$name"); fi
done
