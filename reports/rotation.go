package reports

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"keymill/pipeline"
)

// maxRotations bounds how far a verification follows rotations from a key that
// the auditor has to the one that signed the bundle.
const maxRotations = 100

// rotationText is what both keys sign.
func rotationText(station, oldID, newID string) []byte {
	return fmt.Appendf(nil, "keymill audit key rotation\n%s\n%s\n%s\n", station, oldID, newID)
}

// RotateKey returns the event with which a station goes from one audit key to
// another: both sign it, so that whoever trusts the old key can trust the new one.
// The caller appends it to the station log before anything is signed with the new
// key.
func RotateKey(station string, old, next crypto.Signer, custody Custody) (pipeline.Event, error) {
	oldID, err := KeyID(old.Public())
	if err != nil {
		return pipeline.Event{}, err
	}
	if err := checkSigningKey(next.Public()); err != nil {
		return pipeline.Event{}, err
	}
	facts, err := custody.facts(next.Public())
	if err != nil {
		return pipeline.Event{}, err
	}
	newID, err := KeyID(next.Public())
	if err != nil {
		return pipeline.Event{}, err
	}
	if oldID == newID {
		return pipeline.Event{}, pipeline.WithHint(errors.New("the new audit key is the old one"), "name another key with audit.signing_key")
	}
	e := pipeline.Event{Station: station, Action: actionRotated}
	text := rotationText(station, oldID, newID)
	for _, f := range facts {
		switch f.Name {
		case "spki", "spki_sha256":
			f.Name = "new_" + f.Name
		}
		e.Facts = append(e.Facts, f)
	}
	for name, key := range map[string]crypto.Signer{"signature_old": old, "signature_new": next} {
		sig, err := signMessage(key, text)
		if err != nil {
			return e, fmt.Errorf("sign the rotation: %w", err)
		}
		if !verifyMessage(key.Public(), text, sig) {
			return e, errors.New("a signature of the rotation is wrong: the key's two halves do not belong together")
		}
		e.Facts = append(e.Facts, pipeline.Attr{Name: name, Value: base64.StdEncoding.EncodeToString(sig)})
	}
	old509, err := x509.MarshalPKIXPublicKey(old.Public())
	if err != nil {
		return e, err
	}
	e.Facts = sortedFacts(append(e.Facts, pipeline.Attr{Name: "old_spki", Value: base64.StdEncoding.EncodeToString(old509)},
		pipeline.Attr{Name: "old_spki_sha256", Value: oldID}))
	return e, nil
}

// newKey returns the id of the key that an audit-key or key-rotated event brings.
func (e *eventLine) newKey() string {
	if e.Action == actionRotated {
		return e.fact("new_spki_sha256")
	}
	return e.fact("spki_sha256")
}

// factKey reads a public key from an event's facts, whose id must be beside it.
func (e *eventLine) factKey(name string) (crypto.PublicKey, error) {
	der, err := base64.StdEncoding.Strict().DecodeString(e.fact(name))
	if err != nil || pipeline.Fingerprint(der) != e.fact(name+"_sha256") {
		return nil, fmt.Errorf("event %d (%s) names no key", e.Seq, e.Action)
	}
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("event %d (%s): %w", e.Seq, e.Action, err)
	}
	return pub, checkSigningKey(pub)
}

func (e *eventLine) checkKey() error {
	_, err := e.factKey("spki")
	return err
}

// checkRotation checks both signatures of a rotation.
func checkRotation(e *eventLine) error {
	_, _, err := rotation(e)
	return err
}

// rotation returns the two keys of a rotation that both have signed.
func rotation(e *eventLine) (old, next crypto.PublicKey, err error) {
	if old, err = e.factKey("old_spki"); err != nil {
		return nil, nil, err
	}
	if next, err = e.factKey("new_spki"); err != nil {
		return nil, nil, err
	}
	text := rotationText(e.Station, e.fact("old_spki_sha256"), e.fact("new_spki_sha256"))
	for name, key := range map[string]crypto.PublicKey{"signature_old": old, "signature_new": next} {
		sig, err := base64.StdEncoding.Strict().DecodeString(e.fact(name))
		if err != nil || !verifyMessage(key, text, sig) || !oneForm(key, sig) {
			return nil, nil, fmt.Errorf("event %d (%s): the signature %s is wrong", e.Seq, e.Action, name)
		}
	}
	return old, next, nil
}

// followRotations adds the keys to which a trusted key was rotated, and reports
// whether there are any. The station logs' leaves are not verified yet: a rotation
// proves itself by its signatures.
func (v *verifier) followRotations() bool {
	names, err := filepath.Glob(filepath.Join(escapeGlob(v.dir), folderLog, "*", nameLeaves))
	if err != nil {
		return false
	}
	found := false
	for _, name := range names {
		data, err := readBounded(name, maxStatement)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		for line := range bytes.Lines(data) {
			if bytes.HasPrefix(line, []byte(`{"action":"`+actionRotated+`"`)) && len(v.trust.Keys) < maxRotations {
				found = v.rotated(trimLine(line)) || found
			}
		}
	}
	return found
}

// rotated takes one rotation, if it begins with a key that is trusted.
func (v *verifier) rotated(line []byte) bool {
	e, err := parseEvent(line)
	if err != nil {
		return false
	}
	_, next, err := rotation(e)
	if err != nil {
		return false
	}
	for _, key := range v.trust.of(e.Station) {
		if id, err := KeyID(key.Key); err != nil || id != e.fact("old_spki_sha256") {
			continue
		}
		v.trust.Keys = append(v.trust.Keys, PublicKey{Name: StationOrigin(e.Station, 1), Key: next})
		v.report.ok("station %s went from key %.16s.. to %.16s.. at %s, signed by both", e.Station,
			e.fact("old_spki_sha256"), e.fact("new_spki_sha256"), e.Time.Format(timeForm))
		return true
	}
	return false
}

func trimLine(line []byte) []byte { return bytes.TrimSuffix(line, []byte("\n")) }

// escapeGlob makes a path mean itself in a pattern.
func escapeGlob(path string) string {
	var b bytes.Buffer
	for i := range len(path) {
		if bytes.IndexByte([]byte(`*?[\`), path[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(path[i])
	}
	return b.String()
}
