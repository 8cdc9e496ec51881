#!/usr/bin/env bash
# Set up .venv if need be, pre-train FixMatch (or MixMatch, ReMixMatch) on long-tailed digits, co-learn (CoSSL), and
# report on the two. Two to four minutes on two CPU cores after installation.
# Usage: bash run_demo.sh [--method fix|mix|remix] [--seed N] [--gpu N|cpu]
set -euo pipefail
unset CDPATH
script="$(readlink -f -- "$0")"
cd -- "$(dirname -- "$script")"
method=fix seed=1 gpu=cpu
while [ $# -gt 0 ]; do
    case "$1" in
        --help) sed -n '2,4s/^# //p' "$script"; exit ;;
        --method | --seed | --gpu) [ $# -gt 1 ] || { echo "error: $1 needs a value; see --help" >&2; exit 2; } ;;&
        --method) method="$2"; shift 2 ;;
        --seed) seed="$2"; shift 2 ;;
        --gpu) gpu="$2"; shift 2 ;;
        *) echo "error: $1: unknown; see --help" >&2; exit 2 ;;
    esac
done
align=''
case "$method" in
    fix | mix) ;;
    remix) align=--align ;;
    *) echo "error: --method $method: take fix, mix or remix; see --help" >&2; exit 2 ;;
esac
. scripts/venv.sh

export OMP_WAIT_POLICY=passive # threads that wait do not spin: beside other work the demo takes minutes, not hours
out=results/demo/$method
common="--dataset digits --num_max 40 --ratio 2 --imb_ratio_l 40 --imb_ratio_u 40 --depth 10 --width 1
        --batch-size 32 --ema-decay 0.99 --manualSeed $seed --gpu $gpu --overwrite $align"
.venv/bin/python train_cifar_$method.py $common --epoch 150 --val-iteration 12 --out $out/pretrain
.venv/bin/python train_cifar_${method}_cossl.py $common --epoch 50 --val-iteration 12 --max_lam 0.6 \
    --resume $out/pretrain/checkpoint_101.pth.tar --out $out/cossl
.venv/bin/python eval_shifted_test_distribution.py $out/pretrain $out/cossl --gpu $gpu --out $out/shifted > /dev/null
.venv/bin/python report.py $out/pretrain $out/cossl --out $out/report
