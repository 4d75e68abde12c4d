#!/usr/bin/env bash
# Make (or bring up to date) a virtual environment that shows this checkout as installed.
#
#   tools/make_venv.sh FOLDER PYTHON EXTRAS      e.g. .venv /usr/bin/python3.11 server,dev
#
# A stamp per set of extras makes the next run quick; it goes stale when pyproject.toml, the
# checkout's place or the interpreter changes. An environment that does not start, or that was
# made elsewhere (the checkout was moved: its scripts hold the old path), is made anew. A run that
# was cut off leaves no stamp, so the next one completes it.
set -euo pipefail
. "$(dirname "$0")/steps.sh"
cd "$here"
folder=$1 python=$2 extras=$3
name=$(basename "$folder")
name=${name#.}
stamp=$folder/stamp.$extras

key() {
    cksum <pyproject.toml
    ls {.,server,device_lib}/*/__init__.py 2>/dev/null || true    # an exact editable install lists packages
    grep __version__ fleetnet/__init__.py
    "$folder/bin/python" -c 'import sys; print(sys.version)' 2>/dev/null || echo none
    echo "$here"
}

fresh() { [ -f "$stamp" ] && [ "$(key)" = "$(cat "$stamp")" ]; }

if fresh; then exit 0; fi
only_one "$name" 8
if fresh; then exit 0; fi

if [ "$(cat "$folder/made-in" 2>/dev/null)" != "$here" ] ||
    ! "$folder/bin/python" -c 'import pip' 2>/dev/null; then
    rm -rf "$folder"
    step "$name-create" "virtual environment $folder" "$python" -m venv "$folder" || {
        explain "$name-create"
        exit 1
    }
    echo "$here" >"$folder/made-in"
fi
# --no-compile: most modules of the packages are never imported; those that are, are compiled then.
step "$name-pip" "Python packages [$extras] in $folder" \
    "$folder/bin/python" -m pip install --disable-pip-version-check --progress-bar off \
    --no-compile \
    -e ".[$extras]" || {
    explain "$name-pip"
    echo "  pip could not install the packages; check the network or pip's index and run make again" >&2
    exit 1
}
key >"$stamp.new"
mv "$stamp.new" "$stamp"
