#!/usr/bin/env bash
# A station whose keys are made in an HSM: token, lot, flashed disk, evidence
# signed in the token. SoftHSM2 stands in for the HSM. Ends with 0 if everything
# held, judged by openssl, debugfs and pkcs11-tool.
#
# KEYMILL names a keymill to use instead of building one; KEEP=DIR keeps all
# that is made, in DIR.
set -euo pipefail
. "$(dirname "$0")/../begin.sh"

server= loop=
leave() {
  [[ -z $loop ]] || losetup -d "$loop" || true
  [[ -z $server ]] || kill "$server" 2>/dev/null || true
  wait
}

title 'The token: initialised once, by whoever keeps its PINs.'
module=
for file in /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so; do
  [[ ! -e $file ]] || module=$file
done
[[ -n $module ]] || die "SoftHSM2 is missing; install Debian's softhsm2 and opensc"
mkdir -p tokens
printf 'directories.tokendir = %s/tokens\nobjectstore.backend = file\nlog.level = ERROR\n' "$tmp" >softhsm2.conf
export SOFTHSM2_CONF=$tmp/softhsm2.conf
pin=$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')
printf %s "$pin" >pin
softhsm2-util --init-token --free --label factory --so-pin "$pin$pin" --pin "$pin" >softhsm.log
p11() { pkcs11-tool --module "$module" --token-label factory "$@"; }

# The key that signs the evidence is made in the token and never leaves it. What
# the auditor gets is its public half, read by a tool that isn't keymill.
p11 --login --pin "$pin" --keypairgen --key-type EC:prime256v1 --label audit --usage-sign >audit-key.txt 2>&1 || die "$(cat audit-key.txt)"
grep -q 'never extractable' audit-key.txt || die 'the audit key can leave the token'
p11 --read-object --type pubkey --label audit -o audit.der 2>/dev/null
openssl pkey -pubin -inform DER -in audit.der -out token.pem

title 'The station: what is written once, in keymill.yaml.'
uri="module-path=$module&pin-source=$tmp/pin"
cat >keymill.yaml <<YAML
keys: {source: hsm, algorithm: ecdsa-p256, hsm: "pkcs11:token=factory?$uri"}
audit: {station: line-3, operator: trial, signing_key: "pkcs11:token=factory;object=audit?$uri"}
image: {golden: golden.sdimg, format: pack}
allocate: {macs: ["06:4b:4d:00:00:00/28"], serial: "HS{seq:4}"}
server: {token_file: server/token, ca_file: server/ca.crt}
YAML
sed "s#$tmp/##g" keymill.yaml
keymill demo --dir trial --devices 1 >trial.log 2>&1 || die "no golden image: $(cat trial.log)"
cp --sparse=always trial/golden.sdimg golden.sdimg

title 'A trial server stands in for the real one.'
"$keymill" sandbox --dir server >url 2>server.log & # not by the function: its process would be a shell's
server=$!
for ((i = 0; i < 6000; i++)); do [[ -s url ]] && break; sleep 0.05; done
[[ -s url ]] || die "no server: $(cat server.log)"
KEYMILL_SERVER_URL=$(cat url)
export KEYMILL_SERVER_URL

title 'What the token can do is tried, not believed.'
echo "\$ keymill hsm test | grep ' ecdsa-p256 '"
keymill hsm test | grep ' ecdsa-p256 '

title 'A lot: addresses and serial numbers, then keys, images, preauthorizations.'
show keymill allocate W47 --count 12 --local
# Its log has what the manifest and the token are warned of.
show keymill run W47.csv 2>run.log || die "$(cat run.log)"
keymill status W47 --json | jq -e '.released == 12 and .keys.released == 12' >/dev/null || die 'not all devices were released'

title 'Device HS0005 goes to a disk.'
truncate -s 512M disk.img
if ((EUID == 0)) && loop=$(losetup -f --show disk.img 2>losetup.log); then
  show keymill image flash W47 HS0005 "$loop"
  sync
  losetup -d "$loop"
  loop=
else
  loop=
  echo 'No block device can be made here (root and losetup would); the image goes to a file.'
  rm disk.img
  show keymill image write W47 HS0005 -o disk.img
fi

title 'What lies on the disk is what the evidence says.'
show keymill export W47 -o bundle --format csv
start=$(sfdisk -J golden.sdimg | jq '[.partitiontable.partitions[].start] | max')
debugfs -R 'cat /mender/mender-agent.pem' "disk.img?offset=$((start * 512))" 2>/dev/null |
  openssl pkey -pubout -outform DER | sha256sum | cut -d' ' -f1 >on-disk
jq -r 'select(.attributes.serial == "HS0005") | .spki_sha256' bundle/devices.jsonl >recorded
[[ -s recorded ]] || die 'the bundle does not list HS0005'
cmp on-disk recorded || die 'the disk has another key than the evidence'
echo "The disk's key is $(cat on-disk), as recorded."

title 'The evidence was signed in the token: its public key verifies it.'
show keymill audit verify bundle --key token.pem
(
  cd bundle
  jq -r .payload statement.dsse.json | base64 -d >../statement.json
  printf 'DSSEv1 28 application/vnd.in-toto+json %s ' "$(stat -c %s ../statement.json)" | cat - ../statement.json >../statement.pae
  jq -r '.signatures[0].sig' statement.dsse.json | base64 -d >../statement.sig
)
show openssl dgst -sha256 -verify token.pem -signature statement.sig statement.pae

title 'Of all private keys only the audit key is in the token.'
show keymill hsm gc --destroy
p11 --login --pin "$pin" --list-objects --type privkey 2>/dev/null | grep 'label:' >left
cat left
[[ $(grep -c . left) == 1 && $(cat left) == *audit* ]] || die 'keys are left in the token'
