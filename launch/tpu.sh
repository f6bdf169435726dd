#!/usr/bin/env bash
# Train on a Cloud TPU, one host or many. DRY_RUN=1 prints the commands instead of running them.
#
#   launch/tpu.sh create                             # makes the TPU and installs this commit on its hosts
#   launch/tpu.sh train --config=configs/preact.py   # starts on all hosts, and keeps running when you log out
#   launch/tpu.sh log                                # follows the output of the run
#   launch/tpu.sh stop                               # saves and stops; the same train resumes from there
#   launch/tpu.sh fetch                              # brings runs/ here
#   launch/tpu.sh install                            # installs this commit in place of the one there
#   launch/tpu.sh delete                             # deletes the TPU with its disk
#
# The first host keeps the workdir. For a TPU that may be taken away, use spot.sh.
set -euo pipefail

NAME=${NAME:-resnet-flax}
ZONE=${ZONE:-us-central1-a}
TYPE=${TYPE:-v5litepod-8}                # gcloud compute tpus accelerator-types list --zone=ZONE
VERSION=${VERSION:-v2-alpha-tpuv5-lite}  # gcloud compute tpus versions list --zone=ZONE

cd "$(dirname "$0")/.."

run() {
  if [[ -n ${DRY_RUN:-} ]]; then printf '%q ' "$@"; echo; else "$@"; fi
}

tpu() { # COMMAND ARGUMENT...
  run gcloud compute tpus tpu-vm "$1" "${@:2}" --zone="$ZONE"
}

on() { # WORKER COMMAND, in the project's folder there
  tpu ssh "$NAME" --worker="$1" --command="cd resnet_flax && $2"
}

install() {
  local archive
  archive=$(mktemp --suffix=.tgz)
  git archive --output="$archive" HEAD
  tpu scp "$archive" "$NAME:resnet_flax.tgz" --worker=all
  rm "$archive"
  tpu ssh "$NAME" --worker=all --command="mkdir -p resnet_flax && tar -xzf resnet_flax.tgz -C resnet_flax"
  on all "python3 -m pip install --quiet --user uv && python3 -m uv venv --quiet --allow-existing --python=3.13 .venv"
  on all "python3 -m uv pip install --quiet --constraint=constraints.txt --editable='.[tpu]'"
}

case ${1:-} in
  create)
    tpu create "$NAME" --accelerator-type="$TYPE" --version="$VERSION"
    install
    ;;
  install) install ;;
  train)
    words=$(printf '%q ' "${@:2}")
    # The words are looked for, too, as after a restart of the host another process may have the number in train.pid.
    on all "if pgrep --pidfile train.pid --full resnet_flax.main > /dev/null 2>&1; then
      echo 'it is training already: launch/tpu.sh log follows it, launch/tpu.sh stop ends it' >&2
      exit 1
    fi && { nohup .venv/bin/python -m resnet_flax.main $words >> train.log 2>&1 < /dev/null & } && echo \$! > train.pid"
    ;;
  log) on 0 "tail --lines=100 --follow train.log" ;;
  stop) on all "pkill -TERM --pidfile train.pid --full resnet_flax.main" ;;
  fetch) tpu scp --recurse "$NAME:resnet_flax/runs" . --worker=0 ;;
  delete) tpu delete "$NAME" ;;
  *)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
