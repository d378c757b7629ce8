#!/bin/sh
# Puts seqzoo and everything it needs into .venv; `make install` calls it. Doing it again does nothing.
#   PYTHON=...       the interpreter to use; otherwise the first suitable one on PATH
#   ACCELERATOR=...  cpu, cuda or tpu; otherwise what the machine has
#   VENV=...         where to; otherwise .venv
set -eu
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}

say() { printf '%s\n' "$*" >&2; }

# The version of an interpreter as X.YY, or nothing where it does not run (a launcher may be on PATH without one).
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }
suitable() { case $1 in 3.1[1-9] | 3.[2-9][0-9]) return 0 ;; *) return 1 ;; esac }
lock_of() { printf 'requirements/py%s.txt' "$(printf '%s' "$1" | tr -d .)"; }

choose_python() {
    if [ -n "${PYTHON:-}" ]; then
        python=$PYTHON version=$(version_of "$PYTHON")
        suitable "$version" && return
        say "PYTHON=$PYTHON is ${version:-not an interpreter that runs}, and seqzoo needs 3.11 or newer: name a newer one, as in 'make install PYTHON=python3.12'."
        exit 2
    fi
    # First one that a lock exists for, then any that is new enough.
    for wanted in lock any; do
        for python in python3 python3.13 python3.12 python3.11 python3.14; do
            version=$(version_of "$python")
            suitable "$version" || continue
            if [ "$wanted" = any ] || [ -f "$(lock_of "$version")" ]; then return; fi
        done
    done
    version=$(version_of python3)
    say "python3 is ${version:-missing} here, and seqzoo needs Python 3.11 or newer: install one (Debian and Ubuntu: 'sudo apt install python3.12 python3.12-venv' or the deadsnakes archive; without root: 'uv python install 3.12' or conda) and run 'make install PYTHON=python3.12'."
    exit 2
}

choose_accelerator() {
    accelerator=${ACCELERATOR:-$("$python" -I seqzoo/accelerators.py)}
    case $accelerator in
        cpu | cuda | tpu) ;;
        *)
            say "ACCELERATOR=$accelerator is none of cpu, cuda and tpu: choose one, or leave it out and the machine is asked."
            exit 2
            ;;
    esac
}

make_venv() {
    here=true  # the commands in .venv/bin hold its place: they do not survive a move of the checkout
    if [ -f "$stamp" ]; then grep -qF " $PWD " "$stamp" || here=false; fi
    if $here && [ "$(version_of "$venv/bin/python")" = "$version" ]; then return; fi
    if [ -e "$venv" ]; then
        say "$venv is for another Python or another place; making it anew for $version."
        rm -rf "$venv"
    fi
    if ! "$python" -m venv "$venv"; then
        rm -rf "$venv"
        say "$python could not make a virtual environment: on Debian and Ubuntu 'sudo apt install python$version-venv' brings what it lacks."
        exit 2
    fi
}

pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

choose_python
lock=$(lock_of "$version")
choose_accelerator
extra="${lock%.txt}-$accelerator.txt"

stamp="$venv/.installed"
locks=$lock
[ "$accelerator" = cpu ] || locks="$lock $extra"
# shellcheck disable=SC2086  # two names without spaces
wish="$accelerator $version $PWD $(cat pyproject.toml $locks 2>/dev/null | cksum)"
if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wish" ]; then exit 0; fi

say "Installing seqzoo into $venv for Python $version on $accelerator (once, a few minutes) ..."
make_venv
rm -f "$stamp"
if [ -f "$lock" ]; then
    for file in $locks; do pip install --quiet --require-hashes --no-deps -r "$file"; done
    pip install --quiet --no-deps --no-build-isolation -e .
else
    say "There is no lock for Python $version, so this takes the newest versions: they may be too new."
    if [ "$accelerator" = cpu ]; then extras=dev; else extras=dev,$accelerator; fi
    pip install --quiet -e ".[$extras]"
fi
printf '%s\n' "$wish" >"$stamp"
say "Installed: $venv/bin/seqzoo."
