package imaging

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestUnpackBesideItsName: a file in the working folder is made there, as it
// cannot be renamed to there from the disk that /tmp is on.
func TestUnpackBesideItsName(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "missing"))
	if err := unpackTo(t.Context(), "image.sdimg", strings.NewReader("image"), func() {}); err != nil {
		t.Error(err)
	}
}
