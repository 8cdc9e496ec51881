#!/usr/bin/env bash
# The paper's runs on long-tailed CIFAR-10: MixMatch, ReMixMatch and FixMatch at gamma 50, 100 and 150, each pre-trained
# for 500 epochs, and co-learned (CoSSL) for 100 epochs from the checkpoint of epoch 401.
# A run that is finished is skipped, one that was interrupted goes on.
set -euo pipefail
unset CDPATH
script="$(readlink -f -- "$0")"
cd -- "$(dirname -- "$script")"
. scripts/published_runs.sh

for method in mix "remix --align" fix; do
    for gamma in 50 100 150; do
        read -r name align <<< "$method"
        data="--dataset cifar10 --num_max 1500 --ratio 2 --imb_ratio_l $gamma --imb_ratio_u $gamma --val-iteration 500${align:+ $align}"
        pair "cifar10/$name-gamma$gamma" "train_cifar_$name" "$data" "--epoch 500" "--epoch 100 --max_lam 0.6" 401
    done
done
launch
