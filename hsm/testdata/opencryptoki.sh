#!/bin/sh
# Runs a command beside opencryptoki's daemon and soft token, in namespaces of
# its own, so that nothing of the machine's is touched. It must be root:
#   unshare --mount --ipc --pid --fork --mount-proc opencryptoki.sh WORKDIR COMMAND..
# It sets URI for the command; the user PIN is 4321. Debian: opencryptoki, opensc.
set -eu
work=$1; shift
mount -t tmpfs tmpfs "$work"
mkdir -p "$work/run/lock" "$work/run/opencryptoki"
cp -a /var/lib/opencryptoki "$work/lib"
cp -a /run/lock/opencryptoki "$work/run/lock/" 2>/dev/null || {
	mkdir -p "$work/run/lock/opencryptoki/swtok"
	chgrp -R pkcs11 "$work/run/lock/opencryptoki"
	chmod -R 770 "$work/run/lock/opencryptoki"
}
mount --bind "$work/lib" /var/lib/opencryptoki
mount --bind "$work/run" /run
pkcsslotd
for module in /usr/lib/*/pkcs11/libopencryptoki.so /usr/lib/*/opencryptoki/libopencryptoki.so; do [ -e "$module" ] && break; done
try=0
until pkcs11-tool --module "$module" -L 2>/dev/null | grep -q '^Slot'; do # the daemon opens its socket after it has gone to the background
	try=$((try + 1)); [ $try -lt 600 ] || { echo "opencryptoki's daemon shows no soft token" >&2; exit 3; }
	read -t 0.1 _ </dev/zero 2>/dev/null || :
done
slot=$(pkcs11-tool --module "$module" -L | sed -n 's/^Slot .*(0x\([0-9a-f]*\)).*/\1/p' | tail -1)
pkcs11-tool --module "$module" --init-token --slot "0x$slot" --label factory --so-pin 87654321 >&2
pkcs11-tool --module "$module" --init-pin --slot "0x$slot" --so-pin 87654321 --pin 4321 >&2
umask 077
printf 4321 >"$work/pin"
URI="pkcs11:token=factory?module-path=$module&pin-source=$work/pin" "$@"
