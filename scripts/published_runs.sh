# Sourced by run_*.sh, with their options: reads the options, then `pair` adds a published run and `launch` runs or
# prints them all. Needs bash 4.4 and GNU xargs.
usage="usage: bash $(basename "$script") [--print] [--methods fix] [--gammas 50,100] [--epochs 500,100] [--seeds 1,2,3] [--gpus 0,1] [--data_root DIR] [--out DIR]"
refuse() { echo "error: $1; $usage" >&2; exit 2; }

print='' methods='' gammas='' epochs='' seeds=1 gpus=0 data_root=data out=results
while [ $# -gt 0 ]; do
    case "$1" in
        --help)
            sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$script"
            echo "$usage"
            echo "  --print      print one shell line per run instead, for a scheduler"
            echo "  --methods    of mix, remix and fix those that are wanted (default: all of the script)"
            echo "  --gammas     the imbalances that are wanted (default: all of the script)"
            echo "  --epochs     of pre-training and co-learning, which then starts from the last checkpoint (default: published)"
            echo "  --seeds      seeds of the splits and of training, each a run of its own (default: $seeds)"
            echo "  --gpus       CUDA devices, or cpu; each run takes the next that is free (default: $gpus)"
            echo "  --data_root  ${about_data:-folder of the data sets, downloaded if missing} (default: $data_root)"
            echo "  --out        folder for the folders of the runs (default: $out)"
            exit ;;
        --print) print=yes; shift ;;
        --methods | --gammas | --epochs | --seeds | --gpus | --data_root | --out)
            [ $# -gt 1 ] && [ -n "$2" ] || refuse "$1 needs a value"
            printf -v "${1#--}" %s "$2"; shift 2 ;;
        *) refuse "$1: unknown" ;;
    esac
done
out="${out/#\~\//$HOME/}"
[[ "$seeds" =~ ^[0-9]+(,[0-9]+)*$ ]] || refuse "--seeds $seeds: expected numbers with commas between them"
[[ "$epochs" =~ ^([1-9][0-9]*,[1-9][0-9]*)?$ ]] || refuse "--epochs $epochs: expected two numbers with a comma between them"
[[ "$gpus" =~ ^([0-9]+|cpu)(,([0-9]+|cpu))*$ ]] || refuse "--gpus $gpus: expected device numbers with commas, or cpu"
mapfile -t seeds < <(tr , '\n' <<< "$seeds" | sed 's/^0*\(.\)/\1/')
twice="$(printf '%s\n' "${seeds[@]}" | sort | uniq -d | head -n 1)"
[ -z "$twice" ] || refuse "--seeds: $twice stands there twice"
IFS=, read -ra devices <<< "$gpus"
python="${PYTHON:-python}"
[ -n "${PYTHON:-}" ] || [ ! -x .venv/bin/python ] || python=.venv/bin/python

declare -A cost=([fix]=100 [mix]=115 [remix]=195) # of a step, percent of FixMatch's (docs/speed.md)

# pair NAME SCRIPT FLAGS PRETRAIN_FLAGS COSSL_FLAGS COPY: for each seed, SCRIPT.py with FLAGS and PRETRAIN_FLAGS, then
# SCRIPT_cossl.py with FLAGS and COSSL_FLAGS from the copy of the checkpoint of epoch COPY. NAME: DATA/METHOD-SETTING.
runs=() # for each a folder, a shell line, and its length: epochs times the cost of a step, see `cost`
pair() {
    local seed folder where gpu='$gpu' # a printed line names its device, others get one when their turn comes
    local method="${1#*/}" first="$4" second="$5" copy="_$6" after1='' after2=''
    wanted "$methods" "${method%%-*}" && wanted "$gammas" "${method#*-gamma}" || return 0
    [ -z "$epochs" ] || { first+=" --epoch ${epochs%,*}" second+=" --epoch ${epochs#*,}" copy=''; }
    local cost=${cost[${method%%-*}]} length1="${first##*--epoch }" length2="${second##*--epoch }"
    local cost2=$((cost * 6 / 5)) # of co-learning
    length1=$((${length1%% *} * cost)) length2=$((${length2%% *} * cost2))
    [ -n "$print" ] || after1="LIST_AFTER=\$(((rest + $length2) / $cost)) " after2="LIST_AFTER=\$((rest / $cost2)) "
    for seed in "${seeds[@]}"; do
        [ -z "$print" ] || gpu=${devices[${#runs[@]} / 3 % ${#devices[@]}]}
        printf -v folder %q "$out/$1-seed$seed"
        printf -v where '%q --manualSeed %s --gpu %s' "$data_root" "$seed" "$gpu"
        runs+=("$out/$1-seed$seed" "$after1$python $2.py $3 $first --data_root $where --out $folder/pretrain && \
$after2$python ${2}_cossl.py $3 $second --data_root $where --resume $folder/pretrain/checkpoint$copy.pth.tar --out \
$folder/cossl" $((length1 + length2)))
    done
}

wanted() { [ -z "$1" ] || [[ ",$1," = *",$2,"* ]]; } # LIST ITEM

finished() { grep -qs '"status": "finished"' "$1/cossl/summary.json"; } # FOLDER

# run FOLDER LINE
run() {
    if finished "$1"; then echo "$1: finished before"; return; fi
    echo "$1"
    eval "$2" || { echo "error: $1: stopped, the same command goes on" >&2; return 1; }
}

# turn GPUS FOLDER LINE REST: a run on the device of xargs' slot. Where there are several, all its output names the
# device. REST: length of what follows on it, of which the run's forecast is told by LIST_AFTER, in epochs like its own.
turn() {
    IFS=, read -ra devices <<< "$1"
    gpu=${devices[slot]} rest=$4
    if [ ${#devices[@]} = 1 ]; then run "$2" "$3"; return; fi
    run "$2" "$3" 2>&1 | (trap '' INT TERM HUP; exec sed -u "s/^/gpu $gpu: /") # to its end, whatever signal comes
}

# Ends the runs as an interrupt of each would: they go on later.
stop() {
    trap - INT TERM HUP
    {
        kill -TERM -- "-$group" || true
        while kill -0 -- "-$group"; do sleep 0.1; done
    } 2> /dev/null
    echo "interrupted: the same command goes on" >&2
    exit 130
}

# One run at a time on each device. One that fails doesn't stop the others; the exit code is 123 then.
launch() {
    [ ${#runs[@]} -gt 0 ] || refuse "--methods/--gammas: none of this script's runs; see --help"
    [ -z "$print" ] || { printf '%.0s%s\n%.0s' "${runs[@]}"; return; }
    local i length rest=0
    for ((i = ${#runs[@]} - 3; i >= 0; i -= 3)); do # the last one first: what follows instead of its own length
        length=${runs[i + 2]} runs[i + 2]=$((rest / ${#devices[@]}))
        finished "${runs[i]}" || ((rest += length))
    done
    export -f finished run turn
    set -m # the runs get a process group, which an interrupt is passed on to
    xargs -0 -n 3 -P ${#devices[@]} --process-slot-var=slot bash -o pipefail -c 'turn "$@"' turn "$gpus" \
        < <(printf '%s\0' "${runs[@]}") &
    group=$!
    trap stop INT TERM HUP
    wait $group
}
