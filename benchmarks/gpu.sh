#!/bin/sh
# Run every benchmark that belongs on an accelerator, most important first: benchmarks/gpu.sh DATA [OUTPUT [SECONDS]]
#
# DATA is a folder with CIFAR-10 as train_images.npy, train_labels.npy, test_images.npy and test_labels.npy; TensorFlow
# is not needed. Logs go to OUTPUT (benchmarks/results by default), and everything ends after SECONDS (570 by default).
# The same command resumes what was cut off, and does not repeat what OUTPUT already has. Outside a git checkout set
# COMMIT.
#
# OUTPUT/parts then has what the next start needs, the logs and the checkpoints of each unfinished run, in files of at
# most 15 MB, small enough to carry anywhere. If OUTPUT has no unfinished runs, a start unpacks what it lacks of them.
# After SIGTERM or Ctrl-C the benchmark saves first. Without a GPU, or a package that trainings need, nothing starts.
set -u
end=$(($(date +%s) + ${3:-570}))
data=$(realpath -- "$1") || exit
project=$(realpath -- "$(dirname "$0")/..") || exit
mkdir -p "${2:-$project/benchmarks/results}" || exit
output=$(realpath -- "${2:-$project/benchmarks/results}") || exit
cd "$project" || exit
reserve=20 # seconds for saving a run and for packing
unfinished=$output/unfinished
child= flags=

"${PYTHON:-python3}" -c '
import jax, ml_collections, orbax.checkpoint, tensorboardX
assert jax.default_backend() == "gpu", f"JAX computes on {jax.devices()[0]}, not on a GPU"
' || exit
mkdir -p "$unfinished"
if [ -d "$output/parts" ] && [ -z "$(ls "$unfinished")" ]; then
    carried=$(mktemp -d) || exit
    if ! cat "$output"/parts/* | tar -xzf - -C "$carried"; then
        echo "error: the files in $output/parts are damaged or incomplete: copy all of them again, or delete them" >&2
        rm -rf "$carried"
        exit 1
    fi
    # What is here already may be newer, so only lines and runs that are missing here are added.
    for log in "$carried"/*.jsonl; do
        [ -e "$log" ] || continue
        touch "$output/${log##*/}"
        grep -vxFf "$output/${log##*/}" "$log" > "$carried/missing"
        cat "$carried/missing" >> "$output/${log##*/}"
    done
    mkdir -p "$output/runs"
    for run in "$carried"/runs/* "$carried"/unfinished/*; do
        there=$output/${run#"$carried"/}
        [ -e "$there" ] || [ ! -e "$run" ] || mv "$run" "$there"
    done
    rm -rf "$carried"
fi

# pack: write OUTPUT/parts
pack() {
    trap '' TERM INT # or a second signal would cut it short
    rm -rf "$output/parts" && mkdir "$output/parts"
    (cd "$output" && {
        find . -maxdepth 1 -name '*.jsonl'
        find runs -type f
        for run in unfinished/*; do
            ls runs/"${run#*/}"-*/results.json > /dev/null && continue # recorded, with the name of the GPU
            find "$run" "$run/report/results.json" -maxdepth 1 -type f
            # The newest checkpoint; with validation all, as the run may end with an older one.
            kept=$(ls "$run/checkpoints" | grep -xE '[0-9]+' | sort -n)
            grep -q '"validation": ""' "$run/config.json" && kept=$(echo "$kept" | tail -n 1)
            for step in $kept; do find "$run/checkpoints/$step" -type f; done
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

stage 150 speed --targets=94 --config.data.dir="$data"
train speed94:full,speed95:full,preact:fast,resnet18_w42:fast,resnet_large:fast,resnet_2322:fast
train resnet_443:fast,resnet_353:fast,preact
stage 200 throughput --dtypes=bfloat16 --batches=recipe --parts=loop --ways=grouped,looped --steps=16
stage 200 throughput --dtypes=bfloat16 --batches=512 --parts=loop --ways=grouped
stage 300 speed --targets=95,96 --config.data.dir="$data"
train speed96:full,resnet_2322,resnet18_w42,resnet_353,resnet_443,resnet_large
stage 150 profile --recipes=resnet_353,preact
stage 300 step --batch=128

# Settings that might make a step faster, to be compared with the same training without them.
tried() { stage 60 throughput --dtypes=bfloat16 --batches=512 --parts=loop --ways=grouped "$@"; }
flagged() { flags=$1; tried --recipes=preact,resnet_353; flags=; }
tried
flagged --xla_gpu_enable_command_buffer=
flagged --xla_gpu_enable_command_buffer=FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,CONVOLUTION
flagged --xla_gpu_enable_command_buffer=FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,CONVOLUTION,WHILE
flagged --xla_gpu_enable_latency_hiding_scheduler=true
flagged --xla_gpu_enable_triton_gemm=false
flagged --xla_gpu_exhaustive_tiling_search=true
tried --recipes=resnet18_w42 '--config.model.widths=(48,96,192,384)' --config.model.max_params=0
stage 240 startup --feeds=device --rounds=1 --config.data.dir="$data"
stage 570 throughput
