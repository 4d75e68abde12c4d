#!/usr/bin/env bash
# Print the path of a CPython that can make virtual environments.
#
#   tools/find_python.sh          the first of 3.11, 3.12, 3.13, or a newer python3
#   tools/find_python.sh 3.12     that version, or nothing and exit status 1
#
# PYTHON=PATH in the environment is taken first. A command counts only when it really runs (a
# pyenv shim may exist for a version that is switched off) and has ensurepip (Debian packs it
# apart). Versions of a pyenv are looked at too.
set -euo pipefail
wanted=${1:-}

usable() {
    "$1" -c "
import sys, ensurepip, ssl, sqlite3, venv
wanted = '$wanted'
found = sys.version_info[:2]
sys.exit(not (found >= (3, 11) and (not wanted or wanted == '%d.%d' % found)))" >/dev/null 2>&1
}

candidates() {
    local version root=${PYENV_ROOT:-$HOME/.pyenv} name
    [ -z "${PYTHON:-}" ] || echo "$PYTHON"
    for version in ${wanted:-3.11 3.12 3.13}; do
        type -ap "python$version" 2>/dev/null || true
        for name in "$root"/versions/"$version"*/bin/python3; do
            [ ! -x "$name" ] || echo "$name"
        done
    done
    [ -n "$wanted" ] || type -ap python3 2>/dev/null || true
}

while read -r candidate; do
    if usable "$candidate"; then
        "$candidate" -c 'import sys; print(sys.executable)'
        exit 0
    fi
done < <(candidates)
if [ -z "$wanted" ]; then
    echo "fleetnet needs Python 3.11 or newer with venv and ensurepip, and found none on PATH." >&2
    echo "Debian and Ubuntu: apt-get install python3 python3-venv. Otherwise: make PYTHON=/path/to/python3.11 ..." >&2
fi
exit 1
