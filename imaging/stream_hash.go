package imaging

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"sync"
)

// Hasher computes the SHA-256 of devices' whole images. What is the same for
// all devices of a template, up to the first byte that differs, is hashed once;
// a device costs what lies behind it. Safe for use by many goroutines at once.
type Hasher struct {
	golden Image

	mu     sync.Mutex // guards the map
	states map[*Template]*hashState
}

// hashState is the state of a hash after the first bytes of an image.
type hashState struct {
	mu   sync.Mutex // held while the state is computed
	done hash.Cloner
	at   int64 // bytes hashed
}

// NewHasher returns a Hasher for images made from g.
func NewHasher(g Image) *Hasher {
	return &Hasher{golden: g, states: make(map[*Template]*hashState)}
}

// Sum returns the SHA-256 of the device's image.
func (h *Hasher) Sum(ctx context.Context, o *Overlay) (sum [sha256.Size]byte, err error) {
	r, err := NewReader(h.golden, o)
	if err != nil {
		return sum, err
	}
	digest, at, err := h.resume(ctx, r, o.Template)
	if err != nil {
		return sum, err
	}
	if err := copyTo(ctx, digest, r, at, r.size); err != nil {
		return sum, err
	}
	digest.Sum(sum[:0])
	return sum, nil
}

// resume returns a hash of the template's common bytes, and how many they are.
func (h *Hasher) resume(ctx context.Context, r *Reader, t *Template) (hash.Cloner, int64, error) {
	h.mu.Lock()
	s := h.states[t]
	if s == nil {
		s = &hashState{at: t.firstSlot()}
		h.states[t] = s
	}
	h.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done == nil {
		digest, ok := sha256.New().(hash.Cloner)
		if !ok {
			return nil, 0, errors.New("this Go's SHA-256 can't be cloned")
		}
		if err := copyTo(ctx, digest, r, 0, s.at); err != nil {
			return nil, 0, err
		}
		s.done = digest
	}
	digest, err := s.done.Clone()
	return digest, s.at, err
}

// firstSlot returns the offset of the first byte in which devices differ.
func (t *Template) firstSlot() int64 {
	first := t.GoldenBytes
	for _, s := range t.Slots {
		for _, c := range s.Content {
			first = min(first, c.Offset)
		}
		if s.Inode != nil {
			first = min(first, s.Inode.Offset)
		}
	}
	return first
}

// streamBuffer is how much is read at a time, in bytes: it fits the
// processor's second-level cache.
const streamBuffer = 256 << 10

// copyTo writes the bytes of r from from to to.
func copyTo(ctx context.Context, w io.Writer, r io.ReaderAt, from, to int64) error {
	buf := make([]byte, min(streamBuffer, max(to-from, 0)))
	defer clear(buf)
	for from < to {
		if err := ctx.Err(); err != nil {
			return err
		}
		part := buf[:min(int64(len(buf)), to-from)]
		if n, err := r.ReadAt(part, from); n < len(part) {
			return err
		}
		if _, err := w.Write(part); err != nil {
			return err
		}
		from += int64(len(part))
	}
	return nil
}
