package reports

import (
	"crypto"
	"crypto/x509"
	"encoding/base64"

	"keymill/pipeline"
)

// Custody says where an audit key lives, as the station itself says it: only an
// attestation of the HSM's maker could prove it. It is recorded in the station
// log when the key begins to sign, and named in each statement.
type Custody struct {
	Kind        string `json:"kind"`                  // "file" or "hsm"
	Token       string `json:"token,omitempty"`       // the HSM token: manufacturer, model, serial
	Module      string `json:"module,omitempty"`      // the PKCS #11 module's name and version
	Extractable string `json:"extractable,omitempty"` // "yes" or "no", as the HSM says it
	Certificate string `json:"certificate,omitempty"` // of the key: DER, base64
}

// facts returns custody and key as the facts of an audit-key event.
func (c Custody) facts(pub crypto.PublicKey) ([]pipeline.Attr, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, err
	}
	kind := c.Kind
	if kind == "" {
		kind = "file"
	}
	return sortedFacts([]pipeline.Attr{
		{Name: "custody", Value: kind}, {Name: "token", Value: c.Token}, {Name: "module", Value: c.Module},
		{Name: "extractable", Value: c.Extractable}, {Name: "certificate", Value: c.Certificate},
		{Name: "spki", Value: base64.StdEncoding.EncodeToString(der)}, {Name: "spki_sha256", Value: pipeline.Fingerprint(der)},
	}), nil
}

// custodyOf reads the custody that an audit-key or key-rotated event records.
func custodyOf(e *eventLine) Custody {
	return Custody{Kind: e.fact("custody"), Token: e.fact("token"), Module: e.fact("module"),
		Extractable: e.fact("extractable"), Certificate: e.fact("certificate")}
}
