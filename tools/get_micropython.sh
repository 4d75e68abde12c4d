#!/usr/bin/env bash
# Unpack Debian's build of MicroPython into a folder of its own and print the path of a command
# that runs it. Needs apt-get and dpkg-deb, no root, and changes nothing outside the folder.
#
#   tools/get_micropython.sh [--series trixie|sid] [DEST]
#
#   trixie (default)   MicroPython 1.25, the oldest that fleetnet supports
#   sid                whatever is newest in Debian
#   DEST               default: .tools/micropython-SERIES of this checkout
#
# The program brings its own C library and loader, so the host may be older than the series. The
# command finds its parts beside itself: a checkout may be moved. DEST appears whole or not at
# all; a second run at the same time waits for the first; a run that finds DEST working leaves it.
# Environment: DEBIAN_MIRROR=URL when this machine's apt sources name no Debian archive,
#              DEBIAN_KEYRING=FILE when its keyring is not in the usual place.
# Exit status: 0 path printed; 1 cannot be had, one line on stderr says why and what to do.
set -euo pipefail

series=trixie
dest=
while [ $# -gt 0 ]; do
    case $1 in
        --series) series=${2:?--series needs a name}; shift ;;
        --series=*) series=${1#*=} ;;
        -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
        -*) echo "get_micropython: unknown option $1 (see --help)" >&2; exit 1 ;;
        *) dest=$1 ;;
    esac
    shift
done
case $series in
    trixie | sid) ;;
    *) echo "get_micropython: unknown series '$series': trixie or sid" >&2; exit 1 ;;
esac

fail() {
    echo "MicroPython ($series) cannot be had: $1" >&2
    exit 1
}

# True when the command starts and speaks DTLS as a client.
works() {
    [ -x "$1" ] && "$1" -c 'import tls; tls.PROTOCOL_DTLS_CLIENT' >/dev/null 2>&1
}

# First archive in this machine's apt sources that carries Debian itself (not its security or
# third-party archives), from the deb822 and the one-line form alike.
mirror_of_this_machine() {
    local files=() f
    for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.sources \
        /etc/apt/sources.list.d/*.list; do
        [ -r "$f" ] && files+=("$f")
    done
    [ ${#files[@]} -gt 0 ] || return 0
    awk '
        function consider(uri) {
            sub(/\/+$/, "", uri)
            if (uri ~ /^(https?|ftp|file|mirror\+[a-z]+):.*\/debian(\.list)?$/ && !found) {
                print uri
                found = 1
            }
        }
        /^[ \t]*#/ { next }
        tolower($1) == "uris:" { for (i = 2; i <= NF; i++) consider($i) }
        $1 == "deb" {
            sub(/\[[^]]*\]/, "")
            consider($2)
        }
    ' "${files[@]}"
}

keyring_of_this_machine() {
    local f
    for f in "${DEBIAN_KEYRING:-}" /usr/share/keyrings/debian-archive-keyring.gpg \
        /usr/share/keyrings/debian-archive-keyring.pgp; do
        if [ -n "$f" ] && [ -r "$f" ]; then
            echo "$f"
            return
        fi
    done
}

# apt with a state of its own and an empty list of installed packages: it then resolves and
# fetches the whole closure, C library included, whatever this host has.
private_apt() {
    local state=$1
    shift
    apt-get -qq -y \
        -o Dir::Etc::SourceList="$state/series.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
        -o Dir::State::Lists="$state/lists" -o Dir::State::Status="$state/status" \
        -o Dir::Cache="$state/cache" -o Dir::Log="$state/log" \
        -o Debug::NoLocking=1 -o APT::Sandbox::User= -o Acquire::Languages=none \
        -o APT::Update::Error-Mode=any -o APT::Install-Recommends=false \
        -o APT::Update::Post-Invoke-Success::= -o Acquire::Retries=2 -o Acquire::http::Timeout=20 \
        "$@" >"$state/apt.log" 2>&1
}

why() {
    grep -m1 -E '^(E|W|Err):' "$1/apt.log" || tail -n 1 "$1/apt.log"
}

download() {
    local state=$1 mirror keyring
    mirror=${DEBIAN_MIRROR:-$(mirror_of_this_machine)}
    [ -n "$mirror" ] || fail "the apt sources of this machine name no Debian archive; set DEBIAN_MIRROR=URL"
    keyring=$(keyring_of_this_machine)
    [ -n "$keyring" ] || fail "no Debian archive keyring; install debian-archive-keyring or set DEBIAN_KEYRING=FILE"
    mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$state/log"
    : >"$state/status"
    echo "deb [signed-by=$keyring] $mirror $series main" >"$state/series.list"
    private_apt "$state" update ||
        fail "the package list could not be read ($(why "$state")); check the network and try again"
    private_apt "$state" --download-only install micropython ||
        fail "its packages could not be fetched ($(why "$state")); check the network and try again"
}

unpack() {
    local state=$1 root=$2 deb
    mkdir -p "$root"
    for deb in "$state"/cache/archives/*.deb; do
        dpkg-deb -x "$deb" "$root" || fail "$(basename "$deb") does not unpack"
    done
    rm -rf "$root/usr/share" "$root/etc" "$root/var"
}

# The command: starts the private loader on the private program, found beside the command itself.
# --argv0 keeps the loader out of sys.argv; no variable is set, so the program sees the caller's.
write_command() {
    local folder=$1 loader libraries
    loader=$(cd "$folder" && find root -name 'ld-linux*.so.*' | sort | head -n 1)
    libraries=$(cd "$folder" && find root -name 'libc.so.6' -printf '%h\n' | sort | head -n 1)
    [ -n "$loader" ] && [ -n "$libraries" ] || fail "its packages hold no C library for this machine"
    cat >"$folder/micropython" <<COMMAND
#!/bin/sh
here=\$(dirname "\$(readlink -f "\$0")")
exec "\$here/$loader" --library-path "\$here/$libraries" --argv0 micropython \\
    "\$here/root/usr/bin/micropython" "\$@"
COMMAND
    chmod 755 "$folder/micropython"
}

dest=${dest:-$(cd "$(dirname "$0")/.." && pwd)/.tools/micropython-$series}
if works "$dest/micropython"; then
    readlink -f "$dest/micropython"
    exit 0
fi
for tool in apt-get dpkg-deb flock; do
    command -v "$tool" >/dev/null || fail "this machine has no $tool; put a MicroPython >= 1.25 on PATH or name it in FLEETNET_MICROPYTHON"
done
mkdir -p "$(dirname "$dest")" || fail "$(dirname "$dest") cannot be written"
dest=$(cd "$(dirname "$dest")" && pwd)/$(basename "$dest")
exec 9>"$dest.lock" || fail "$dest.lock cannot be written"
flock -w 600 9 || fail "another run has held $dest.lock for ten minutes"
if ! works "$dest/micropython"; then
    rm -rf "$dest".new.*    # left by a run that was killed; nobody else holds the lock
    new=$(mktemp -d "$dest.new.XXXXXX") || fail "$(dirname "$dest") cannot be written"
    chmod 755 "$new"
    trap 'rm -rf "$new"' EXIT
    download "$new/apt"
    unpack "$new/apt" "$new/root"
    write_command "$new"
    works "$new/micropython" || fail "the program was unpacked but does not start on this machine"
    rm -rf "$new/apt" "$dest"
    mv "$new" "$dest"
fi
echo "$dest/micropython"
