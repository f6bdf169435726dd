#!/usr/bin/env bash
# What each host of a spot TPU runs when it starts, see spot.sh, which puts BUCKET and WORDS before it.
set -euo pipefail
: "${BUCKET:?is set by spot.sh}" "${WORDS[0]:?is set by spot.sh}"
METADATA=http://metadata.google.internal/computeMetadata/v1/instance/attributes
SECONDS_BETWEEN=${SECONDS_BETWEEN:-60}
FOLDER=${FOLDER:-/opt/resnet_flax}
export HOME=${HOME:-/root}

mkdir -p "$FOLDER"
cd "$FOLDER"
worker=$(curl --silent --fail --header='Metadata-Flavor: Google' "$METADATA/agent-worker-number")
if [[ ! -e installed ]]; then
  gcloud storage cp "$BUCKET/code.tgz" code.tgz
  tar -xzf code.tgz
  python3 -m pip install --quiet --user uv
  python3 -m uv venv --quiet --allow-existing --python=3.13 .venv
  python3 -m uv pip install --quiet --constraint=constraints.txt --editable='.[tpu]'
  touch installed
fi

# Only the first host reads and writes the workdir.
if [[ $worker == 0 && ! -e runs ]]; then
  mkdir -p fetched
  gcloud storage cp "$BUCKET/train.log" train.log 2> /dev/null || true
  if gcloud storage ls "$BUCKET/runs" > /dev/null 2>&1; then # there is none before the first copy
    gcloud storage rsync --recursive "$BUCKET/runs" fetched
  fi
  mv fetched runs
fi

copy() { # Without a part of it, if the TPU is taken away meanwhile: nothing is deleted before everything new is there.
  [[ $worker == 0 ]] || return 0
  gcloud storage cp train.log "$BUCKET/train.log" || true
  if gcloud storage rsync --recursive runs "$BUCKET/runs"; then
    gcloud storage rsync --recursive --delete-unmatched-destination-objects runs "$BUCKET/runs" || true
  fi
}

while true; do
  .venv/bin/python -m resnet_flax.main "${WORDS[@]}" >> train.log 2>&1 < /dev/null &
  run=$!
  trap 'kill -TERM "$run" 2> /dev/null || true' TERM # the host is about to go
  while kill -0 "$run" 2> /dev/null; do
    sleep "$SECONDS_BETWEEN" &
    wait -n "$run" $! || true
    copy
  done
  code=0
  wait "$run" || code=$?
  case $code in
    0 | 1 | 4 | 70) # done, a mistake, a loss that is not finite, or a crash: to start again would not help
      [[ $worker != 0 ]] || echo "$code" | gcloud storage cp - "$BUCKET/exit"
      exit
      ;;
    143) exit ;;
  esac
  sleep "$SECONDS_BETWEEN" # another host has died and comes back
done
