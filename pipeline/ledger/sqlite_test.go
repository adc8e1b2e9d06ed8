package ledger

import (
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openAt(t testing.TB, path string) *Ledger {
	t.Helper()
	l, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestSQLite(t *testing.T) {
	conform(t, func(t *testing.T) opener {
		path := filepath.Join(t.TempDir(), "keymill.db")
		return func(t *testing.T) *Ledger { return openAt(t, path) }
	})
}
