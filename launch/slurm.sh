#!/usr/bin/env bash
# Train on SLURM with a process for each GPU; sbatch's own flags say how many:
#
#   sbatch --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 launch/slurm.sh --config=configs/preact.py
#
# Submit it from the project's folder, which all nodes must see. Two minutes before its time is up, the run saves and
# stops, and the job is queued again to resume it; SLURM itself requeues a job that must make room or loses a node. A
# run that crashes is started again, at most twice. scancel saves and ends it. PYTHON=PATH names a Python other than
# .venv/bin/python; DRY_RUN=1 prints the command instead of running it.
#SBATCH --job-name=resnet_flax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
set -euo pipefail

tasks=${SLURM_NTASKS_PER_NODE:?is not set: start this with sbatch}
if [[ ${SLURM_GPUS_ON_NODE:-$tasks} != "$tasks" ]]; then
  echo "error: --gpus-per-node is $SLURM_GPUS_ON_NODE and --ntasks-per-node $tasks: make them equal" >&2
  exit 1
fi
command=(srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}"
  "${PYTHON:-.venv/bin/python}" -m resnet_flax.main "$@")
if [[ -n ${DRY_RUN:-} ]]; then
  printf '%q ' "${command[@]}"
  echo
  exit
fi

stopped=
requeue=
trap 'stopped=1' TERM # whoever sends it, scancel or a preemption, sends it to the tasks as well
# scancel signals the tasks, which save and stop; srun would answer SIGTERM by killing them at once.
trap 'stopped=1 requeue=1; scancel --signal=TERM "$SLURM_JOB_ID" || true' USR1
for _ in 1 2 3; do # a crash may be the fault of a device or of the file system
  "${command[@]}" &
  step=$!
  while kill -0 "$step" 2> /dev/null; do # a signal ends the wait, while the run is saving
    wait "$step" || true
  done
  code=0
  wait "$step" || code=$?
  case $code in
    0 | 1 | 4 | 130 | 143) break ;; # done, a mistake, a loss that is not finite, or stopped
  esac
  [[ -z $stopped ]] || break
done
if [[ -n $requeue && $code == 143 ]]; then # stopped by SIGTERM: with more time it goes on
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
