#!/usr/bin/env bash
# What each host of a spot TPU runs when it starts; spot.sh puts BUCKET and WORDS before it.
set -euo pipefail
: "${BUCKET:?is set by spot.sh}" "${WORDS[0]:?is set by spot.sh}"
METADATA=http://metadata.google.internal/computeMetadata/v1/instance/attributes
SECONDS_BETWEEN=${SECONDS_BETWEEN:-60}
FOLDER=${FOLDER:-/opt/resnet_flax}
export HOME=${HOME:-/root}

again() { # COMMAND ARGUMENT... until it succeeds
  until "$@"; do sleep "$SECONDS_BETWEEN"; done
}

finish() { # CODE of the run, after which spot.sh deletes the TPU
  echo "$1" | gcloud storage cp - "$BUCKET/exit"
}

install() {
  gcloud storage cp "$BUCKET/code.tgz" code.tgz &&
    tar -xzf code.tgz &&
    python3 -m pip install --quiet --user uv &&
    python3 -m uv venv --quiet --allow-existing --python=3.13 .venv &&
    python3 -m uv pip install --quiet --constraint=constraints.txt --editable='.[tpu]' &&
    touch installed
}

mkdir -p "$FOLDER"
cd "$FOLDER"
worker=$(again curl --silent --fail --header='Metadata-Flavor: Google' "$METADATA/agent-worker-number")
for _ in 1 2 3; do
  [[ -e installed ]] || install >> install.log 2>&1 || sleep "$SECONDS_BETWEEN"
done
if [[ ! -e installed ]]; then # a run needs all hosts
  again gcloud storage cp install.log "$BUCKET/install.log"
  again finish 70
  exit 70
fi

fetch() {
  local found
  mkdir -p fetched
  found=$(gcloud storage ls "$BUCKET/") || return # fails only if the bucket cannot be read, as code.tgz is in it
  gcloud storage cp "$BUCKET/train.log" train.log 2> /dev/null || true
  if grep --quiet --line-regexp --fixed-strings "$BUCKET/runs/" <<< "$found"; then # there is none before the first copy
    gcloud storage rsync --recursive "$BUCKET/runs" fetched || return
  fi
  mv fetched runs
}

# Only the first host reads and writes the workdir. One that could not be fetched must not be begun again from nothing,
# as its copy would replace that in the bucket.
[[ $worker != 0 || -e runs ]] || again fetch

copy() { # Without a part of it, if the TPU is taken away meanwhile: nothing is deleted before everything new is there.
  local failed=0
  [[ $worker == 0 ]] || return 0
  gcloud storage cp train.log "$BUCKET/train.log" || failed=1
  if gcloud storage rsync --recursive runs "$BUCKET/runs"; then
    gcloud storage rsync --recursive --delete-unmatched-destination-objects runs "$BUCKET/runs" || true
  else
    failed=1
  fi
  return "$failed"
}

checkpoints() { # none on the other hosts
  { find runs -regex '.*/checkpoints/[0-9]+' 2> /dev/null || true; } | sort
}

failures=0
while true; do
  before=$(checkpoints)
  .venv/bin/python -m resnet_flax.main "${WORDS[@]}" >> train.log 2>&1 < /dev/null &
  run=$!
  trap 'kill -TERM "$run" 2> /dev/null || true' TERM # the host is about to go
  while true; do
    sleep "$SECONDS_BETWEEN" &
    wait -n "$run" $! || true
    kill -0 "$run" 2> /dev/null || break
    copy || true
  done
  code=0
  wait "$run" || code=$?
  case $code in
    0 | 1 | 4 | 143) break ;; # done, a mistake, a loss that is not finite, or stopped: to start again would not help
  esac
  # A crash, of this host or another: the same three times over will come again.
  [[ $(checkpoints) == "$before" ]] || failures=0
  failures=$((failures + 1))
  [[ $worker != 0 || $failures -lt 3 ]] || break
  copy || true
  sleep "$SECONDS_BETWEEN" # another host that has died comes back
done
again copy # the end of the run is lost with the TPU, which spot.sh deletes once it knows the exit code
[[ $worker != 0 || $code == 143 ]] || again finish "$code"
