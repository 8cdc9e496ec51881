# Sourced by run_*.sh, with their options: reads the options, then `pair` adds a published run and `launch` runs or
# prints them all. Needs bash 4.4.
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
seeds=("${seeds[@]/#/10#}")
for i in "${!seeds[@]}"; do seeds[i]=$((seeds[i])); done
twice="$(printf '%s\n' "${seeds[@]}" | sort | uniq -d | head -n 1)"
[ -z "$twice" ] || refuse "--seeds: $twice stands there twice"
python="${PYTHON:-python}"
[ -n "${PYTHON:-}" ] || [ ! -x .venv/bin/python ] || python=.venv/bin/python

lines=() folders=()

# pair NAME SCRIPT FLAGS PRETRAIN_FLAGS COSSL_FLAGS COPY: for each seed, SCRIPT.py with FLAGS and PRETRAIN_FLAGS, then
# SCRIPT_cossl.py with FLAGS and COSSL_FLAGS from the copy of the checkpoint of epoch COPY.
pair() {
    local seed folder where
    for seed in "${seeds[@]}"; do
        folders+=("$out/$1-seed$seed")
        printf -v folder %q "${folders[-1]}"
        printf -v where '%q --manualSeed %s --gpu %s' "$data_root" "$seed" "${gpus[${#lines[@]} % ${#gpus[@]}]}"
        lines+=("$python $2.py $3 $4 --data_root $where --out $folder/pretrain && $python ${2}_cossl.py $3 $5 \
--data_root $where --resume $folder/pretrain/checkpoint_$6.pth.tar --out $folder/cossl")
    done
}

# work TURN: the runs of a device, one after another, until one fails.
work() {
    local i code
    for ((i = $1; i < ${#lines[@]}; i += ${#gpus[@]})); do
        if [ -e "${folders[i]}/cossl/summary.json" ]; then
            echo "${folders[i]}: finished before"
        else
            echo "${folders[i]}"
            bash -c "${lines[i]}" || {
                code=$?
                echo "error: ${folders[i]}: stopped, the same command goes on" >&2
                return $code
            }
        fi
    done
}

# name_lines NAME: puts a name before each line, until the last one, whatever signal comes.
name_lines() {
    trap '' INT TERM HUP
    local text
    while IFS= read -r text; do echo "$1: $text"; done
}

# Ends the runs as an interrupt of each would: they go on later.
stop() {
    trap - INT TERM HUP
    local worker
    for worker in "${workers[@]}"; do
        kill -TERM -- "-$worker" 2> /dev/null || true
    done
    for worker in "${workers[@]}"; do
        while kill -0 -- "-$worker" 2> /dev/null; do sleep 0.1; done
    done
    echo "interrupted: the same command goes on" >&2
    exit 130
}

# Several devices work at the same time, and each line says which one it is from.
launch() {
    [ -z "$print" ] || { printf '%s\n' "${lines[@]}"; return; }
    local i failed=0
    workers=()
    set -m # a process group for each worker, which an interrupt is passed on to
    trap stop INT TERM HUP
    for i in "${!gpus[@]}"; do
        if [ ${#gpus[@]} = 1 ]; then
            work "$i" &
        else
            { work "$i" 2>&1 | name_lines "gpu ${gpus[i]}"; } &
        fi
        workers+=($!)
    done
    for i in "${workers[@]}"; do wait "$i" || failed=$?; done
    return $failed
}
