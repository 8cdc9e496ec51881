#!/usr/bin/env bash
# The paper's runs on long-tailed CIFAR-100: ReMixMatch and FixMatch at gamma 20, 50 and 100, each pre-trained
# for 500 epochs, and co-learned (CoSSL) for 100 epochs from the checkpoint of epoch 401.
# A run that is finished is skipped, one that was interrupted goes on.
set -euo pipefail
unset CDPATH
script="$(readlink -f -- "$0")"
cd -- "$(dirname -- "$script")"
. scripts/published_runs.sh

for method in "remix --align" fix; do
    for gamma in 20 50 100; do
        read -r name align <<< "$method"
        data="--dataset cifar100 --num_max 150 --ratio 2 --imb_ratio_l $gamma --imb_ratio_u $gamma --val-iteration 500${align:+ $align}"
        pair "cifar100/$name-gamma$gamma" "train_cifar_$name" "$data" "--epoch 500" "--epoch 100 --max_lam 0.6" 401
    done
done
launch
