package reports

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

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
	PredicateType = "urn:keymill:attestation:lot:2"
	// predicateType1 is that of the first format, whose logs hid other lots' events.
	predicateType1 = "urn:keymill:attestation:lot:1"
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

	// Of the second format.
	Files   map[string]int64 `json:"files,omitempty"` // bytes of each file of the bundle
	Columns *Columns         `json:"columns,omitempty"`
	Custody *Custody         `json:"custody,omitempty"` // of the key that signs
	Planned string           `json:"planned,omitempty"` // when the lot was planned, RFC 3339
	Closed  string           `json:"closed,omitempty"`  // when it was closed
	Line    string           `json:"line,omitempty"`    // the station that planned the lot
	Tables  int              `json:"tables,omitempty"`  // revision of the tables and pages
	MadeBy  string           `json:"made_by,omitempty"` // program that wrote them
}

// Columns are the names of the devices' values in the order of the tables.
type Columns struct {
	Identity   []string `json:"identity"`
	Attributes []string `json:"attributes"`
}

// tablesRevision counts the forms of the tables and pages: the bytes of another
// revision cannot be made again by this program.
const tablesRevision = 1

const timeForm = "2006-01-02T15:04:05.000000Z"

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
		Lot: lot.Name, Station: e.opt.Station, Time: s.Time.Format(timeForm),
		Devices: lot.Devices, Server: lot.Server, Keys: lot.Keys, Algorithm: lot.Algorithm,
		Format: lot.Format, Injection: lot.InjectSHA256, Totals: s.Totals, Balance: s.Balance,
		Reconciles: len(imbalances) == 0, Imbalances: imbalances, Events: e.result.Events, Logs: s.Logs,
	}
	e.second(st, files)
	return st
}

// second adds what the second format says.
func (e *export) second(st *Statement, files []File) {
	s, p := e.summary, &st.Predicate
	p.Files = make(map[string]int64, len(files))
	for _, f := range files {
		p.Files[f.Name] = f.Bytes
	}
	p.Columns = &Columns{Identity: notNil(s.Identity), Attributes: notNil(s.Attributes)}
	custody := e.opt.Custody
	if custody.Kind == "" {
		custody.Kind = "file"
	}
	p.Custody, p.Planned, p.Closed = &custody, formTime(s.Lot.Created), formTime(s.Lot.Closed)
	p.Line, p.Tables, p.MadeBy = s.Lot.Station, tablesRevision, cmp.Or(e.opt.MadeBy, "keymill")+" "+packers()
}

func notNil(names []string) []string {
	if names == nil {
		return []string{}
	}
	return names
}

func formTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(timeForm)
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
	payload, err := canonicalStatement(st)
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

// canonicalStatement returns a statement as RFC 8785 JSON.
func canonicalStatement(st *Statement) ([]byte, error) {
	raw, err := json.Marshal(st)
	if err != nil {
		return nil, err
	}
	return jcs.Transform(raw)
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
	if err == nil && st.PredicateType == PredicateType && !oneForm(key.Key, sig) {
		err = errors.New("its signature is not in its one form")
	}
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
	return PublicKey{}, fmt.Errorf("%w (%.16s..) than those given", errOtherKey, given)
}

// errOtherKey says that a statement is signed by a key that nobody gave.
var errOtherKey = errors.New("it is signed by another key")

func parseStatement(payload []byte) (*Statement, error) {
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.DisallowUnknownFields()
	var st Statement
	if err := dec.Decode(&st); err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	if st.Type != statementType || st.PredicateType != PredicateType && st.PredicateType != predicateType1 {
		return nil, fmt.Errorf("a statement of type %q with predicate %q is not one of ours", st.Type, st.PredicateType)
	}
	if st.PredicateType == PredicateType {
		if again, err := canonicalStatement(&st); err != nil || !bytes.Equal(again, payload) {
			return nil, errors.New("the statement is not in the form in which it is written")
		}
	}
	return &st, nil
}
