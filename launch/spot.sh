#!/usr/bin/env bash
# Train on a spot Cloud TPU, which may be taken away: it is then requested again, and the run resumes from a bucket.
#
#   BUCKET=gs://my-bucket/resnet launch/spot.sh --config=configs/preact.py
#
# Leave it running, or start the same command again: it queues for the TPU, requeues whenever that is taken away, and
# deletes it when the run has ended. Its exit code is that of the run. The workdir is on the first host, which copies it
# to BUCKET/runs each minute, and the log to BUCKET/train.log; a TPU that comes back begins with that copy. If the
# installation fails three times on a host, its log is BUCKET/install.log, and the exit code is 70.
#
# NAME, ZONE, TYPE and VERSION choose the TPU as in tpu.sh. Its service account must be able to write to the bucket.
# DRY_RUN=1 instead prints the request, and what each host runs when it starts.
set -euo pipefail

if [[ $# == 0 || ${BUCKET:-} != gs://* ]]; then
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2
  [[ $# == 0 ]] || echo "error: BUCKET must be set to gs://NAME or gs://NAME/FOLDER" >&2
  exit 2
fi
BUCKET=${BUCKET%/}
NAME=${NAME:-resnet-flax}
ZONE=${ZONE:-us-central1-a}
TYPE=${TYPE:-v5litepod-8}
VERSION=${VERSION:-v2-alpha-tpuv5-lite}
SECONDS_BETWEEN=${SECONDS_BETWEEN:-60}

cd "$(dirname "$0")/.."
folder=$(mktemp --directory)
trap 'rm -r "$folder"' EXIT
{
  printf '#!/usr/bin/env bash\nBUCKET=%q\nWORDS=(' "$BUCKET"
  printf '%q ' "$@"
  printf ')\n'
  sed 1d launch/spot_host.sh
} > "$folder/start.sh"

queue() {
  gcloud compute tpus queued-resources "$1" "$NAME" --zone="$ZONE" "${@:2}"
}

request=(--node-id="$NAME" --accelerator-type="$TYPE" --runtime-version="$VERSION" --spot
  --metadata-from-file=startup-script="$folder/start.sh" --scopes=https://www.googleapis.com/auth/cloud-platform)
if [[ -n ${DRY_RUN:-} ]]; then
  printf '%q ' gcloud compute tpus queued-resources create "$NAME" --zone="$ZONE" "${request[@]}"
  echo
  cat "$folder/start.sh"
  exit
fi

state() { # nothing if there is no such request; fails if gcloud cannot tell
  if queue describe --format='value(state.state)' 2> "$folder/error"; then return; fi
  if grep --quiet --ignore-case 'not[ _]found' "$folder/error"; then return; fi
  echo "the state of the TPU is unknown, trying again: $(grep --max-count=1 . "$folder/error")" >&2
  return 1
}

until found=$(state); do sleep "$SECONDS_BETWEEN"; done
if [[ -z $found ]]; then
  git archive --output="$folder/code.tgz" HEAD
  gcloud storage cp "$folder/code.tgz" "$BUCKET/code.tgz"
  gcloud storage rm "$BUCKET/exit" 2> /dev/null || true # of an earlier run
fi
code=
while true; do
  [[ -n $code ]] || code=$(gcloud storage cat "$BUCKET/exit" 2> /dev/null) || true
  if found=$(state); then
    if [[ -z $found && -n $code ]]; then
      echo "the run has ended with code $code: $BUCKET/train.log and $BUCKET/runs"
      exit "$code"
    elif [[ -z $found ]]; then
      queue create "${request[@]}" || echo "the TPU could not be asked for: trying again" >&2
    elif [[ -n $code || $found == SUSPENDED || $found == FAILED ]]; then
      # Taken away, or not to be had: it must be deleted before it can be asked for again.
      [[ -n $code ]] || echo "the TPU is gone: queueing again"
      queue delete --force --quiet || echo "the TPU could not be deleted: trying again" >&2
    fi
  fi
  sleep "$SECONDS_BETWEEN"
done
