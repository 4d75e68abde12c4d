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

# Debian has some in a folder that a user's PATH lacks, PostgreSQL in one for each version.
on_path() {
    local postgres=(/usr/lib/postgresql/*/bin) IFS=:
    PATH=$PATH:/usr/sbin:/sbin:${postgres[*]} command -v "$1" >/dev/null
}

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

other_python() {
    local version=$1 other
    if other=$(tools/find_python.sh "$version"); then
        tools/make_venv.sh ".venv-$version" "$other" portable ||
            note "Python $version" required "its packages could not be installed"
    else
        note "Python $version" optional "no such interpreter here"
    fi
}

micropythons() {
    micropython trixie required "MicroPython 1.25 (Debian trixie)"
    [ "$target" != test ] || micropython sid optional "newest MicroPython (Debian sid)"
}

debian_tools() {
    [ "$target" != demo ] || return 0
    debian_tool openssl openssl
    debian_tool mosquitto mosquitto
    debian_tool faketime faketime
    debian_tool gnutls-cli gnutls-bin
    debian_tool systemd-analyze systemd
    debian_tool mosquitto_sub mosquitto-clients
    debian_tool promtool prometheus
    debian_tool nginx nginx-core
    debian_tool initdb postgresql
    debian_tool chromium chromium
    debian_tool curl curl
    [ "$target" != bench ] || debian_tool coap-server-openssl libcoap3-bin
}

# aside COMMAND... : run it beside what follows, its words kept until together() waits for it:
# one waits for the network while another unpacks, and there are two cores.
asides=()
aside() {
    local words
    words=$(mktemp .tools/logs/aside.XXXXXX)
    set -m    # a process group of its own, see stop()
    "$@" >"$words" 2>&1 </dev/null &
    set +m
    asides+=("$!:$words")
}

together() {
    local each
    for each in "${asides[@]}"; do
        wait "${each%%:*}" || true    # what could not be had is in the notes
        cat "${each#*:}" >&2
        rm -f "${each#*:}"
    done
    asides=()
}

stop() {
    local each
    for each in "${asides[@]}"; do
        kill -TERM -- "-${each%%:*}" 2>/dev/null || true
        rm -f "${each#*:}"
    done
    rm -f "$absent"
}
trap stop EXIT

case $target in
    test) extras=server,dev ;;
    demo) extras=server,web ;;
    bench) extras=server,bench ;;
    *) echo "setup: demo, test or bench, not $target" >&2; exit 2 ;;
esac
python=$(tools/find_python.sh)
aside micropythons
aside debian_tools
if [ "$target" = test ]; then
    ours=$python
    [ ! -x .venv/bin/python ] || ours=.venv/bin/python
    main=$("$ours" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    for version in 3.11 3.12 3.13; do
        [ "$version" = "$main" ] || aside other_python "$version"
    done
fi
tools/make_venv.sh .venv "$python" "$extras"
together
mv "$absent" .tools/absent
