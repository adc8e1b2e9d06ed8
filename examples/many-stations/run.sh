#!/usr/bin/env bash
# Many stations on one lot, on one machine: PostgreSQL, a trial server, three
# workers. One is killed in the middle and retired; the others end the lot. Ends
# with 0 if every device is released once, and the server holds one key of each.
#
# KEYMILL names a keymill to use instead of building one; KEEP=DIR keeps all that
# is made, in DIR; DEVICES is how many devices the lot has (default 3000).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
tmp=${KEEP:-$(mktemp -d)}
mkdir -p "$tmp"
tmp=$(cd "$tmp" && pwd)
pids=()
socket=$(mktemp -d /tmp/keymill-stations.XXXXXX) # short, as socket paths must be
cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait
  [[ ! -d $socket/data ]] || as_postgres "$bin/pg_ctl" -D "$socket/data" -m immediate stop >/dev/null 2>&1 || true
  rm -rf "$socket"
  [[ -n ${KEEP:-} ]] || rm -rf "$tmp"
}
trap cleanup EXIT

die() {
  echo "many-stations: $*" >&2
  tail -n 15 "$tmp"/line-*.log >&2 2>/dev/null || true
  exit 1
}

# until TRIES COMMAND..: a command that must succeed within TRIES seconds: ten times what a
# machine at rest needs.
until_true() {
  local tries=$1; shift
  for ((i = 0; i < 10 * tries; i++)); do
    if "$@"; then return; fi
    sleep 0.1
  done
  die "it never came true: $*"
}

# PostgreSQL refuses to run as root.
as_postgres() {
  if ((EUID == 0)); then setpriv --reuid postgres --regid postgres --clear-groups "$@"; else "$@"; fi
}

keymill=${KEYMILL:-}
if [[ -z $keymill ]]; then
  keymill=$tmp/keymill
  (cd "$root" && go build -o "$keymill" ./cmd/keymill)
fi
cd "$tmp"

# A golden image.
"$keymill" demo --dir demo --devices 1 >demo.log 2>&1 || die "no golden image: $(cat demo.log)"

# The shared ledger: a PostgreSQL server that listens on a socket of its own.
bin=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)
((EUID != 0)) || chown postgres "$socket"
(cd "$socket" && as_postgres "$bin/initdb" -D "$socket/data" -U keymill -A trust -E UTF8 --no-locale >/dev/null)
(cd "$socket" && as_postgres "$bin/pg_ctl" -D "$socket/data" -l "$socket/log" -w -o "-k $socket -c listen_addresses=''" start >/dev/null)
export KEYMILL_LEDGER="postgres:///postgres?user=keymill&host=$socket"

# The server, which needs 5 ms a request.
"$keymill" sandbox --dir server --latency 5ms >url 2>sandbox.log &
pids+=($!)
until_true 100 test -s url
export KEYMILL_SERVER_URL KEYMILL_SERVER_CA_FILE=server/ca.crt KEYMILL_SERVER_TOKEN_FILE=server/token
KEYMILL_SERVER_URL=$(cat url)
export KEYMILL_IMAGE_GOLDEN=demo/golden.sdimg KEYMILL_IMAGE_FORMAT=pack

awk -v count="${DEVICES:-3000}" 'BEGIN {
  print "mac,serial"
  for (i = 1; i <= count; i++) printf "AC:DE:48:%02X:%02X:%02X,S%06d\n", int(i / 65536), int(i / 256) % 256, i % 256, i
}' >manifest.csv

# station NAME VERB..: keymill as one of the stations, with its own folder and key.
station() {
  local name=$1; shift
  mkdir -p "$name"
  KEYMILL_AUDIT_STATION=$name KEYMILL_OUT=$name/out KEYMILL_AUDIT_SIGNING_KEY=$name/signing-key.pem "$keymill" "$@"
}

station line-1 submit manifest.csv --lot many
for name in line-1 line-2 line-3; do
  mkdir -p "$name"
  KEYMILL_AUDIT_STATION=$name KEYMILL_OUT=$name/out KEYMILL_AUDIT_SIGNING_KEY=$name/signing-key.pem \
    "$keymill" worker --until-done >"$name.out" 2>"$name.log" & # not by the function: its shell would have the pid
  pids+=($!)
done
workers=("${pids[@]:1}")

# A second worker under the same name, or with the same folder, is refused.
until_true 100 test -e line-1/out/.keymill-worker.lock
code=0
station line-1 worker --until-done 2>twice.log || code=$?
[[ $code == 2 ]] || die "a second worker of line-1 ended with $code: $(cat twice.log)"

# Line 3 dies in the middle of its work.
released() { "$keymill" status many --json | jq .released; }
half_done() { (($(released) > ${DEVICES:-3000} / 4)); }
until_true 600 half_done
kill -KILL "${workers[2]}"
echo "killed line-3 with $(released) devices released"
station line-1 worker retire line-3 --reason "its disk failed" --released rekey --yes

# It comes back, finds itself retired, destroys what it has, and ends with 2.
code=0
station line-3 worker --until-done >>line-3.out 2>>line-3.log || code=$?
[[ $code == 2 ]] && grep -q 'destroyed keys of a retired station' line-3.log || die "the retired station came back and ended with $code"

for pid in "${workers[@]:0:2}"; do
  wait "$pid" || die "a worker ended with $?"
done
station line-1 worker --until-done >>line-1.out 2>>line-1.log || die "the last look ended with $?"
[[ $(released) == "${DEVICES:-3000}" ]] || die "only $(released) devices are released"
station line-1 verify many --json >verify.json || die "the server holds something else"
"$keymill" status many

# The bundle holds the parts of all stations; line-1 signed for line-3.
for name in line-1 line-2 line-3; do station "$name" audit key >"$name.pem"; done
station line-1 export many -o bundle >/dev/null
"$keymill" audit verify bundle --key line-1.pem --key line-2.pem --key line-3.pem
echo "many-stations: every device is released once, and the server holds its one key"
