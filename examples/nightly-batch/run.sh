#!/usr/bin/env bash
# Three nights of a station, time compressed: a server that fails, a kill -9 in
# every night, a manifest that is refused. Ends with 0 if every lot is closed,
# and ledger, metrics, webhook log and server agree to the device.
#
# KEYMILL names a keymill to use instead of building one; KEEP=DIR keeps all
# that is made, in DIR; KEYMILL_LEDGER may be a database of PostgreSQL.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
tmp=${KEEP:-$(mktemp -d)}
mkdir -p "$tmp"
tmp=$(cd "$tmp" && pwd)
pids=()
cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait
  [[ -n ${KEEP:-} ]] || rm -rf "$tmp"
}
trap cleanup EXIT

die() {
  echo "nightly-batch: $*" >&2
  [[ ! -s $tmp/batch.log ]] || tail -n 30 "$tmp/batch.log" >&2
  exit 1
}

# until TRIES COMMAND..: a command that must succeed within TRIES/2 seconds: ten
# times what a machine at rest needs.
until_true() {
  local tries=$1; shift
  for ((i = 0; i < 10 * tries; i++)); do
    if "$@"; then return; fi
    sleep 0.05
  done
  die "it never came true: $*"
}

keymill=${KEYMILL:-}
if [[ -z $keymill ]]; then
  keymill=$tmp/keymill
  (cd "$root" && go build -o "$keymill" ./cmd/keymill)
fi
(cd "$root" && go build -o "$tmp/receiver" ./examples/nightly-batch/receiver)
cd "$tmp"

# A server that fails in all the ways it can, a golden image, a webhook receiver.
"$keymill" sandbox --dir server --seed 7 --latency 25ms \
  --fail 0.04 --reset 0.03 --stored-500 0.04 --orphan-500 0.02 >url 2>/dev/null &
pids+=($!)
"$keymill" demo --dir demo --devices 1 >demo.log 2>&1 || die "no golden image: $(cat demo.log)"
(umask 077 && echo "whsec_$(head -c 32 /dev/urandom | base64 -w 0)" >webhook-secret)
./receiver webhook-secret webhook.log >webhook-url 2>receiver.log &
pids+=($!)
until_true 200 test -s url
until_true 200 test -s webhook-url

# The station's configuration; the trial's addresses override it.
export KEYMILL_SERVER_URL KEYMILL_NOTIFY_URL
KEYMILL_SERVER_URL=$(cat url)
KEYMILL_NOTIFY_URL=$(cat webhook-url)
export KEYMILL_SERVER_CA_FILE=server/ca.crt KEYMILL_SERVER_TOKEN_FILE=server/token KEYMILL_IMAGE_GOLDEN=demo/golden.sdimg
export KEYMILL_NOTIFY_SECRET_FILE=webhook-secret KEYMILL_NOTIFY_COMMAND=tee,-a,../hook.log
export KEYMILL_METRICS_TEXTFILE=metrics/keymill.prom KEYMILL_BATCH_SETTLE=100ms
cp "$here/keymill.yaml" keymill.yaml
backup=yes
if [[ ${KEYMILL_LEDGER:-} == *://* ]]; then # backed up with PostgreSQL's own means
  backup=no
  sed -i '/^backup:/d' keymill.yaml
fi
mkdir -p factory/in metrics

# manifest LOT NIGHT NUMBER COUNT: written as .part and renamed, as droppers should.
manifest() {
  awk -v night="$2" -v lot="$3" -v count="$4" 'BEGIN {
    print "mac,serial"
    for (i = 1; i <= count; i++)
      printf "AC:DE:48:%02X:%02X:%02X,N%dL%d-%04d\n", night, lot * 16 + int(i / 256), i % 256, night, lot, i
  }' >"factory/in/$1.csv.part"
  mv "factory/in/$1.csv.part" "factory/in/$1.csv"
}

released() { "$keymill" status --json 2>/dev/null | jq 'map(.released) | add // 0'; }
released_more_than() {
  local now
  now=$(released || true)
  [[ ${now:-0} -gt $1 ]]
}
all_closed() { "$keymill" status --json | jq -e 'all(.released == .devices)' >/dev/null; }

# After how many of the night's devices the batch is killed: early in the first
# lot, late in it, in the second one.
kill_after=(0 40 180 260)
before=0
for night in 1 2 3; do
  manifest "2026-W47-$night-a" "$night" 1 250
  manifest "2026-W47-$night-b" "$night" 2 120
  if ((night == 2)); then
    printf 'mac,serial\nAC:DE:48:01:10:01,again\nnot a mac,N2L3-0001\n' >factory/in/2026-W47-2-c.csv
  fi
  "$keymill" batch factory >>batch.log 2>&1 &
  batch=$!
  pids+=("$batch")
  until_true 3600 released_more_than $((before + kill_after[night]))
  kill -9 "$batch"
  wait "$batch" 2>/dev/null || true
  all_closed && die "night $night was over before the kill"
  echo "Night $night: killed with kill -9 in the middle of a lot."
  for attempt in 1 2 3 4 5; do
    code=0
    "$keymill" batch factory >>batch.log 2>&1 || code=$?
    case $code in
      0 | 3) break ;; # 3: a manifest was refused
      4 | 5) ;;       # devices failed, or the server was gone: the next batch goes on
      *) die "night $night, attempt $attempt: exit $code" ;;
    esac
  done
  [[ -z $(find factory/in factory/work -type f) ]] || die "night $night left work behind"
  before=$(released)
  echo "Night $night: $before devices released, $(find factory/done -mindepth 1 -maxdepth 1 | wc -l) lots done, $(find factory/refused -name '*.csv' | wc -l) manifests refused."
done
cp metrics/keymill.prom night.prom        # of a batch with lots
"$keymill" batch factory >>batch.log 2>&1 # nothing to do: success
"$keymill" ledger upkeep >>batch.log 2>&1 # each morning: check, backup

# Do they agree? Each as lines of LOT DEVICES RELEASED GENERATED.
balance='"\(.lot) \(.devices) \(.released) \(.keys.generated - .keys.destroyed)"'
"$keymill" status --json | jq -r ".[] | $balance" | sort >ledger.txt
jq -rs "unique_by(.id) | .[] | select(.event == \"lot-closed\") | .totals | $balance" webhook.log | sort >webhook.txt
jq -rs "unique_by(.id) | .[] | select(.event == \"lot-closed\") | .totals | $balance" hook.log | sort >hook.txt
for lot in factory/done/*; do
  n=$(($(wc -l <"$lot/report/devices.csv") - 1))
  echo "$(basename "$lot") $n $n $n"
done | sort >reports.txt
for other in webhook hook reports; do
  diff ledger.txt "$other.txt" >&2 || die "ledger and $other differ"
done
metric() { awk -v name="$1" '$1 == name { print $2 }' metrics/keymill*.prom; }
agree() {
  local what=$1 metrics ledger
  metrics=$(metric "$2")
  ledger=$("$keymill" status --json | jq "$3")
  [[ $metrics == "$ledger" ]] || die "$what: the metrics say $metrics, the ledger $ledger"
  echo "$what: $ledger in the ledger, in the metrics, told by webhook and hook, and in the reports."
}
agree "Devices released" 'keymill_devices{state="released"}' 'map(.released) | add'
agree "Lots closed" 'keymill_lots{state="closed"}' 'length'
[[ $(metric 'keymill_keys{fate="generated"}') == $("$keymill" status --json | jq 'map(.keys.generated) | add') ]] || die "keys differ"
[[ $(metric 'keymill_keys{fate="held"}') == 0 ]] || die "keys are left over"
[[ $(metric keymill_notifications_pending) == 0 ]] || die "notifications are pending"
[[ $(metric keymill_last_success_timestamp_seconds) != 0 ]] || die "no success is noted"
[[ $(jq -rs 'unique_by(.id) | map(select(.event == "lot-refused")) | length' webhook.log) == 1 ]] || die "the refused manifest was not told"
[[ $(metric keymill_ledger_sound) == 1 ]] || die "the ledger is not sound"
[[ $backup == no || $(metric keymill_last_backup_timestamp_seconds) != 0 ]] || die "no backup was made"
if command -v promtool >/dev/null; then cat metrics/keymill*.prom | promtool check metrics; fi
for lot in $(cut -d' ' -f1 ledger.txt); do
  "$keymill" verify "$lot" >>verify.log 2>&1 || die "lot $lot: the server does not hold what the ledger says: $(tail -n 5 verify.log)"
done
echo "Compared with the server: every lot is there, key by key."
