# Sourced by the set-up scripts: one line a step with the seconds it took. On a terminal the line
# lives while the step runs and shows the last words of its log; in a log file a long step says
# every 20 s that it is alive. The full output of each step is kept in .tools/logs.
# shellcheck shell=bash

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
logs=$here/.tools/logs

# step NAME TEXT COMMAND... : run COMMAND with its output in the log NAME; its status is returned.
step() {
    local name=$1 text=$2 log=$logs/$1.log begin=$EPOCHSECONDS pid status=0 beat=0 seconds
    shift 2
    mkdir -p "$logs"
    set -m    # a process group of its own, so that Ctrl-C can end all of it
    "$@" >"$log" 2>&1 </dev/null &
    pid=$!
    set +m
    trap 'kill -TERM -- -'"$pid"' 2>/dev/null; echo "  stopped" >&2; exit 130' INT TERM
    while kill -0 "$pid" 2>/dev/null; do
        sleep 0.2
        seconds=$((EPOCHSECONDS - begin))
        if [ -t 2 ]; then
            printf '\r\033[K  %4d s  %s  \033[2m%.50s\033[0m' "$seconds" "$text" \
                "$(tail -n 20 "$log" 2>/dev/null | grep -v WARNING | tail -n 1 | tr -d '\r')" >&2
        elif [ $((seconds / 20)) -gt "$beat" ]; then
            beat=$((seconds / 20))
            printf '  %4d s  %s ...\n' "$seconds" "$text" >&2
        fi
    done
    wait "$pid" || status=$?
    trap - INT TERM
    [ ! -t 2 ] || printf '\r\033[K' >&2
    if [ "$status" = 0 ]; then
        printf '  %4d s  %s\n' $((EPOCHSECONDS - begin)) "$text" >&2
    else
        printf '  %4d s  %s: failed\n' $((EPOCHSECONDS - begin)) "$text" >&2
    fi
    return "$status"
}

# explain NAME [LINES] : the end of the log of a step that failed, indented.
explain() {
    tail -n "${2:-12}" "$logs/$1.log" | sed 's/^/          /' >&2
    printf '          (whole log: .tools/logs/%s.log)\n' "$1" >&2
}

# only_one NAME FD : hold the lock NAME on descriptor FD until this script ends.
only_one() {
    command -v flock >/dev/null || return 0
    mkdir -p "$here/.tools"
    eval "exec $2>\"\$here/.tools/\$1.lock\""
    flock -n "$2" && return 0
    echo "  another make is at work on this; waiting for it" >&2
    flock -w 1800 "$2" || {
        echo "  it has not ended in half an hour: see who holds .tools/$1.lock" >&2
        return 1
    }
}
