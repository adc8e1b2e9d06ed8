package reports

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/gowebpki/jcs"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"keymill/pipeline"
)

// Types of the statement (in-toto Attestation Framework, Statement v1, in a
// DSSE v1 envelope).
const (
	payloadType   = "application/vnd.in-toto+json"
	statementType = "https://in-toto.io/Statement/v1"
	// PredicateType names the predicate that Predicate describes.
	PredicateType = "urn:keymill:attestation:lot:1"
)

// Statement says that a station vouches for the files of a bundle, the images
// and the manifest of one lot.
type Statement struct {
	Type          string             `json:"_type"`
	Subject       []statementSubject `json:"subject"`
	PredicateType string             `json:"predicateType"`
	Predicate     Predicate          `json:"predicate"`
}

type statementSubject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// Predicate is what the station says about the lot. Subjects are named
// "bundle/FILE" for the files beside the statement; "manifest" and "golden"
// for what the lot was made from; anything else is a product.
type Predicate struct {
	Lot        string          `json:"lot"`
	Station    string          `json:"station"` // that exported
	Time       string          `json:"time"`    // of the lot's last event, RFC 3339
	Devices    int             `json:"devices"` // manifest rows
	Server     string          `json:"server,omitempty"`
	Keys       string          `json:"keys,omitempty"`
	Algorithm  string          `json:"algorithm,omitempty"`
	Format     string          `json:"format,omitempty"`
	Injection  string          `json:"injection_sha256,omitempty"`
	Totals     pipeline.Totals `json:"totals"`
	Balance    Balance         `json:"balance"`
	Reconciles bool            `json:"reconciles"`
	Imbalances []string        `json:"imbalances"` // why it does not reconcile
	Events     int             `json:"events"`
	Logs       []LogHead       `json:"logs"`
}

const bundlePrefix = "bundle/"

func (e *export) statement(files []File) *Statement {
	s, lot := e.summary, e.summary.Lot
	st := &Statement{Type: statementType, PredicateType: PredicateType}
	add := func(name, sum string) {
		if sum != "" {
			st.Subject = append(st.Subject, statementSubject{name, map[string]string{"sha256": sum}})
		}
	}
	for _, f := range files {
		add(bundlePrefix+f.Name, f.SHA256)
	}
	add("manifest", lot.ManifestSHA256)
	add("golden", lot.GoldenSHA256)
	for _, subject := range e.opt.Subjects {
		add(subject.Name, subject.SHA256)
	}
	imbalances := s.Balance.Check(lot.Devices)
	if imbalances == nil {
		imbalances = []string{}
	}
	st.Predicate = Predicate{
		Lot: lot.Name, Station: e.opt.Station, Time: s.Time.Format("2006-01-02T15:04:05.000000Z"),
		Devices: lot.Devices, Server: lot.Server, Keys: lot.Keys, Algorithm: lot.Algorithm,
		Format: lot.Format, Injection: lot.InjectSHA256, Totals: s.Totals, Balance: s.Balance,
		Reconciles: len(imbalances) == 0, Imbalances: imbalances, Events: e.result.Events, Logs: s.Logs,
	}
	return st
}

// dsseKey lets a crypto.Signer, or a public key alone, sign and verify
// envelopes.
type dsseKey struct {
	signer crypto.Signer
	public crypto.PublicKey
}

func (k dsseKey) KeyID() (string, error)   { return KeyID(k.public) }
func (k dsseKey) Public() crypto.PublicKey { return k.public }

func (k dsseKey) Sign(_ context.Context, data []byte) ([]byte, error) {
	return signMessage(k.signer, data)
}

func (k dsseKey) Verify(_ context.Context, data, sig []byte) error {
	if !verifyMessage(k.public, data, sig) {
		return errors.New("wrong signature")
	}
	return nil
}

// signStatement returns the statement as canonical JSON in a DSSE envelope, one
// line.
func signStatement(ctx context.Context, st *Statement, key crypto.Signer) ([]byte, error) {
	raw, err := json.Marshal(st)
	if err != nil {
		return nil, err
	}
	payload, err := jcs.Transform(raw)
	if err != nil {
		return nil, err
	}
	signer, err := dsse.NewEnvelopeSigner(dsseKey{key, key.Public()})
	if err != nil {
		return nil, err
	}
	envelope, err := signer.SignPayload(ctx, payloadType, payload)
	if err != nil {
		return nil, fmt.Errorf("sign the statement: %w", err)
	}
	return encodeEnvelope(envelope)
}

func encodeEnvelope(e *dsse.Envelope) ([]byte, error) {
	line, err := json.Marshal(e)
	return append(line, '\n'), err
}

// openStatement verifies an envelope by any of the keys and returns its
// statement. The bytes must be exactly those that signStatement makes, so that
// nothing can be hidden in what signatures don't cover.
func openStatement(ctx context.Context, data []byte, keys []PublicKey) (*Statement, PublicKey, error) {
	none := PublicKey{}
	payload, err := envelopePayload(data)
	if err != nil {
		return nil, none, err
	}
	var envelope dsse.Envelope
	if err := json.Unmarshal(data, &envelope); err != nil {
		return nil, none, err
	}
	if again, err := encodeEnvelope(&envelope); err != nil || !bytes.Equal(again, data) || len(envelope.Signatures) != 1 {
		return nil, none, errors.New("the envelope is not in the form in which it was written")
	}
	sig, err := base64.StdEncoding.Strict().DecodeString(envelope.Signatures[0].Sig)
	if err != nil {
		return nil, none, errors.New("its signature is not base64")
	}
	key, err := signedByAny(ctx, &envelope, sig, payload, keys)
	if err != nil {
		return nil, none, err
	}
	st, err := parseStatement(payload)
	return st, key, err
}

// envelopePayload returns what an envelope holds, unverified.
func envelopePayload(data []byte) ([]byte, error) {
	var envelope dsse.Envelope
	if err := json.Unmarshal(data, &envelope); err != nil {
		return nil, fmt.Errorf("not a DSSE envelope: %w", err)
	}
	payload, err := base64.StdEncoding.Strict().DecodeString(envelope.Payload)
	if err != nil {
		return nil, errors.New("its payload is not base64")
	}
	return payload, nil
}

func signedByAny(ctx context.Context, envelope *dsse.Envelope, sig, payload []byte, keys []PublicKey) (PublicKey, error) {
	given := envelope.Signatures[0].KeyID
	for _, key := range keys {
		id, err := KeyID(key.Key)
		if err != nil {
			return PublicKey{}, err
		}
		if id != given {
			continue
		}
		k := dsseKey{public: key.Key}
		if err := k.Verify(ctx, dsse.PAE(envelope.PayloadType, payload), sig); err != nil {
			return PublicKey{}, errors.New("its signature is wrong: the statement was changed after it was signed")
		}
		return key, nil
	}
	return PublicKey{}, fmt.Errorf("it is signed by another key (%.16s..) than those given", given)
}

func parseStatement(payload []byte) (*Statement, error) {
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.DisallowUnknownFields()
	var st Statement
	if err := dec.Decode(&st); err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	if st.Type != statementType || st.PredicateType != PredicateType {
		return nil, fmt.Errorf("a statement of type %q with predicate %q is not one of ours", st.Type, st.PredicateType)
	}
	return &st, nil
}
