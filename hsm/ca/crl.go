package ca

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"
)

// Reason is a reason for a revocation (RFC 5280, section 5.3.1).
type Reason string

// The reasons that devices give.
const (
	Unspecified          Reason = "unspecified"
	KeyCompromise        Reason = "key-compromise"
	AffiliationChanged   Reason = "affiliation-changed"
	Superseded           Reason = "superseded"
	CessationOfOperation Reason = "cessation-of-operation"
)

// Reasons returns all reasons.
func Reasons() []Reason {
	return []Reason{Unspecified, KeyCompromise, AffiliationChanged, Superseded, CessationOfOperation}
}

// code returns CRLReason's number.
func (r Reason) code() int {
	return map[Reason]int{Unspecified: 0, KeyCompromise: 1, AffiliationChanged: 3, Superseded: 4, CessationOfOperation: 5}[r]
}

// Revoked is a certificate that doesn't hold any more.
type Revoked struct {
	Serial string // hexadecimal
	Time   time.Time
	Reason Reason
}

// CRL returns the CA's certificate revocation list (PEM). number must grow from
// list to list; the next one is promised for next.
func CRL(issuer *x509.Certificate, key crypto.Signer, revoked []Revoked, number *big.Int, now, next time.Time) ([]byte, error) {
	if issuer.KeyUsage != 0 && issuer.KeyUsage&x509.KeyUsageCRLSign == 0 {
		return nil, policyf("have the CA's certificate issued anew with keyUsage cRLSign", "the CA %q may not sign revocation lists", issuer.Subject)
	}
	list := &x509.RevocationList{Number: number, ThisUpdate: now.UTC().Truncate(time.Second), NextUpdate: next.UTC().Truncate(time.Second)}
	for _, r := range revoked {
		serial, ok := new(big.Int).SetString(r.Serial, 16)
		if !ok {
			return nil, fmt.Errorf("%q is no serial number", r.Serial)
		}
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: serial, RevocationTime: r.Time.UTC().Truncate(time.Second), ReasonCode: r.Reason.code(),
		})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, issuer, key)
	if err != nil {
		return nil, fmt.Errorf("sign the revocation list: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), nil
}
