#!/bin/sh
# Sets a trial token up below DIR, without root: token.sh softhsm|nss|tpm DIR [LABEL]
# Prints what its users need, one NAME=VALUE a line: environment variables, and
# URI, the token's PKCS#11 URI. The user PIN is 4321, the security officer's 87654321.
# A TPM must be running already: TCTI in the environment says where.
# Debian: softhsm2, libnss3 libnss3-tools, libtpm2-pkcs11-1 libtss2-tcti-swtpm0 swtpm swtpm-tools opensc.
set -eu
kind=$1 dir=$2 label=${3:-factory}
mkdir -p "$dir"
umask 077
printf 4321 >"$dir/pin"

first() { for f; do [ -e "$f" ] && { echo "$f"; return; }; done; echo "none of: $*" >&2; exit 3; }

case $kind in
softhsm)
	module=$(first /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so)
	mkdir -p "$dir/tokens"
	printf 'directories.tokendir = %s/tokens\nobjectstore.backend = file\nlog.level = ERROR\n' "$dir" >"$dir/softhsm2.conf"
	SOFTHSM2_CONF=$dir/softhsm2.conf softhsm2-util --init-token --free --label "$label" --so-pin 87654321 --pin 4321 >&2
	echo "SOFTHSM2_CONF=$dir/softhsm2.conf"
	echo "URI=pkcs11:token=$label?module-path=$module&pin-source=$dir/pin"
	;;
nss)
	module=$(first /usr/lib/*/libsoftokn3.so /usr/lib/*/nss/libsoftokn3.so)
	mkdir -p "$dir/db"
	echo 4321 >"$dir/password"
	certutil -N -d "sql:$dir/db" -f "$dir/password" >&2
	args="configdir='sql:$dir/db' certPrefix='' keyPrefix='' secmod='secmod.db' flags="
	escaped=$(printf %s "$args" | sed 's/ /%20/g')
	echo "URI=pkcs11:token=NSS%20Certificate%20DB?module-path=$module&x-init-args=$escaped&pin-source=$dir/pin"
	;;
tpm)
	module=$(first /usr/lib/*/pkcs11/libtpm2_pkcs11.so /usr/lib/*/libtpm2_pkcs11.so.1)
	mkdir -p "$dir/store"
	export TPM2_PKCS11_STORE="$dir/store" TPM2_PKCS11_TCTI="$TCTI" TSS2_LOG=all+NONE
	pkcs11-tool --module "$module" --init-token --slot-index 0 --label "$label" --so-pin 87654321 >&2
	pkcs11-tool --module "$module" --init-pin --token-label "$label" --so-pin 87654321 --pin 4321 >&2
	echo "TPM2_PKCS11_STORE=$dir/store"
	echo "TPM2_PKCS11_TCTI=$TCTI"
	echo "TSS2_LOG=all+NONE"
	echo "URI=pkcs11:token=$label?module-path=$module&pin-source=$dir/pin"
	;;
*)
	echo "unknown kind of token: $kind" >&2
	exit 2
	;;
esac
