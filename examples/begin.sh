# What an example's run.sh begins with, to be sourced: a folder in $tmp, which is
# the current one from here on and goes away at the end, and keymill.
#
# KEYMILL names a keymill to use instead of building one; KEEP=DIR keeps all
# that is made, in DIR.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PATH=$PATH:/usr/sbin:/sbin
tmp=${KEEP:-$(mktemp -d)}
mkdir -p "$tmp"
tmp=$(cd "$tmp" && pwd)
# leave: an example that starts something ends it here, under another definition.
leave() { :; }
finish() {
  leave
  [[ -n ${KEEP:-} ]] || rm -rf "$tmp"
}
trap finish EXIT

example=$(basename "$(dirname "$0")")
die() { echo "$example: $*" >&2; exit 1; }
title() { printf '\n# %s\n' "$*"; }
# show COMMAND..: as a person would type it, without this run's folder.
show() { echo "\$ $*" | sed "s#$tmp/##g"; "$@"; }

keymill=${KEYMILL:-}
if [[ -z $keymill ]]; then
  keymill=$tmp/bin/keymill
  (cd "$root" && go build -o "$keymill" ./cmd/keymill)
fi
keymill=$(cd "$(dirname "$keymill")" && pwd)/$(basename "$keymill")
keymill() { "$keymill" "$@"; }
cd "$tmp"
umask 077
