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
# With several hosts the claim must be one that all of them can mount (ReadWriteMany). Datasets and compiled programs are
# kept there, too, in .cache. A host that goes away or is needed elsewhere stops the run, which saves; the job starts it
# again and it resumes from there.
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
  devices="{google.com/tpu: $CHIPS}"
else
  nodes=
  devices="{nvidia.com/gpu: $GPUS}"
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
  backoffLimit: 1000 # hosts may come and go
  podFailurePolicy:
    rules:
      - action: Ignore # the node went away or was needed
        onPodConditions:
          - type: DisruptionTarget
      - action: FailJob # an error of the user's, a loss that is not finite, or a crash
        onExitCodes:
          operator: In
          values: [1, 4, 70]
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

if [[ -n ${DRY_RUN:-} ]]; then manifest; else manifest | kubectl apply --filename=-; fi
