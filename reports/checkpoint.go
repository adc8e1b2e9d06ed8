package reports

import (
	"crypto"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Origin returns the name of a station's log: the first line of its
// checkpoints (C2SP tlog-checkpoint) and the name of its key.
func Origin(station string) string { return "keymill/" + escapeName(station) }

// escapeName makes a name safe as a file name and as part of a key name:
// letters, digits, dot, hyphen and underscore stay, all else becomes %XX.
func escapeName(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9',
			c == '-', c == '_', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// LogHead is the state of a station's log: a checkpoint's content.
type LogHead struct {
	Kind     string `json:"kind,omitempty"`      // KindLot, KindStation, KindLegacy; empty in the first format
	Epoch    int    `json:"epoch,omitempty"`     // from 1
	Events   int64  `json:"events,omitempty"`    // how many lines of events.jsonl are its
	SignedBy string `json:"signed_by,omitempty"` // another station, which signed for a retired one
	Station  string `json:"station"`
	Origin   string `json:"origin"`
	Size     int64  `json:"size"` // leaves
	Root     string `json:"root"` // base64, as in the checkpoint
}

// text returns the checkpoint's body.
func (h LogHead) text() string { return fmt.Sprintf("%s\n%d\n%s\n", h.Origin, h.Size, h.Root) }

// sign returns the checkpoint as a signed note.
func (h LogHead) sign(key crypto.Signer) ([]byte, error) {
	signer, err := newNoteSigner(h.Origin, key)
	if err != nil {
		return nil, err
	}
	return note.Sign(&note.Note{Text: h.text()}, signer)
}

// checkpoint is a parsed checkpoint whose signatures may be unverified.
type checkpoint struct {
	origin string
	size   int64
	root   tlog.Hash
	note   *note.Note
}

// errUnsigned says that no given key has signed a checkpoint.
var errUnsigned = errors.New("none of the given keys has signed it")

// openCheckpoint parses a checkpoint and verifies its signatures by the given
// keys of its log and by the witnesses. At least one key must have signed it;
// without keys nothing is verified. A wrong signature of a known key is an error.
func openCheckpoint(msg []byte, keys []PublicKey, witnesses []*Witness) (*checkpoint, error) {
	origin, _, _ := strings.Cut(string(msg), "\n")
	var known []note.Verifier
	for _, key := range keys {
		k, err := newNoteKey(origin, key.Key)
		if err != nil {
			return nil, err
		}
		known = append(known, k)
	}
	stations := len(known)
	for _, w := range witnesses {
		known = append(known, w)
	}
	n, err := note.Open(msg, note.VerifierList(known...))
	if unverified, ok := errors.AsType[*note.UnverifiedNoteError](err); ok {
		if len(known) > 0 {
			return nil, errUnsigned
		}
		n, err = unverified.Note, nil
	}
	if err != nil {
		return nil, err
	}
	// The package note takes base64 whose last bits mean nothing.
	for _, sig := range slices.Concat(n.Sigs, n.UnverifiedSigs) {
		if _, err := base64.StdEncoding.Strict().DecodeString(sig.Base64); err != nil {
			return nil, fmt.Errorf("the signature of %s is not base64 in its one form", sig.Name)
		}
	}
	if stations > 0 && !signedBy(n, known[:stations]) {
		return nil, errUnsigned
	}
	return parseCheckpoint(n)
}

func signedBy(n *note.Note, keys []note.Verifier) bool {
	for _, sig := range n.Sigs {
		for _, k := range keys {
			if sig.Name == k.Name() && sig.Hash == k.KeyHash() {
				return true
			}
		}
	}
	return false
}

func parseCheckpoint(n *note.Note) (*checkpoint, error) {
	lines := strings.Split(n.Text, "\n")
	if len(lines) < 4 || lines[0] == "" {
		return nil, errors.New("a checkpoint has three lines: origin, size, root")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return nil, fmt.Errorf("a checkpoint's size cannot be %.20q", lines[1])
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil || root.String() != lines[2] {
		return nil, errors.New("a checkpoint's root is 32 bytes in base64")
	}
	return &checkpoint{lines[0], size, root, n}, nil
}
