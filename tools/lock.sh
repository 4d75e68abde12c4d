#!/usr/bin/env bash
# Pin what the container installs, with hashes: `make lock`, before a release or for a fixed package.
#
# The locks are those of the container's Python: another one may want other packages (markers).
# pip-tools reads the index that pip is set up with; its address is not written down.
set -euo pipefail
. "$(dirname "$0")/steps.sh"
cd "$here"
version=$(sed -n 's/^FROM .*python:\([0-9.]*\)-.*/\1/p' deploy/container/Containerfile | head -n 1)
python=$(tools/find_python.sh "$version") || {
    echo "lock: the container has Python $version: install one, and make lock again" >&2
    exit 1
}
mkdir -p .tools/logs
[ -x .tools/lock/bin/pip-compile ] || {
    step lock-venv "pip-tools in .tools/lock" bash -c \
        '"$1" -m venv .tools/lock && .tools/lock/bin/pip install --disable-pip-version-check pip-tools' \
        _ "$python"
}

compile() {
    local lock=deploy/container/$1 wanted=$2
    .tools/lock/bin/pip-compile --quiet --upgrade --generate-hashes --strip-extras --no-header \
        --no-annotate --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
        --output-file "$lock" - <<<"$wanted"
    echo "  $lock: $(grep -c '==' "$lock") packages"
}

extras=$(sed -n 's/^# extras: \([a-z,]*\)$/\1/p' deploy/container/Containerfile)
compile requirements.lock "$("$python" tools/extras.py "$extras")"
compile build.lock "$(sed -n 's/^requires = \["\(.*\)"\]$/\1/p' pyproject.toml)"
