package config

import (
	"path/filepath"
	"strings"
)

// IsDatabaseURL reports whether a ledger is a database server and not a file.
func IsDatabaseURL(path string) bool { return strings.Contains(path, "://") }

// BesideLedger is where the station keeps a file of its own: beside the ledger
// file, or in the working folder where the ledger is a database server.
func BesideLedger(path, name string) string {
	if IsDatabaseURL(path) {
		return name
	}
	return filepath.Join(filepath.Dir(path), name)
}
