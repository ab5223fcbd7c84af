# tools/once.bash: make a folder of the user's cache once; sourced by the tools beside it.

# make_once FOLDER FUNCTION: unless FOLDER exists, let FUNCTION fill a new folder, then rename it.
#
# Under a lock, so that of two that come at a time the second finds it made, and atomically, so that
# an interrupted run leaves no half of it.
make_once() {
    [ ! -d "$1" ] || return 0
    mkdir -p "${1%/*}"
    exec 9>"$1.lock"
    flock 9
    if [ ! -d "$1" ]; then
        rm -rf --one-file-system "$1".new-*
        new=$(mktemp -d "$1.new-XXXXXX")
        trap 'rm -rf --one-file-system "$new"' EXIT
        chmod 755 "$new"
        "$2" "$new" 9>&-
        mv --no-target-directory "$new" "$1"
        trap - EXIT
    fi
    exec 9>&-
}

# install_if_missing WHAT PACKAGES PROGRAM...: install Debian packages if a program is missing and
# this user may; whether the programs are there afterwards is for the caller to see.
install_if_missing() {
    local what=$1 packages=$2 name missing=
    shift 2
    for name; do
        command -v "$name" >/dev/null || missing=yes
    done
    if [ -n "$missing" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing $what from Debian"
        # shellcheck disable=SC2086  # several packages
        { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes \
            --no-install-recommends $packages; } >/dev/null || true
    fi
}

# bootstrap SUITE FOLDER PACKAGES: a minimal Debian with further packages (joined by commas).
#
# In a mount namespace: what debootstrap mounts is gone with it, also when interrupted.
bootstrap() {
    unshare --mount debootstrap --variant=minbase ${3:+--include="$3"} "$1" "$2" \
        "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
}
