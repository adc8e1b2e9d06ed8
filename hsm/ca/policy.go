package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// PolicyError says, before the first device, that a CA must not or can't make
// the certificates that are asked for.
type PolicyError struct {
	Err  error
	Help string
}

func (e *PolicyError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *PolicyError) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *PolicyError) Hint() string { return e.Help }

func policyf(hint, format string, args ...any) error {
	return &PolicyError{Err: fmt.Errorf(format, args...), Help: hint}
}

const leastRSA = 2048 // bits of a CA's key

// checkChain checks what the certificates say of themselves and of each other.
func (a *Authority) checkChain(now time.Time) error {
	own := a.chain[0]
	if public, ok := own.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(a.key.Public()) {
		return policyf("name the key that belongs to the certificate, which must stand first in its file",
			"the CA's key is not that of the certificate %q", own.Subject)
	}
	if key, ok := own.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() < leastRSA {
		return policyf("make a CA of 2048 bits or more, or of P-256", "the CA's RSA key has %d bits", key.N.BitLen())
	}
	for i, cert := range a.chain {
		if err := a.checkOne(i, cert, now); err != nil {
			return err
		}
		if i > 0 {
			if err := a.chain[i-1].CheckSignatureFrom(cert); err != nil {
				return policyf("put the certificates into the file in order, each followed by the one that signed it",
					"the certificate %q doesn't vouch for %q: %w", cert.Subject, a.chain[i-1].Subject, err)
			}
		}
	}
	return nil
}

// checkOne checks the certificate that is depth steps above the devices' issuer.
func (a *Authority) checkOne(depth int, cert *x509.Certificate, now time.Time) error {
	remedy := fmt.Sprintf("have %q issued anew", cert.Subject)
	switch {
	case !cert.BasicConstraintsValid || !cert.IsCA:
		return policyf(remedy+" with basicConstraints CA:TRUE", "the certificate %q is no CA's", cert.Subject)
	case cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return policyf(remedy+" with keyUsage keyCertSign", "the CA %q may not sign certificates", cert.Subject)
	case (cert.MaxPathLen > 0 || cert.MaxPathLenZero) && cert.MaxPathLen < depth:
		return policyf(remedy+" with a larger pathlen, or use a CA directly below it",
			"the CA %q allows %d CAs below it (pathlen), and there are %d", cert.Subject, cert.MaxPathLen, depth)
	case now.Before(cert.NotBefore) || now.After(cert.NotAfter):
		return policyf("check this machine's clock; else renew the CA's certificate", "the CA %q is valid from %s to %s, and now it is %s",
			cert.Subject, cert.NotBefore.Format(time.DateOnly), cert.NotAfter.Format(time.DateOnly), now.Format(time.DateOnly))
	case len(cert.ExtKeyUsage)+len(cert.UnknownExtKeyUsage) > 0 && !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth) && !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageAny):
		return policyf(remedy+" with extendedKeyUsage clientAuth, or without any", "the CA %q may not issue client certificates (extendedKeyUsage)", cert.Subject)
	case len(cert.SubjectKeyId) == 0:
		return policyf(remedy+" with a subjectKeyIdentifier, which RFC 5280 wants of a CA", "the CA %q has no subjectKeyIdentifier", cert.Subject)
	case len(cert.UnhandledCriticalExtensions) > 0:
		return policyf("use a CA without it", "the CA %q has a critical extension that is not understood here: %v", cert.Subject, cert.UnhandledCriticalExtensions)
	}
	a.limited = a.limited || len(cert.PermittedDNSDomains)+len(cert.ExcludedDNSDomains)+len(cert.PermittedURIDomains)+len(cert.ExcludedURIDomains)+
		len(cert.PermittedIPRanges)+len(cert.ExcludedIPRanges)+len(cert.PermittedEmailAddresses)+len(cert.ExcludedEmailAddresses) > 0
	return nil
}

// checkValidity compares the devices' certificates with the CA's own end, and
// has a whole chain verified with a certificate for an invented key.
func (a *Authority) checkValidity(now time.Time) error {
	_, notAfter := a.profile.validity(now, a.chain[0])
	for _, cert := range a.chain {
		if !notAfter.After(cert.NotAfter) {
			continue
		}
		if a.profile.days > 0 {
			return policyf(fmt.Sprintf("set certificates.days to %d or less, or renew the CA", int(cert.NotAfter.Sub(now).Hours()/24)),
				"devices' certificates would end on %s, and the CA %q ends on %s before", notAfter.Format(time.DateOnly), cert.Subject, cert.NotAfter.Format(time.DateOnly))
		}
		a.Warnings = append(a.Warnings, fmt.Sprintf("devices' certificates have no end, but the CA %q ends on %s", cert.Subject, cert.NotAfter.Format(time.DateOnly)))
	}
	a.pool = x509.NewCertPool()
	a.pool.AddCert(a.chain[len(a.chain)-1])
	return a.trial(a.profile.invented(), now)
}

// trial makes a certificate for a key that nobody keeps, and verifies it as a
// server would.
func (a *Authority) trial(attrs map[string]string, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	made, err := a.Issue(attrs, spki, now)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(made.DER)
	if err != nil {
		return policyf("look at the subject and the names in the settings", "the certificate can't be read back: %w", err)
	}
	intermediates := x509.NewCertPool()
	for _, above := range a.chain {
		intermediates.AddCert(above)
	}
	// Go takes an otherName for what it can't check only where names are constrained.
	_, err = cert.Verify(x509.VerifyOptions{Roots: a.pool, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return policyf("change the names in the settings, or use a CA whose name constraints allow them", "a server would refuse a certificate of this CA: %w", err)
	}
	return nil
}

// Check tells whether a device can get a certificate, without making one where
// the CA constrains no names. It returns the subject, by which duplicates are found.
func (a *Authority) Check(attrs map[string]string, now time.Time) (subject string, err error) {
	_, text, err := a.profile.subject(attrs)
	if err == nil {
		_, err = a.profile.names(attrs)
	}
	if err == nil && a.limited {
		err = a.trial(attrs, now)
	}
	if policy, ok := errors.AsType[*PolicyError](err); ok {
		err = policy.Err
	}
	return text, err
}
