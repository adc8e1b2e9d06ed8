package reports

import (
	"encoding/base64"
	"encoding/binary"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// cosignedAt returns when a witness says that it signed.
func cosignedAt(sig note.Signature) time.Time {
	raw, err := base64.StdEncoding.DecodeString(sig.Base64)
	if err != nil || len(raw) < 12 { // 4 bytes of key id, 8 of time
		return time.Time{}
	}
	return time.Unix(int64(binary.BigEndian.Uint64(raw[4:])), 0).UTC() //nolint:gosec // Verify has bounded it
}
