package sources

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"keymill/pipeline"
)

// publicKey checks a value that must be a device's public key, and keeps it as
// the base64 of its SPKI. What is wrong with it is told without quoting more than
// its first characters: it may be a private one.
func (c *checker) publicKey(r *rawRow, i int, v string) {
	spki, _, err := pipeline.ParsePublicKey(v)
	if f, ok := errors.AsType[*pipeline.KeyFlaw](err); ok {
		c.flaw(r, i, firstRunes(firstLine(v), 30)+"…", flaw{what: f.What, remedy: f.Remedy})
		return
	}
	if err != nil {
		c.flaw(r, i, "…", flaw{what: err.Error(), remedy: "see `keymill help`"})
		return
	}
	c.values[i] = base64.StdEncoding.EncodeToString(spki)
	if c.seen == nil {
		return
	}
	sum := sha256.Sum256(spki)
	short := [16]byte(sum[:16])
	if first, twice := c.keys[short]; twice {
		c.flaw(r, i, firstRunes(c.values[i], 30)+"…", flaw{
			what:   fmt.Sprintf("row %d has the same public key", first),
			remedy: "each device needs a key of its own: clones can't be told apart",
		})
		return
	}
	if c.keys == nil {
		c.keys = map[[16]byte]int{}
	}
	c.keys[short] = r.number
}

func firstLine(v string) string {
	line, _, _ := strings.Cut(v, "\n")
	return strings.TrimSpace(line)
}
