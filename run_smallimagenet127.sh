#!/usr/bin/env bash
# The paper's runs on Small-ImageNet-127: FixMatch at 32 and 64 pixels, each pre-trained for 500 epochs, and co-learned
# (CoSSL) for 100 epochs from the checkpoint of epoch 401.
# A run that is finished is skipped, one that was interrupted goes on.
set -euo pipefail
unset CDPATH
script="$(readlink -f -- "$0")"
cd -- "$(dirname -- "$script")"
about_data="folder that prepare_small_imagenet_127.py made, for both sizes"
. scripts/published_runs.sh

for size in 32 64; do
    data="--img_size $size --val-iteration 500"
    pair "small_imagenet127/fix-${size}px" train_small_imagenet127_fix "$data" "--epoch 500" "--epoch 100 --max_lam 0.6" 401
done
launch
