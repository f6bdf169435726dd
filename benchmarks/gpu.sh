#!/bin/sh
# Run every benchmark that belongs on an accelerator, most important first: benchmarks/gpu.sh DATA [OUTPUT [SECONDS]]
#
# DATA is a folder with CIFAR-10 as train_images.npy, train_labels.npy, test_images.npy and test_labels.npy; TensorFlow
# is not needed. Logs go to OUTPUT (benchmarks/results by default), and everything ends after SECONDS (570 by default).
# The same command resumes what was cut off, and does not repeat what OUTPUT already has. Outside a git checkout set
# COMMIT.
#
# OUTPUT/parts then has what the next start needs, the logs and the checkpoints of each unfinished run, in files of at
# most 15 MB, small enough to carry anywhere. A start unpacks it if OUTPUT has no unfinished runs. After
# SIGTERM or Ctrl-C the benchmark saves first.
set -u
cd "$(dirname "$0")/.." || exit
data=$1 output=${2:-benchmarks/results}
end=$(($(date +%s) + ${3:-570}))
reserve=20 # seconds for saving a run and for packing
unfinished=$output/unfinished
child= flags=

mkdir -p "$unfinished"
if [ -d "$output/parts" ] && [ -z "$(ls "$unfinished")" ]; then
    cat "$output"/parts/* | tar -xzf - -C "$output"
fi

# pack: write OUTPUT/parts
pack() {
    trap '' TERM INT # or a second signal would cut it short
    rm -rf "$output/parts" && mkdir "$output/parts"
    (cd "$output" && {
        find . -maxdepth 1 -name '*.jsonl'
        find runs -type f
        for run in unfinished/*; do
            [ -f "$run/report/results.json" ] && continue
            find "$run" -maxdepth 1 -type f
            # All that the run keeps, as it may end with an older one than the newest.
            find "$run/checkpoints" -maxdepth 1 -name '[0-9]*' | grep -E '/[0-9]+$'
        done
    } 2>/dev/null | tar -czf - -T - | split -b 15m - parts/part)
}

# stop CODE: have the benchmark save, and exit
stop() {
    trap '' TERM INT
    [ -z "$child" ] || { kill "$child" && wait "$child"; }
    exit "$1"
}
trap pack EXIT
trap 'stop 143' TERM # without this, dash would end without packing
trap 'stop 130' INT

# stage LIMIT MODULE ARGUMENTS: run a benchmark for at most LIMIT seconds, and not beyond the end
stage() {
    left=$((end - reserve - $(date +%s)))
    limit=$(($1 < left ? $1 : left)) module=$2
    shift 2
    [ "$limit" -gt 0 ] || return 0
    echo "== $module $* ($limit s)"
    # In the background, as a shell answers signals while it waits, but not while a command runs in the foreground.
    env ${flags:+"XLA_FLAGS=$flags"} timeout --signal=TERM --kill-after=30 "$limit" \
        "${PYTHON:-python3}" -m "benchmarks.$module" "$@" --output="$output" &
    child=$!
    wait "$child"
    child=
}

train() { stage 570 reproduce --config.data.dir="$data" --workdir="$unfinished" --recipes="$1"; }

stage 120 speed --targets=94 --config.data.dir="$data"
stage 200 throughput --dtypes=bfloat16 --batches=recipe --parts=loop --ways=grouped,looped --steps=16
train speed94:full,speed95:full,preact:fast,resnet18_w42:fast,resnet_large:fast,resnet_2322:fast
train resnet_443:fast,resnet_353:fast,preact
stage 200 throughput --dtypes=bfloat16 --batches=512 --parts=loop --ways=grouped,looped --steps=14
stage 300 speed --targets=95,96 --config.data.dir="$data"
train speed96:full,resnet_2322,resnet18_w42,resnet_353,resnet_443,resnet_large
stage 150 profile --recipes=resnet_353,preact
stage 300 step --batch=128

# Settings that might make a step faster, to be compared with the same training without them.
tried() { stage 60 throughput --dtypes=bfloat16 --batches=512 --parts=loop --ways=grouped --steps=14 "$@"; }
flagged() { flags=$1; tried --recipes=preact,resnet_353; flags=; }
tried
flagged --xla_gpu_enable_command_buffer=
flagged --xla_gpu_enable_command_buffer=FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,CONVOLUTION
flagged --xla_gpu_enable_command_buffer=FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,CONVOLUTION,WHILE
flagged --xla_gpu_enable_latency_hiding_scheduler=true
flagged --xla_gpu_enable_triton_gemm=false
flagged --xla_gpu_exhaustive_tiling_search=true
tried --recipes=resnet18_w42 '--config.model.widths=(48,96,192,384)' --config.model.max_params=0
stage 240 startup --feeds=device --rounds=3 --config.data.dir="$data"
stage 570 throughput
