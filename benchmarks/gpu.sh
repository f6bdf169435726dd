#!/bin/sh
# Run every benchmark that belongs on an accelerator, the most important first: benchmarks/gpu.sh DATA [OUTPUT [SECONDS]]
#
# DATA is a folder with CIFAR-10 as train_images.npy, train_labels.npy, test_images.npy and test_labels.npy; TensorFlow is
# not needed. Logs go to OUTPUT (benchmarks/results by default), and everything ends after SECONDS (3,600 by default). The
# same command resumes what was cut off, and does not repeat what OUTPUT already has. Outside a git checkout set COMMIT.
set -u
cd "$(dirname "$0")/.." || exit
data=$1 output=${2:-benchmarks/results}
end=$(($(date +%s) + ${3:-3600}))

# stage LIMIT MODULE ARGUMENTS: run a benchmark for at most LIMIT seconds, and not beyond the end
stage() {
    left=$((end - $(date +%s)))
    limit=$(($1 < left ? $1 : left))
    shift
    [ "$limit" -gt 0 ] || return
    echo "== $* ($limit s)"
    timeout --signal=TERM --kill-after=30 "$limit" "${PYTHON:-python3}" -m "benchmarks.$@" --output="$output"
}

stage 240 throughput --dtypes=bfloat16 --parts=loop --ways=looped --steps=1,100
stage 900 reproduce --config.data.dir="$data"
stage 600 speed --config.data.dir="$data"
stage 150 profile --recipes=resnet_353,preact
stage 300 step --batch=128

# Settings that might make a step faster, to be compared with the same step as it is.
tried() { stage 60 throughput --dtypes=bfloat16 --batches=512 --parts=step --ways=looped --steps=100 "$@"; }
flagged() { (export XLA_FLAGS="$1" && tried --recipes=preact,resnet_353); }
tried
flagged --xla_gpu_enable_command_buffer=
flagged --xla_gpu_enable_latency_hiding_scheduler=true
flagged --xla_gpu_enable_triton_gemm=false
flagged --xla_gpu_exhaustive_tiling_search=true
tried --recipes=resnet18_w42 '--config.model.widths=(48,96,192,384)' --config.model.max_params=0
stage 240 startup --feeds=device --rounds=3 --config.data.dir="$data"
stage 3600 throughput
