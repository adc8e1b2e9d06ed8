#!/bin/sh
# Boots Debian's mender-client (3.4) once against a server, as a device whose
# image holds a given key, and ends when the server has answered.
#
# usage: boot-client.sh SERVER_URL CA_FILE KEY_FILE DATA_DIR NAME=VALUE...
#
#   SERVER_URL  https://127.0.0.1:PORT
#   CA_FILE     the server's CA in PEM
#   KEY_FILE    the device's private key as it lies in the image; it is copied
#   DATA_DIR    an empty or missing folder, the device's /data/mender
#   NAME=VALUE  the device's identity, one argument each attribute
#
# exit code: 0 the server accepted the device, 1 it did not, 2 usage, 3 the
# client could not be started, 4 the client threw the key away and made its own.
# The client's log goes to DATA_DIR/client.log and, unless it was accepted, to
# stderr.
#
# It needs root, for a mount namespace of its own in which the client finds this
# device's identity script, and the Debian package mender-client. Nothing of the
# machine is changed; neither systemd nor D-Bus is needed.
set -eu

if [ $# -lt 5 ]; then
	sed -n '5,11s/^# \{0,1\}//p' "$0" >&2
	exit 2
fi
server=$1 ca=$2 key=$3 data=$4
shift 4

scripts=/usr/share/mender/identity
for tool in mender unshare mount; do
	command -v "$tool" >/dev/null || { echo "$tool is not installed (packages mender-client, util-linux, mount)" >&2; exit 3; }
done

mkdir -p "$data/identity" "$scripts"
chmod 700 "$data"
data=$(cd "$data" && pwd)
cp "$key" "$data/mender-agent.pem"
chmod 600 "$data/mender-agent.pem"
cp "$ca" "$data/server.crt"
echo device_type=keymill-trial >"$data/device_type"

printf '%s\n' "$@" >"$data/identity/attributes"
printf '#!/bin/sh\ncat %s/attributes\n' "$scripts" >"$data/identity/mender-device-identity"
chmod 755 "$data/identity" "$data/identity/mender-device-identity"

cat >"$data/mender.conf" <<EOF
{
  "ServerURL": "$server",
  "ServerCertificate": "$data/server.crt",
  "DBus": {"Enabled": false}
}
EOF

# The mount must not be tried for the first time by the client's own start, or
# its failure would look like a refusal.
unshare --mount true 2>"$data/client.log" || { cat "$data/client.log" >&2; exit 3; }

status=0
DATA=$data SCRIPTS=$scripts unshare --mount sh -c '
	mount --bind "$DATA/identity" "$SCRIPTS" || exit 3
	timeout 60 mender --no-syslog --log-level info --config "$DATA/mender.conf" \
		--fallback-config "$DATA/none.conf" --data "$DATA" bootstrap || exit 1
' >"$data/client.log" 2>&1 || status=$?

cmp -s "$key" "$data/mender-agent.pem" || status=4
[ "$status" = 0 ] || cat "$data/client.log" >&2
exit "$status"
