#!/usr/bin/env bash
# Starts restkv on several hosts without a scheduler: one rank per GPU (or slot) of each host in the hostfile.
#
#   launch/mpirun_hosts.sh HOSTFILE PROGRAM run|bench CONFIG [--set key=value]...
#
# HOSTFILE has one line per host: "node1 slots=8". PROGRAM (build/release/launch/restkv), the configuration and the model
# have the same paths on all hosts. The hosts are reached by ssh without a password; another agent: RESTKV_AGENT="ssh -p
# 2222". The network that they share: RESTKV_NETWORK=eth0 (launch/hosts_env.sh). Fewer ranks than slots: RESTKV_RANKS=4.
set -euo pipefail
if [ $# -lt 4 ]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
hostfile=$1 program=$2
shift 2
if [ ! -r "$hostfile" ]; then
  echo "mpirun_hosts.sh: error: $hostfile: cannot be read; expected lines like \"node1 slots=8\"" >&2
  exit 2
fi
folder=$(dirname "$0")
# shellcheck source=launch/hosts_env.sh
source "$folder/hosts_env.sh"
if [ "$(id -u)" -eq 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi

command=(mpirun --hostfile "$hostfile")
if [ -n "${RESTKV_RANKS:-}" ]; then command+=(-np "$RESTKV_RANKS"); fi
if [ -n "${RESTKV_AGENT:-}" ]; then command+=(--mca plm_rsh_agent "$RESTKV_AGENT"); fi
# All of mpirun's daemons are started from here: hosts need no way to start programs on each other.
command+=(--mca plm_rsh_no_tree_spawn 1)
# Ranks are placed host by host, so that the ranks of a tensor group are neighbours (rank = sequence x T + tensor), and are
# not bound: restkv shares the cores of a host among its ranks, and NCCL's threads need some too. Each rank takes the
# GPU of its local rank and sees those of its neighbours, which NVLink needs.
command+=(--map-by slot --bind-to none)
exec "${command[@]}" "${RESTKV_EXPORTS[@]}" "$program" "$@"
