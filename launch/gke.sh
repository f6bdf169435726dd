#!/usr/bin/env bash
# Train on Google Kubernetes Engine, one host or many. DRY_RUN=1 prints the manifest instead of applying it.
#
#   IMAGE=... CLAIM=runs GPUS=8 HOSTS=2 launch/gke.sh --config=configs/preact.py
#   IMAGE=... CLAIM=runs TPU=tpu-v5-lite-podslice TOPOLOGY=4x4 CHIPS=4 HOSTS=4 launch/gke.sh --config=configs/preact.py
#
# IMAGE   built from launch/Dockerfile          CLAIM   the PersistentVolumeClaim that becomes runs/
# HOSTS   how many, 1 by default                NAME    of the job, resnet-flax by default
# GPUS    on each host; or                      TPU, TOPOLOGY, CHIPS   its type, its shape and the chips of each host
# SPOT=1  on spot nodes
#
# With several hosts, all of them must be able to mount the claim (ReadWriteMany). Datasets and compiled programs are
# kept there, too, in .cache. When a host goes away or is needed elsewhere, the run saves and stops; the job starts it
# again, and it resumes from there. The same command resumes a job that has ended, deleting the old job first.
set -euo pipefail

missing=
for name in IMAGE CLAIM ${TPU:+TOPOLOGY CHIPS}; do [[ -n ${!name:-} ]] || missing=$name; done
[[ -n ${TPU:-}${GPUS:-} ]] || missing="GPUS or TPU"
if [[ $# == 0 || -n $missing ]]; then
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2
  [[ -z $missing ]] || echo "error: $missing is not set" >&2
  exit 2
fi
NAME=${NAME:-resnet-flax}
HOSTS=${HOSTS:-1}

if [[ -n ${TPU:-} ]]; then
  nodes="cloud.google.com/gke-tpu-accelerator: $TPU, cloud.google.com/gke-tpu-topology: $TOPOLOGY"
  devices="{google.com/tpu: $CHIPS}" platforms=tpu,cpu
else
  nodes=
  devices="{nvidia.com/gpu: $GPUS}" platforms=cuda
fi
[[ -z ${SPOT:-} ]] || nodes+="${nodes:+, }cloud.google.com/gke-spot: 'true'"
words=""
for word in "$@"; do words+=" '${word//\'/\'\'}',"; done

manifest() {
  cat <<YAML
apiVersion: v1
kind: Service # gives each host a name that the others find it by
metadata:
  name: $NAME
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    job-name: $NAME
---
apiVersion: batch/v1
kind: Job
metadata:
  name: $NAME
spec:
  completionMode: Indexed
  completions: $HOSTS
  parallelism: $HOSTS
  backoffLimit: $((6 * HOSTS)) # crashes in all, as Kubernetes does not know of progress; one may end all hosts
  podFailurePolicy:
    rules:
      - action: Ignore # the node went away or was needed
        onPodConditions:
          - type: DisruptionTarget
      - action: FailJob # an error of the user's, or a loss that is not finite
        onExitCodes:
          operator: In
          values: [1, 4]
      - action: Ignore # another host went away, or crashed, which counts there; or all stopped because one was needed
        onExitCodes:
          operator: In
          values: [75, 143]
  template:
    spec:
      subdomain: $NAME
      restartPolicy: Never
      terminationGracePeriodSeconds: 120
      nodeSelector: {$nodes}
      tolerations: [{key: cloud.google.com/gke-spot, operator: Exists}]
      containers:
        - name: train
          image: $IMAGE
          args: [${words%,} ]
          env:
            - name: JAX_COORDINATOR_ADDRESS
              value: $NAME-0.$NAME:8476
            - name: JAX_NUM_PROCESSES
              value: "$HOSTS"
            - name: JAX_PROCESS_ID
              valueFrom:
                fieldRef:
                  fieldPath: metadata.annotations['batch.kubernetes.io/job-completion-index']
            - name: JAX_PLATFORMS # so that JAX ends with an error instead of computing on the CPU
              value: $platforms
            - name: XDG_CACHE_HOME # decoded datasets and compiled programs
              value: /app/runs/.cache
            - name: TFDS_DATA_DIR
              value: /app/runs/.cache/tensorflow_datasets
          resources:
            limits: $devices
          volumeMounts:
            - name: runs
              mountPath: /app/runs
            - name: memory
              mountPath: /dev/shm
      volumes:
        - name: runs
          persistentVolumeClaim:
            claimName: $CLAIM
        - name: memory # GPUs of a host exchange gradients through it, and by default there are 64 MB of it
          emptyDir:
            medium: Memory
YAML
}

if [[ -n ${DRY_RUN:-} ]]; then
  manifest
  exit
fi
# A job that has ended stays, and applying it again would not start it.
found=$(kubectl get job "$NAME" --ignore-not-found --output=jsonpath='{.kind} {.status.conditions[*].type}')
case $found in
  "") ;;
  *Complete* | *Failed*) kubectl delete job "$NAME" --cascade=foreground ;;
  *)
    echo "error: job $NAME is running: kubectl logs --follow job/$NAME follows it," \
      "kubectl delete job $NAME stops it" >&2
    exit 1
    ;;
esac
manifest | kubectl apply --filename=-
