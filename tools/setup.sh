#!/usr/bin/env bash
# All the set-up of one make target; quick when nothing is missing.
#
#   tools/setup.sh demo     .venv with the server and its dashboard, MicroPython 1.25
#   tools/setup.sh test     .venv with everything the checks need, MicroPython 1.25 and Debian's
#                           newest, a .venv-3.x for each other CPython found, tools from Debian
#   tools/setup.sh bench    like demo, with the tools that are measured beside us
#
# Works without root: what only root could install is then named and noted. Notes go to
# .tools/absent, one line each: NAME, required|optional, why it is missing (tab-separated).
# Only a missing Python or a failed pip ends the set-up; whether an absent tool is an error is for
# the caller to say (make test STRICT=1 says so for every required one).
set -euo pipefail
. "$(dirname "$0")/steps.sh"
cd "$here"
target=${1:?demo, test or bench}
mkdir -p .tools/logs
absent=$(mktemp .tools/absent.XXXXXX)
chmod 644 "$absent"
trap 'rm -f "$absent"' EXIT

note() {
    printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$absent"
    echo "          $1 ($2): $3" >&2
}

micropython() {
    local series=$1 need=$2 text=$3
    [ ! -x ".tools/micropython-$series/micropython" ] ||
        ! tools/get_micropython.sh --series "$series" >/dev/null 2>&1 || return 0
    step "micropython-$series" "$text" tools/get_micropython.sh --series "$series" ||
        note "$text" "$need" "$(tail -n 1 ".tools/logs/micropython-$series.log")"
}

# The daemon of a package is not to be started on somebody's machine because tests were run:
# RUNLEVEL=1 tells Debian's maintainer scripts so.
apt_install() {
    local apt=(env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -y -o DPkg::Lock::Timeout=300)
    "${apt[@]}" install --no-install-recommends "$1" || {
        "${apt[@]}" update && "${apt[@]}" install --no-install-recommends "$1"
    }
}

on_path() { PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null; }

debian_tool() {
    local program=$1 package=$2
    if on_path "$program"; then return; fi
    if ! command -v apt-get >/dev/null; then
        note "$program" required "not installed, and there is no apt-get: install it by hand"
    elif [ "$(id -u)" != 0 ]; then
        note "$program" required "not installed, and only root can: apt-get install $package"
    else
        only_one apt 7
        on_path "$program" || step "apt-$package" "$package (apt)" apt_install "$package" ||
            note "$program" required "apt-get install $package failed: see .tools/logs/apt-$package.log"
    fi
}

other_pythons() {
    local version main python
    main=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    for version in 3.11 3.12 3.13; do
        [ "$version" != "$main" ] || continue
        if python=$(tools/find_python.sh "$version"); then
            tools/make_venv.sh ".venv-$version" "$python" server,test ||
                note "Python $version" required "its packages could not be installed"
        else
            note "Python $version" optional "no such interpreter here"
        fi
    done
}

python=$(tools/find_python.sh)
case $target in
    test) tools/make_venv.sh .venv "$python" server,dev ;;
    demo) tools/make_venv.sh .venv "$python" server,web ;;
    bench) tools/make_venv.sh .venv "$python" server,bench ;;
    *) echo "setup: demo, test or bench, not $target" >&2; exit 2 ;;
esac
micropython trixie required "MicroPython 1.25 (Debian trixie)"
if [ "$target" = test ]; then
    micropython sid optional "newest MicroPython (Debian sid)"
    other_pythons
fi
if [ "$target" != demo ]; then
    debian_tool openssl openssl
    debian_tool mosquitto mosquitto
    debian_tool faketime faketime
    debian_tool gnutls-cli gnutls-bin
    debian_tool systemd-analyze systemd
    debian_tool mosquitto_sub mosquitto-clients
    debian_tool promtool prometheus
    debian_tool chromium chromium
    debian_tool curl curl
fi
if [ "$target" = bench ]; then
    debian_tool coap-server-openssl libcoap3-bin
fi
mv "$absent" .tools/absent
