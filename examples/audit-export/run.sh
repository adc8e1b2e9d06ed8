#!/usr/bin/env bash
# What an auditor gets and does: a closed lot's bundle, verified by keymill and by
# stock tools alone, and tampered copies that are refused. Ends with 0 if what is
# genuine is accepted and what is not is refused.
#
# KEYMILL names a keymill to use instead of building one; KEEP=DIR keeps all
# that is made, in DIR.
set -euo pipefail
. "$(dirname "$0")/../begin.sh"

# refused COMMAND..: must end with 8, evidence that does not verify.
refused() {
  local code=0
  echo "\$ $*"
  "$@" || code=$?
  ((code == 8)) || die "exit code $code, not 8"
  echo '(exit code 8)'
}

title 'At the factory: a lot is made and closed. The auditor has the key already.'
keymill demo --dir factory --devices 40 >factory.log 2>&1 || die "$(cat factory.log)"
export KEYMILL_LEDGER=factory/keymill.db
show keymill status demo --json
keymill audit key >station.pem
show keymill export demo -o bundle
unset KEYMILL_LEDGER

title 'At the auditor: nothing but the bundle, the key and keymill.'
mkdir auditor
cp -r bundle station.pem auditor/
cd auditor
show keymill audit verify bundle --key station.pem

title 'In another language: a verifier that was written from FORMAT.md alone.'
if python3 -c 'import cryptography' 2>/dev/null; then
  cp "$root/examples/audit-export/verify.py" .
  show python3 verify.py --key station.pem bundle
else
  echo '(python3-cryptography is missing)'
fi

title 'Without keymill: the steps that the bundle'\''s README.txt gives, with stock tools.'
cp -r bundle stock
awk '/^2\. With stock tools/ { on = 1 } /^   d\./ { on = 0 } on && /^     / { sub(/^     /, ""); print }' bundle/README.txt |
  sed 's#STATION.pem#../station.pem#' >steps
(($(wc -l <steps) >= 6)) || die 'README.txt gives no steps'
while IFS= read -r step; do
  echo "\$ $step"
  (cd stock && bash -euo pipefail -c "$step") || die 'a step of README.txt failed'
done <steps
echo "\$ sha256sum -c --quiet images.sha256"
(cd ../factory/out/demo/images && sha256sum -c --quiet "$tmp/auditor/bundle/images.sha256") || die 'the images are not those of the bundle'

title 'A returned unit: was it made here, and is its key its own?'
units=(../factory/out/demo/images/*.sdimg)
cp --sparse=always "${units[0]}" returned.sdimg
cp --sparse=always "${units[1]}" clone.sdimg
mac=$(basename "${units[0]}" .sdimg | tr - :)
serial=$(grep -i "^$mac," ../factory/manifest.csv | cut -d, -f2)
show keymill audit proof demo "$serial" --bundle bundle -o returned.tlog-proof
show keymill audit verify-device --proof returned.tlog-proof --image returned.sdimg --key station.pem
refused keymill audit verify-device --proof returned.tlog-proof --image clone.sdimg --key station.pem

title 'Tampered: a key in the list of devices is exchanged; then the hashes are made to agree.'
cp -r bundle tampered
sed -i '3s/[0-9a-f]\{64\}/0000000000000000000000000000000000000000000000000000000000000000/' tampered/devices.jsonl
refused keymill audit verify tampered --key station.pem
(cd tampered && sha256sum --quiet -c SHA256SUMS >/dev/null 2>&1) && die 'sha256sum did not see it'
(cd tampered && cut -c67- SHA256SUMS | xargs sha256sum >../sums && cp ../sums SHA256SUMS && sha256sum --quiet -c SHA256SUMS)
refused keymill audit verify tampered --key station.pem

title 'Tampered: an event is left out.'
cp -r bundle shorter
sed -i 5d shorter/events.jsonl
refused keymill audit verify shorter --key station.pem

title 'Signed by somebody else.'
openssl genpkey -algorithm ed25519 2>/dev/null | openssl pkey -pubout -out other.pem
refused keymill audit verify bundle --key other.pem
