# The stages of the recipes configs/*/train.sh, which source this file. A stage that is done is left out when a recipe
# is started again, and one that was stopped goes on. Needs RUN, the folder of the run, and CONFIG, that of the YAMLs.
RUN="$(mkdir -p "$RUN" && cd "$RUN" && pwd)"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# once NAME COMMAND...: run a command, unless it has come to its end before.
once() {
    local done="$RUN/$1.done"
    if [ ! -e "$done" ]; then
        echo "== $1"
        "${@:2}"
        touch "$done"
    fi
}

# train NAME [OPTION...]: train RUN/NAME, from the start or from where it was stopped.
train() {
    local name="$1" resume=""
    if [ -e "$RUN/$name/last.ckpt" ]; then resume="--resume=last"; fi
    once "$name" python -m "train.$name" --config "$CONFIG/$name.yaml" --run "$RUN/$name" $resume "${@:2}"
}

# publish: put the whole trained model into RUN/model.
publish() {
    rm -rf "$RUN/model.partial"
    cp -r "$RUN/diffusion/export" "$RUN/model.partial"
    rm -rf "$RUN/model"
    mv "$RUN/model.partial" "$RUN/model"
    echo "the model is in $RUN/model: python -m infer.fifo --model $RUN/model"
}
