#!/usr/bin/env bash
# The tools of tests/proof that pin older packages than ours: each in an environment of its own.
#
#   tools/proof_tools.sh [PYTHON]    .tools/semgrep, .tools/sslyze; quick when they are there
#
# sslyze wants cryptography 46, semgrep click 8.4 and forty packages more. From Debian, as root:
# testssl.sh and sslscan; without root they are named. A tool that cannot be had is named, and the
# rig that wants it says so; the exit code stays 0.
set -euo pipefail
. "$(dirname "$0")/steps.sh"
cd "$here"
mkdir -p .tools/logs
python=${1:-$(tools/find_python.sh)}

own() {
    local tool=$1
    [ ! -x ".tools/$tool/bin/$tool" ] || return 0
    step "proof-$tool" "$tool (pip, .tools/$tool)" fill "$tool" ||
        echo "          $tool could not be installed: see .tools/logs/proof-$tool.log" >&2
}

fill() {
    rm -rf ".tools/$1"
    "$python" -m venv ".tools/$1" &&
        ".tools/$1/bin/python" -m pip install --disable-pip-version-check -q "$1"
}

debian() {
    local program=$1 package=$2
    if command -v "$program" >/dev/null; then return; fi
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "          $program is not installed: apt-get install $package (as root)" >&2
        return
    fi
    step "apt-$package" "$package (apt)" env DEBIAN_FRONTEND=noninteractive \
        apt-get -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "$package" ||
        echo "          $package could not be installed: see .tools/logs/apt-$package.log" >&2
}

own semgrep
own sslyze
debian testssl testssl.sh
debian sslscan sslscan
