package reports

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// Signature types of signed notes (C2SP signed-note, "Signature types").
const (
	noteEd25519  = 0x01
	noteECDSA    = 0x02 // the key id is the hash of the SPKI alone
	noteCosigned = 0x04 // cosignature/v1
	noteOther    = 0xff // followed by a name that is unlikely to collide
)

// rsaNoteType names RSA signatures, for which C2SP assigns no type: PKCS #1
// v1.5 with SHA-256 over the note's text.
const rsaNoteType = "keymill/rsa-pkcs1v15-sha256"

// noteKey signs and verifies notes under one name. It implements note.Verifier
// and, where signer is set, note.Signer.
type noteKey struct {
	name   string
	id     uint32
	public crypto.PublicKey
	signer crypto.Signer
}

func (k *noteKey) Name() string    { return k.name }
func (k *noteKey) KeyHash() uint32 { return k.id }

func (k *noteKey) Sign(msg []byte) ([]byte, error) { return signMessage(k.signer, msg) }

func (k *noteKey) Verify(msg, sig []byte) bool { return verifyMessage(k.public, msg, sig) }

// newNoteKey returns a verifier for notes that name's key pub signed.
func newNoteKey(name string, pub crypto.PublicKey) (*noteKey, error) {
	encoded, err := noteEncoding(pub)
	if err != nil {
		return nil, err
	}
	k := &noteKey{name: name, public: pub}
	if encoded[0] == noteECDSA {
		k.id = shortHash(encoded[1:])
	} else {
		k.id = shortHash([]byte(name+"\n"), encoded)
	}
	return k, nil
}

// newNoteSigner returns a signer for notes.
func newNoteSigner(name string, key crypto.Signer) (*noteKey, error) {
	k, err := newNoteKey(name, key.Public())
	if err != nil {
		return nil, err
	}
	k.signer = key
	return k, nil
}

// noteEncoding returns a key as verifier keys carry it: type, then key.
func noteEncoding(pub crypto.PublicKey) ([]byte, error) {
	if err := checkSigningKey(pub); err != nil {
		return nil, err
	}
	if key, ok := pub.(ed25519.PublicKey); ok {
		return append([]byte{noteEd25519}, key...), nil
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, err
	}
	if _, ok := pub.(*ecdsa.PublicKey); ok {
		return append([]byte{noteECDSA}, der...), nil
	}
	return append(append([]byte{noteOther}, rsaNoteType...), der...), nil
}

func shortHash(parts ...[]byte) uint32 {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p)
	}
	return binary.BigEndian.Uint32(h.Sum(nil))
}

// signMessage signs as DSSE and our notes have it: Ed25519 over the message,
// ECDSA (ASN.1) and RSA (PKCS #1 v1.5) over its SHA-256.
func signMessage(key crypto.Signer, msg []byte) ([]byte, error) {
	if _, ok := key.Public().(ed25519.PublicKey); ok {
		return key.Sign(rand.Reader, msg, crypto.Hash(0))
	}
	digest := sha256.Sum256(msg)
	sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if pub, ok := key.Public().(*ecdsa.PublicKey); ok && err == nil {
		return lowS(pub, sig)
	}
	return sig, err
}

// ecdsaSignature is an ECDSA signature as DER has it.
type ecdsaSignature struct{ R, S *big.Int }

// lowS returns a signature in the one of its two forms that the second format
// takes: s and the group's order less s are equally right.
func lowS(pub *ecdsa.PublicKey, sig []byte) ([]byte, error) {
	var one ecdsaSignature
	if rest, err := asn1.Unmarshal(sig, &one); err != nil || len(rest) > 0 {
		return nil, errors.New("the key's signature is not an ECDSA signature in DER")
	}
	if other := new(big.Int).Sub(pub.Params().N, one.S); other.Cmp(one.S) < 0 {
		one.S = other
	}
	return asn1.Marshal(one)
}

// oneForm reports whether a right signature has the one form that it may have.
func oneForm(pub crypto.PublicKey, sig []byte) bool {
	key, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		return true
	}
	low, err := lowS(key, sig)
	return err == nil && bytes.Equal(low, sig)
}

func verifyMessage(pub crypto.PublicKey, msg, sig []byte) bool {
	digest := sha256.Sum256(msg)
	switch pub := pub.(type) {
	case ed25519.PublicKey:
		return len(pub) == ed25519.PublicKeySize && ed25519.Verify(pub, msg, sig)
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(pub, digest[:], sig)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest[:], sig) == nil
	}
	return false
}

// VerifierKey returns the key that vouches for a station's log in the form of
// C2SP signed notes, NAME+ID+KEY, which other transparency tools read.
func VerifierKey(station string, pub crypto.PublicKey) (string, error) {
	k, err := newNoteKey(Origin(station), pub)
	if err != nil {
		return "", err
	}
	encoded, err := noteEncoding(pub)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s+%08x+%s", k.name, k.id, base64.StdEncoding.EncodeToString(encoded)), nil
}

// splitVKey takes a verifier key apart and checks its form, not its id.
func splitVKey(vkey string) (name string, id uint32, encoded []byte, err error) {
	parts := strings.SplitN(strings.TrimSpace(vkey), "+", 3)
	if len(parts) != 3 || parts[0] == "" || len(parts[1]) != 8 {
		return "", 0, nil, errors.New("not of the form NAME+ID+KEY")
	}
	n, err := strconv.ParseUint(parts[1], 16, 32)
	if err != nil {
		return "", 0, nil, errors.New("its id is not hexadecimal")
	}
	encoded, err = base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(encoded) < 2 {
		return "", 0, nil, errors.New("its key is not base64")
	}
	return parts[0], uint32(n), encoded, nil
}

// parseVKey reads a verifier key of a station.
func parseVKey(vkey string) (name string, pub crypto.PublicKey, err error) {
	name, id, encoded, err := splitVKey(vkey)
	if err != nil {
		return "", nil, fmt.Errorf("verifier key: %w", err)
	}
	switch rest, isRSA := bytes.CutPrefix(encoded, append([]byte{noteOther}, rsaNoteType...)); {
	case encoded[0] == noteEd25519 && len(encoded) == 1+ed25519.PublicKeySize:
		pub = ed25519.PublicKey(encoded[1:])
	case encoded[0] == noteECDSA:
		pub, err = x509.ParsePKIXPublicKey(encoded[1:])
	case isRSA:
		pub, err = x509.ParsePKIXPublicKey(rest)
	default:
		err = fmt.Errorf("keys of type %#02x cannot sign a log", encoded[0])
	}
	if err != nil {
		return "", nil, fmt.Errorf("verifier key of %s: %w", name, err)
	}
	k, err := newNoteKey(name, pub)
	if err == nil && k.id != id {
		err = errors.New("its id does not belong to its name and key")
	}
	if err != nil {
		return "", nil, fmt.Errorf("verifier key of %s: %w", name, err)
	}
	return name, pub, nil
}

// Witness is a party that cosigns checkpoints it has seen to be consistent.
type Witness struct {
	name string
	id   uint32
	key  ed25519.PublicKey
}

// ParseWitness reads a witness's verifier key (type 4, C2SP tlog-cosignature).
func ParseWitness(vkey string) (*Witness, error) {
	name, id, encoded, err := splitVKey(vkey)
	if err != nil {
		return nil, fmt.Errorf("witness key: %w", err)
	}
	if encoded[0] != noteCosigned || len(encoded) != 1+ed25519.PublicKeySize {
		return nil, fmt.Errorf("witness key of %s is not one for cosignature/v1 (type 4, Ed25519)", name)
	}
	if shortHash([]byte(name+"\n"), encoded) != id {
		return nil, fmt.Errorf("witness key of %s: its id does not belong to its name and key", name)
	}
	return &Witness{name, id, encoded[1:]}, nil
}

// WitnessKey returns a witness's verifier key, which ParseWitness reads.
func WitnessKey(name string, pub ed25519.PublicKey) string {
	encoded := append([]byte{noteCosigned}, pub...)
	return fmt.Sprintf("%s+%08x+%s", name, shortHash([]byte(name+"\n"), encoded), base64.StdEncoding.EncodeToString(encoded))
}

// Name returns the witness's name.
func (w *Witness) Name() string { return w.name }

// KeyHash returns the witness's key id.
func (w *Witness) KeyHash() uint32 { return w.id }

// Verify checks a cosignature: 8 bytes of time, 64 of signature.
func (w *Witness) Verify(msg, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	seconds := binary.BigEndian.Uint64(sig)
	return seconds < 1<<63 && ed25519.Verify(w.key, cosigned(msg, seconds), sig[8:])
}

// cosigned returns what a witness signs.
func cosigned(text []byte, seconds uint64) []byte {
	return fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", seconds, text)
}

// cosigner signs as a witness at a given time.
type cosigner struct {
	*Witness
	key  ed25519.PrivateKey
	time time.Time
}

func (c cosigner) Sign(msg []byte) ([]byte, error) {
	seconds := uint64(c.time.Unix())
	sig := binary.BigEndian.AppendUint64(nil, seconds)
	return append(sig, ed25519.Sign(c.key, cosigned(msg, seconds))...), nil
}

// Cosign adds a witness's signature to a checkpoint. It is for witnesses that
// have no tool of their own: they must have verified the bundle, against the
// last checkpoint that they signed, before.
func Cosign(checkpoint []byte, name string, key ed25519.PrivateKey, at time.Time) ([]byte, error) {
	w, err := ParseWitness(WitnessKey(name, key.Public().(ed25519.PublicKey)))
	if err != nil {
		return nil, err
	}
	// Opened without trusted keys: note.Sign keeps the signatures it cannot verify.
	_, err = note.Open(checkpoint, note.VerifierList())
	unverified, ok := errors.AsType[*note.UnverifiedNoteError](err)
	if !ok {
		return nil, fmt.Errorf("not a signed checkpoint: %w", err)
	}
	return note.Sign(unverified.Note, cosigner{w, key, at})
}
