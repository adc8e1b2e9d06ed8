package reports

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	_ "crypto/sha512" // for the digests below
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
)

// signedData is the part of the CMS that time stamps use (RFC 5652, section 5.1).
type signedData struct {
	Version           int
	DigestAlgorithms  []algorithmID `asn1:"set"`
	Encapsulated      encapsulated
	Certificates      asn1.RawValue `asn1:"optional,tag:0"`
	RevocationLists   asn1.RawValue `asn1:"optional,tag:1"`
	SignerInformation []signerInfo  `asn1:"set"`
}

type encapsulated struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"optional,explicit,tag:0"`
}

type signerInfo struct {
	Version            int
	Signer             issuerAndSerial
	DigestAlgorithm    algorithmID
	SignedAttributes   asn1.RawValue `asn1:"optional,tag:0"`
	SignatureAlgorithm algorithmID
	Signature          []byte
	UnsignedAttributes asn1.RawValue `asn1:"optional,tag:1"`
}

type issuerAndSerial struct {
	Issuer asn1.RawValue
	Serial *big.Int
}

type attribute5652 struct {
	Type   asn1.ObjectIdentifier
	Values asn1.RawValue `asn1:"set"`
}

// verify checks that an authority under one of the roots signed the time stamp,
// with a certificate for time stamping that was valid at that time. It returns
// the authority's certificate. Revocation is not looked up: auditors work
// offline.
func (t *timestamp) verify(roots *x509.CertPool) (*x509.Certificate, error) {
	if len(t.signed.SignerInformation) != 1 {
		return nil, fmt.Errorf("a time stamp has one signer, this one %d", len(t.signed.SignerInformation))
	}
	info := t.signed.SignerInformation[0]
	certs, err := x509.ParseCertificates(t.signed.Certificates.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the time stamp's certificates: %w", err)
	}
	var signer *x509.Certificate
	others := x509.NewCertPool()
	for _, c := range certs {
		if bytes.Equal(c.RawIssuer, info.Signer.Issuer.FullBytes) && c.SerialNumber.Cmp(info.Signer.Serial) == 0 {
			signer = c
			continue
		}
		others.AddCert(c)
	}
	if signer == nil {
		return nil, errors.New("the time stamp does not hold its signer's certificate")
	}
	_, err = signer.Verify(x509.VerifyOptions{Roots: roots, Intermediates: others, CurrentTime: t.time,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping}})
	if err != nil {
		return nil, fmt.Errorf("the time stamp's signer is not trusted: %w", err)
	}
	return signer, t.checkSignature(info, signer)
}

// checkSignature checks the signed attributes and the signature over them
// (RFC 5652, section 5.4).
func (t *timestamp) checkSignature(info signerInfo, signer *x509.Certificate) error {
	hash, err := digestOf(info.DigestAlgorithm.Algorithm)
	if err != nil {
		return err
	}
	digest := hash.New()
	digest.Write(t.content)
	if err := checkAttributes(info.SignedAttributes.Bytes, digest.Sum(nil)); err != nil {
		return err
	}
	// What is signed is the attributes as a SET, not with their own tag.
	signed := bytes.Clone(info.SignedAttributes.FullBytes)
	signed[0] = asn1.TagSet | 0x20
	algorithm, err := signatureAlgorithm(signer.PublicKey, hash)
	if err != nil {
		return err
	}
	if err := signer.CheckSignature(algorithm, signed, info.Signature); err != nil {
		return errors.New("the time stamp's signature is wrong")
	}
	return nil
}

// checkAttributes wants the content's type and digest among the attributes.
func checkAttributes(attributes, digest []byte) error {
	typed, digested := false, false
	for rest := attributes; len(rest) > 0; {
		var a attribute5652
		var err error
		if rest, err = asn1.Unmarshal(rest, &a); err != nil {
			return fmt.Errorf("a time stamp's attribute: %w", err)
		}
		switch {
		case a.Type.Equal(oidType):
			var id asn1.ObjectIdentifier
			typed = unmarshal(a.Values.Bytes, &id, "content type") == nil && id.Equal(oidTSTInfo)
		case a.Type.Equal(oidDigest):
			var sum []byte
			digested = unmarshal(a.Values.Bytes, &sum, "digest") == nil && bytes.Equal(sum, digest)
		}
	}
	if !typed || !digested {
		return errors.New("the time stamp was changed after it was signed")
	}
	return nil
}

func digestOf(id asn1.ObjectIdentifier) (crypto.Hash, error) {
	switch {
	case id.Equal(oidSHA256):
		return crypto.SHA256, nil
	case id.Equal(oidSHA384):
		return crypto.SHA384, nil
	case id.Equal(oidSHA512):
		return crypto.SHA512, nil
	}
	return 0, fmt.Errorf("a time stamp with the digest %v is not accepted", id)
}

func signatureAlgorithm(key any, hash crypto.Hash) (x509.SignatureAlgorithm, error) {
	var byHash map[crypto.Hash]x509.SignatureAlgorithm
	switch key.(type) {
	case *rsa.PublicKey:
		byHash = map[crypto.Hash]x509.SignatureAlgorithm{crypto.SHA256: x509.SHA256WithRSA, crypto.SHA384: x509.SHA384WithRSA, crypto.SHA512: x509.SHA512WithRSA}
	case *ecdsa.PublicKey:
		byHash = map[crypto.Hash]x509.SignatureAlgorithm{crypto.SHA256: x509.ECDSAWithSHA256, crypto.SHA384: x509.ECDSAWithSHA384, crypto.SHA512: x509.ECDSAWithSHA512}
	case ed25519.PublicKey:
		return x509.PureEd25519, nil
	}
	if a, ok := byHash[hash]; ok {
		return a, nil
	}
	return 0, fmt.Errorf("a time stamp by a %T key is not accepted", key)
}
