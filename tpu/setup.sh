#!/bin/sh
# Makes a host of a slice ready: unpacks the code beside this script and installs it for TPUs.
# Images come with an older Python than seqzoo needs (3.11): then a newer one is installed first.
# Doing it again does nothing.
set -eu
archive=$1 folder=$HOME/seqzoo
mkdir -p "$folder"
tar -xzf "$archive" -C "$folder"
cd "$folder"

new_enough() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
find_python() {
    for python in python3.13 python3.12 python3.11 python3 "$HOME/.local/bin/python3.12"; do
        if command -v "$python" >/dev/null 2>&1 && new_enough "$python"; then return 0; fi
    done
    return 1
}

if ! find_python; then
    echo "setup: no Python from 3.11 on here; installing one" >&2
    for version in 3.12 3.11; do
        # A host that has just started may still hold the lock of its package manager.
        sudo apt-get -o DPkg::Lock::Timeout=300 update -q >/dev/null 2>&1 || true
        sudo apt-get -o DPkg::Lock::Timeout=300 install -yq "python$version" "python$version-venv" \
            >/dev/null 2>&1 && break
    done
    if ! find_python; then
        python3 -m pip install --user -q uv >/dev/null 2>&1 || true
        "$HOME/.local/bin/uv" python install 3.12 >/dev/null 2>&1 || true
    fi
    if ! find_python; then
        echo "setup: Python 3.11 or newer could not be installed on $(hostname); take a newer image with --runtime, such as one of Ubuntu 24.04" >&2
        exit 2
    fi
fi
command -v make >/dev/null 2>&1 || sudo apt-get -o DPkg::Lock::Timeout=300 install -yq make >/dev/null 2>&1
make install PYTHON="$python" ACCELERATOR="${SEQZOO_ACCELERATOR:-tpu}" >&2
# Checkpoints and data in a bucket need gcsfs, which the lock has only for developers.
if ! .venv/bin/python -c 'import gcsfs' 2>/dev/null; then
    .venv/bin/python -m pip --disable-pip-version-check install -q 'gcsfs>=2025.1' >&2
fi
echo "$(hostname) ready $("$python" -c 'import sys; print(sys.version.split()[0])')"
