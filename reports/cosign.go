package reports

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"golang.org/x/mod/sumdb/note"

	"keymill/pipeline"
)

// cosignedAt returns when a witness says that it signed.
func cosignedAt(sig note.Signature) time.Time {
	raw, err := base64.StdEncoding.DecodeString(sig.Base64)
	if err != nil || len(raw) < 12 { // 4 bytes of key id, 8 of time
		return time.Time{}
	}
	return time.Unix(int64(binary.BigEndian.Uint64(raw[4:])), 0).UTC() //nolint:gosec // Verify has bounded it
}

// Cosigning is how a witness signs.
type Cosigning struct {
	Name  string // of the witness, as a host name and a path
	Key   ed25519.PrivateKey
	Time  time.Time
	State *Heads // the last checkpoint of each log that it signed
}

// Cosigned is one log's checkpoint with the witness's signature.
type Cosigned struct {
	Path string // of the file that holds it, in the bundle's folder
	Note []byte
}

// CosignBundle verifies a bundle as a witness and returns the cosigned checkpoints
// of its station logs, to be written beside them. A log that does not contain
// every checkpoint of it that the witness signed before is refused: it never signs
// two histories. What it signs is in its state file before it is returned.
func CosignBundle(ctx context.Context, dir string, trust Trust, c Cosigning) (*Report, []Cosigned, error) {
	st, err := bundleStatement(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, h := range st.Predicate.Logs {
		if size, root, ok := c.State.Last(h.Origin); ok && size > h.Size {
			return nil, nil, &RolledBackError{Origin: h.Origin, Size: h.Size, Signed: size, Path: c.State.path}
		} else if ok {
			trust.seen = append(trust.seen, namedHead{h.Origin, root, size})
		}
	}
	report, err := VerifyBundle(ctx, dir, trust)
	if err != nil || !report.OK() {
		return report, nil, err
	}
	var all []Cosigned
	for _, h := range report.Logs {
		if h.Kind != KindStation && h.Kind != "" {
			continue
		}
		folder := folderOf(h)
		if h.Kind == "" {
			folder = folderLog + "/" + escapeName(h.Station)
		}
		one, err := c.cosign(filepath.Join(dir, filepath.FromSlash(folder)))
		if errors.Is(err, fs.ErrNotExist) {
			continue // an epoch that ended: the next one's head vouches for it
		}
		if err != nil {
			return report, nil, err
		}
		all = append(all, one)
	}
	return report, all, nil
}

// cosign adds the witness's signature to those that a checkpoint has already.
func (c Cosigning) cosign(folder string) (Cosigned, error) {
	signed, err := readBounded(filepath.Join(folder, nameCheckpoint), maxCheckpoint)
	if err != nil {
		return Cosigned{}, err
	}
	path := filepath.Join(folder, nameCosigned)
	data, err := readBounded(path, maxCheckpoint)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !bytes.HasPrefix(data, signed) {
		data, err = signed, nil
	}
	if err != nil {
		return Cosigned{}, err
	}
	if err := c.State.Append(signed); err != nil {
		return Cosigned{}, err
	}
	again, err := Cosign(data, c.Name, c.Key, c.Time)
	if err != nil {
		return Cosigned{}, pipeline.WithHint(fmt.Errorf("cosign %s: %w", path, err), "remove the file and cosign again")
	}
	return Cosigned{path, again}, nil
}
