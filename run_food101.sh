#!/usr/bin/env bash
# The paper's runs on Food-101-LT: FixMatch at gamma 50 and 100, each pre-trained for 1000 epochs, and co-learned (CoSSL)
# for 200 epochs from the checkpoint of epoch 801.
# A run that is finished is skipped, one that was interrupted goes on.
set -euo pipefail
unset CDPATH
script="$(readlink -f -- "$0")"
cd -- "$(dirname -- "$script")"
about_data="folder that food-101 lies in, downloaded if missing"
. scripts/published_runs.sh

for gamma in 50 100; do
    data="--ratio 2 --num_max 250 --imb_ratio_l $gamma --imb_ratio_u $gamma"
    pair "food101/fix-gamma$gamma" train_food_fix "$data" "--epoch 1000 --decay_epochs 9000" \
        "--epoch 200 --tau 0.90 --max_lam 0.6" 801
done
launch
