#!/bin/bash
# TaskProlog of slurm.conf: gives every task of a job the same run directory, before it starts.
#
# SLURM takes what this prints as "export NAME=value" into the environment of the task. A job that names a directory
# itself, or that set CARBON_PLUGIN_DISABLED=1, is left alone.
set -u

runs=${CARBON_PLUGIN_RUNS:-/shared/runs}

if [[ -n ${SLURM_JOB_ID:-} && -z ${CARBON_PLUGIN_RUN_DIR:-} && ${CARBON_PLUGIN_DISABLED:-0} == 0 ]]; then
  # A job that SLURM has requeued keeps its id, so that it goes on with the same run.
  echo "export CARBON_PLUGIN_RUN_DIR=$runs/${SLURM_JOB_USER:-$USER}/job-$SLURM_JOB_ID"
fi
