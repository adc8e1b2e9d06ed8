package sandbox

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
)

// identity is a device's identity data as the service keeps and compares it:
// compact JSON with sorted names. Numbers have gone through float64 on the way,
// so that two large ones can be one identity; the real service does the same.
type identity string

type identitySum [sha256.Size]byte

func (id identity) sum() identitySum { return sha256.Sum256([]byte(id)) }

// errNotObject is what a device's id_data gets that is no JSON object.
var errNotObject = errors.New("identity data is not a JSON object")

// parseIdentity reads a JSON object.
func parseIdentity(data []byte) (identity, error) {
	var attrs map[string]any
	if err := json.Unmarshal(data, &attrs); err != nil {
		return "", err
	}
	if attrs == nil {
		return "", errNotObject
	}
	return canonicalIdentity(attrs)
}

func canonicalIdentity(attrs map[string]any) (identity, error) {
	data, err := json.Marshal(attrs)
	return identity(data), err
}
