package hsm

import (
	"encoding/base64"
)

// The fixed bytes around a key in DER. They are what x509.MarshalPKCS8PrivateKey
// and x509.MarshalPKIXPublicKey write (the tests compare them); assembling by
// hand leaves one copy of a private key in memory instead of five, and costs
// nothing beside the key generation.
const (
	ed25519Private = "\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20" // RFC 8410, section 7
	ed25519Public  = "\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00"
)

// curveDER is how keys of one elliptic curve are written: private key by
// RFC 5915 inside RFC 5208, with the public point; public key by RFC 5480.
type curveDER struct {
	size         int    // bytes of a scalar and of a coordinate
	beforeScalar string // of the private key
	beforePoint  string
	publicPrefix string
	oid          string // DER, with tag and length: CKA_EC_PARAMS
}

var p256DER = curveDER{
	size: 32,
	beforeScalar: "\x30\x81\x87\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07" +
		"\x04\x6d\x30\x6b\x02\x01\x01\x04\x20",
	beforePoint:  "\xa1\x44\x03\x42\x00",
	publicPrefix: "\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00",
	oid:          "\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07",
}

var p384DER = curveDER{
	size: 48,
	beforeScalar: "\x30\x81\xb6\x02\x01\x00\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22" +
		"\x04\x81\x9e\x30\x81\x9b\x02\x01\x01\x04\x30",
	beforePoint:  "\xa1\x64\x03\x62\x00",
	publicPrefix: "\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00",
	oid:          "\x06\x05\x2b\x81\x04\x00\x22",
}

// curveOf returns the curve of an algorithm, nil for those without one.
func curveOf(alg Algorithm) *curveDER {
	switch alg {
	case ECDSAP256:
		return &p256DER
	case ECDSAP384:
		return &p384DER
	}
	return nil
}

// private returns the PKCS#8 of a scalar (size bytes, big-endian) and its
// uncompressed point.
func (c *curveDER) private(scalar, point []byte) []byte {
	der := make([]byte, 0, len(c.beforeScalar)+c.size+len(c.beforePoint)+len(point))
	der = append(der, c.beforeScalar...)
	der = append(der, scalar...)
	der = append(der, c.beforePoint...)
	return append(der, point...)
}

// public returns the SPKI of an uncompressed point.
func (c *curveDER) public(point []byte) []byte {
	return append([]byte(c.publicPrefix), point...)
}

// ed25519DER returns PKCS#8 and SPKI of a key as crypto/ed25519 keeps it: seed
// (32 bytes), then public key.
func ed25519DER(key []byte) (private, public []byte) {
	private = make([]byte, 0, len(ed25519Private)+32)
	private = append(append(private, ed25519Private...), key[:32]...)
	return private, append([]byte(ed25519Public), key[32:]...)
}

const (
	pemBegin = "-----BEGIN PRIVATE KEY-----\n"
	pemEnd   = "-----END PRIVATE KEY-----\n"
	pemLine  = 48 // bytes that become a line of 64 characters (RFC 7468)
)

// privatePEM returns der as a PEM block and wipes der.
func privatePEM(der []byte) []byte {
	defer Wipe(der)
	lines := (len(der) + pemLine - 1) / pemLine
	out := make([]byte, 0, len(pemBegin)+base64.StdEncoding.EncodedLen(len(der))+lines+len(pemEnd))
	out = append(out, pemBegin...)
	for rest := der; len(rest) > 0; {
		n := min(pemLine, len(rest))
		out = base64.StdEncoding.AppendEncode(out, rest[:n])
		out = append(out, '\n')
		rest = rest[n:]
	}
	return append(out, pemEnd...)
}
