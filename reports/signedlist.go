package reports

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/gowebpki/jcs"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"keymill/pipeline"
)

// Predicates of signed listings: an in-toto Statement v1 about one file, signed as
// a bundle's statement is (examples/audit-export/FORMAT.md, 3).
const (
	PredicateAffected = "urn:keymill:attestation:affected:1"
	fileAffected      = "affected.jsonl"
)

// listStatement is the statement of a signed listing.
type listStatement struct {
	Type          string             `json:"_type"`
	Subject       []statementSubject `json:"subject"`
	PredicateType string             `json:"predicateType"`
	Predicate     json.RawMessage    `json:"predicate"`
}

// ListSigning says who signs a listing, and when.
type ListSigning struct {
	Station string // whose key signs
	Signer  crypto.Signer
	Time    string // RFC 3339
	MadeBy  string // program and version
}

// affectedPredicate is the predicate of PredicateAffected.
type affectedPredicate struct {
	*Affected
	Station string `json:"station"`
	Time    string `json:"time"`
	MadeBy  string `json:"made_by"`
}

// WriteAffected writes affected.jsonl, one device a line in canonical JSON, and the
// signed statement over it, into a folder that must not exist yet.
func WriteAffected(ctx context.Context, dir string, a *Affected, s ListSigning) error {
	write := func(w io.Writer) error {
		for i := range a.List {
			line, err := canonicalJSON(&a.List[i])
			if err != nil {
				return err
			}
			if _, err := w.Write(append(line, '\n')); err != nil {
				return err
			}
		}
		return nil
	}
	return writeSigned(ctx, dir, signedFile{fileAffected, PredicateAffected, affectedPredicate{a, s.Station, s.Time, s.MadeBy}, write}, s.Signer)
}

// signedFile is a file with a statement of its own.
type signedFile struct {
	name, predicateType string
	predicate           any
	write               func(io.Writer) error
}

// writeSigned writes a file and its statement into a new folder, both or none.
func writeSigned(ctx context.Context, dir string, f signedFile, signer crypto.Signer) error {
	if err := checkSigningKey(signer.Public()); err != nil {
		return err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := checkTarget(dir, false); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return storage(err)
	}
	temp, release, err := makePartial(dir)
	if err != nil {
		return storage(err)
	}
	defer release()
	out := &bundleDir{dir: temp}
	file, err := out.create(f.name)
	if err != nil {
		return storage(err)
	}
	defer file.Abort()
	if err := f.write(file); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return storage(err)
	}
	envelope, err := signList(ctx, f, out.list()[0].SHA256, signer)
	if err != nil {
		return err
	}
	if err := out.write(fileStatement, envelope); err != nil {
		return storage(err)
	}
	return publish(temp, dir)
}

func signList(ctx context.Context, f signedFile, sum string, signer crypto.Signer) ([]byte, error) {
	predicate, err := json.Marshal(f.predicate)
	if err != nil {
		return nil, err
	}
	payload, err := canonicalJSON(listStatement{Type: statementType, PredicateType: f.predicateType, Predicate: predicate,
		Subject: []statementSubject{{f.name, map[string]string{"sha256": sum}}}})
	if err != nil {
		return nil, err
	}
	by, err := dsse.NewEnvelopeSigner(dsseKey{signer, signer.Public()})
	if err != nil {
		return nil, err
	}
	envelope, err := by.SignPayload(ctx, payloadType, payload)
	if err != nil {
		return nil, fmt.Errorf("sign the listing: %w", err)
	}
	return encodeEnvelope(envelope)
}

// canonicalJSON returns a value as RFC 8785 JSON.
func canonicalJSON(v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return jcs.Transform(raw)
}

// CheckedList is a signed listing that was verified.
type CheckedList struct {
	File      string          `json:"file"`
	Lines     int             `json:"lines"`
	Predicate json.RawMessage `json:"predicate"`
	Type      string          `json:"predicate_type"`
	KeyID     string          `json:"key_id"`
}

// VerifyList verifies a signed listing by any of the keys: the statement's
// signature, the file's hash, and that nothing else is in the folder. What is wrong
// is the error.
func VerifyList(ctx context.Context, dir string, keys []PublicKey) (*CheckedList, error) {
	data, err := readBounded(filepath.Join(dir, fileStatement), maxStatement)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", fileStatement, err)
	}
	st, key, err := openList(ctx, data, keys)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", fileStatement, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	name := st.Subject[0].Name
	for _, entry := range entries {
		if !slices.Contains([]string{name, fileStatement}, entry.Name()) {
			return nil, fmt.Errorf("%s was not there when the listing was signed", Printable(entry.Name()))
		}
	}
	f, _, err := openRegular(filepath.Join(dir, name))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer f.Close()
	h, lines := sha256.New(), lineCounter(0)
	if _, err := io.Copy(io.MultiWriter(h, &lines), f); err != nil {
		return nil, err
	}
	if hex.EncodeToString(h.Sum(nil)) != st.Subject[0].Digest["sha256"] {
		return nil, fmt.Errorf("%s was changed after it was signed", name)
	}
	id, err := KeyID(key.Key)
	return &CheckedList{File: name, Lines: int(lines), Predicate: st.Predicate, Type: st.PredicateType, KeyID: id}, err
}

// openList verifies the envelope of a listing and returns its statement.
func openList(ctx context.Context, data []byte, keys []PublicKey) (st listStatement, key PublicKey, err error) {
	payload, err := envelopePayload(data)
	if err != nil {
		return st, key, err
	}
	var envelope dsse.Envelope
	if err := json.Unmarshal(data, &envelope); err != nil {
		return st, key, err
	}
	if again, err := encodeEnvelope(&envelope); err != nil || !bytes.Equal(again, data) || len(envelope.Signatures) != 1 || envelope.PayloadType != payloadType {
		return st, key, errors.New("the envelope is not in the form in which it was written")
	}
	sig, err := base64.StdEncoding.Strict().DecodeString(envelope.Signatures[0].Sig)
	if err != nil {
		return st, key, errors.New("its signature is not base64")
	}
	if key, err = signedByAny(ctx, &envelope, sig, payload, keys); err != nil {
		return st, key, err
	}
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&st); err != nil {
		return st, key, err
	}
	known := map[string]string{PredicateAffected: fileAffected, PredicateEPCIS: fileEPCIS}[st.PredicateType]
	if st.Type != statementType || known == "" || len(st.Subject) != 1 || st.Subject[0].Name != known {
		return st, key, pipeline.WithHint(fmt.Errorf("a statement with predicate %q is not that of a listing", st.PredicateType),
			"`keymill audit verify` verifies bundles.")
	}
	return st, key, nil
}

// lineCounter counts line feeds.
type lineCounter int

func (n *lineCounter) Write(p []byte) (int, error) {
	*n += lineCounter(bytes.Count(p, []byte("\n")))
	return len(p), nil
}
