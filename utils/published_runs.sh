# Sourced by run_*.sh, with their options: reads the options, then `pair` adds a published run and `launch` runs or
# prints them all. Needs bash 4.
usage="usage: bash $(basename "$0") [--print] [--seeds 1,2,3] [--gpus 0,1] [--data_root DIR] [--out DIR]"
refuse() { echo "error: $1; $usage" >&2; exit 2; }

print='' seeds=1 gpus=0 data_root=data out=results
while [ $# -gt 0 ]; do
    case "$1" in
        --help)
            sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
            echo "$usage"
            echo "  --print      print one shell line per run instead, for a scheduler"
            echo "  --seeds      seeds of the splits and of training, each a run of its own (default: $seeds)"
            echo "  --gpus       CUDA devices, or cpu; runs take turns, one at a time on each (default: $gpus)"
            echo "  --data_root  ${about_data:-folder of the data sets, downloaded if missing} (default: $data_root)"
            echo "  --out        folder for the folders of the runs (default: $out)"
            exit ;;
        --print) print=yes; shift ;;
        --seeds | --gpus | --data_root | --out)
            [ $# -gt 1 ] && [ -n "$2" ] || refuse "$1 needs a value"
            printf -v "${1#--}" %s "$2"; shift 2 ;;
        *) refuse "$1: unknown" ;;
    esac
done
[[ "$seeds" =~ ^[0-9]+(,[0-9]+)*$ ]] || refuse "--seeds $seeds: expected numbers with commas between them"
[[ "$gpus" =~ ^([0-9]+|cpu)(,([0-9]+|cpu))*$ ]] || refuse "--gpus $gpus: expected device numbers with commas, or cpu"
IFS=, read -ra seeds <<< "$seeds"
IFS=, read -ra gpus <<< "$gpus"
python="${PYTHON:-python}"
[ -n "${PYTHON:-}" ] || [ ! -x .venv/bin/python ] || python=.venv/bin/python

lines=() programs=()

# pair NAME SCRIPT FLAGS PRETRAIN_FLAGS COSSL_FLAGS COPY: for each seed, SCRIPT.py with FLAGS and PRETRAIN_FLAGS, then
# SCRIPT_cossl.py with FLAGS and COSSL_FLAGS from the copy of the checkpoint of epoch COPY.
pair() {
    local seed turn folder where
    for seed in "${seeds[@]}"; do
        turn=$((${#lines[@]} % ${#gpus[@]}))
        printf -v folder %q "$out/$1-seed$seed"
        printf -v where '%q --manualSeed %s --gpu %s' "$data_root" "$seed" "${gpus[turn]}"
        lines+=("$python $2.py $3 $4 --data_root $where --out $folder/pretrain && $python ${2}_cossl.py $3 $5 \
--data_root $where --resume $folder/pretrain/checkpoint_$6.pth.tar --out $folder/cossl")
        programs[turn]+="
            if [ -e $folder/cossl/summary.json ]; then
                echo $folder: finished before
            else
                echo $folder
                { ${lines[-1]}; } || { code=\$?; echo error: $folder: stopped, the same command goes on >&2; exit \$code; }
            fi"
    done
}

# Runs one after another on each device, until one fails; from several devices, each line says where it comes from.
launch() {
    if [ -n "$print" ]; then
        printf '%s\n' "${lines[@]}"
    elif [ ${#programs[@]} = 1 ]; then
        bash -c "${programs[0]}"
    else
        local i
        for i in "${!programs[@]}"; do
            programs[i]="exec > >(trap '' INT; exec sed -u 's/^/gpu ${gpus[i]}: /') 2>&1 ${programs[i]}"
        done
        printf '%s\0' "${programs[@]}" | xargs -0 -n 1 -P ${#programs[@]} bash -c
    fi
}
