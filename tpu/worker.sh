#!/bin/sh
# A job on one host of a slice. It runs detached from whoever started it, and is started again when
# it ends with status 75: preempted or left by another process, saved.
#   worker.sh start JOB COMMAND...   starts it, unless it is running already
#                                    (`other` and its command, if it runs another one)
#   worker.sh status JOB             one line: host, running|ended|none, process or exit status
#   worker.sh stop JOB [COMMAND...]  SIGTERM: it saves and ends (if it is this command)
#   worker.sh log JOB LINES          the end of what it printed
set -eu
what=$1 job=$2
shift 2
folder=${SEQZOO_JOBS:-$HOME/seqzoo-jobs}/$job
mkdir -p "$folder"

alive() { [ -s "$folder/loop" ] && kill -0 "$(cat "$folder/loop")" 2>/dev/null; }

# The addresses of other slices change when they are made anew; the command stays the same.
this() { printf '%s\n' "$@" | sed -e '1{/^env$/d;}' -e '/^MEGASCALE_/d'; }
differs() { [ -s "$folder/command" ] && [ "$(this "$@")" != "$(cat "$folder/command")" ]; }

case $what in
    start)
        if alive && differs "$@"; then
            echo "$(hostname) other $(cat "$folder/loop")"
            echo "runs: $(tr '\n' ' ' <"$folder/command")"
            exit 0
        fi
        if alive; then echo "$(hostname) running $(cat "$folder/loop")"; exit 0; fi
        this "$@" >"$folder/command"
        rm -f "$folder/ended" "$folder/stop"
        [ -f "$folder/log" ] && mv "$folder/log" "$folder/log.before"
        setsid nohup sh "$0" loop "$job" "$@" >"$folder/log" 2>&1 </dev/null &
        echo $! >"$folder/loop"
        echo "$(hostname) running $!"
        ;;
    loop)
        echo $$ >"$folder/loop"
        short=0
        while :; do
            began=$(date +%s)
            status=0
            "$@" &
            echo $! >"$folder/process"
            wait $! || status=$?
            [ "$status" = 75 ] || break
            [ -f "$folder/stop" ] && break
            # Five times in a row within a minute is no preemption.
            if [ $(($(date +%s) - began)) -lt 60 ]; then short=$((short + 1)); else short=0; fi
            [ "$short" -lt 5 ] || break
            echo "worker: status 75, starting again"
            sleep "${SEQZOO_RESTART_SECONDS:-10}"
        done
        echo "$status" >"$folder/ended"
        ;;
    status)
        if alive; then echo "$(hostname) running $(cat "$folder/loop")"
        elif [ -s "$folder/ended" ]; then echo "$(hostname) ended $(cat "$folder/ended")"
        elif [ -s "$folder/loop" ]; then echo "$(hostname) ended 137"  # killed, and said nothing
        else echo "$(hostname) none 0"
        fi
        ;;
    stop)
        if [ $# -gt 0 ] && differs "$@"; then exit 0; fi
        touch "$folder/stop"
        [ -s "$folder/process" ] && kill -TERM "$(cat "$folder/process")" 2>/dev/null || true
        ;;
    log) tail -n "$1" "$folder/log" ;;
    *) echo "worker.sh: there is no $what" >&2; exit 2 ;;
esac
