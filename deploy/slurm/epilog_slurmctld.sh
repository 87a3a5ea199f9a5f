#!/bin/bash
# EpilogSlurmctld of slurm.conf: writes what a job has used into its comment, where `sacct -o JobID,Comment` shows it.
#
# It runs on the controller after each job, as SlurmUser, who must be able to read the run directories. A job without a
# run, or whose ledgers cannot be read, keeps its comment. It must never fail, because SLURM would drain the nodes.
set -u

runs=${CARBON_PLUGIN_RUNS:-/shared/runs}
run="$runs/${SLURM_JOB_USER:-}/job-${SLURM_JOB_ID:-}"

if [[ -n ${SLURM_JOB_ID:-} && -d $run ]]; then
  # A long run has many ledgers. The controller waits for them no longer than this.
  line=$(timeout 60 carbon-plugin watch "$run" --line 2>/dev/null) &&
    scontrol update JobId="$SLURM_JOB_ID" Comment="$line"
fi
exit 0
