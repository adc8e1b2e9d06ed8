package hsm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func openJournal(t testing.TB, path string) *FileJournal {
	t.Helper()
	j, err := OpenJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func TestJournalRemembers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := openJournal(t, path)
	for i, label := range []string{"a", "with blanks\nand \"quotes\"", ""} {
		if err := j.Intend(t.Context(), []byte{byte(i), 0xff}, label); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Done(t.Context(), []byte{0, 0xff}); err != nil {
		t.Fatal(err)
	}
	want := `[{"\x01\xff" "with blanks\nand \"quotes\""} {"\x02\xff" ""}]`
	for _, j := range []*FileJournal{j, openJournal(t, path)} {
		if got := fmt.Sprintf("%q", j.Open()); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestJournalDropsTheLineThatACrashCut(t *testing.T) {
	path := writeFile(t, "+ 01ff \"a\"\n+ 02ff \"b\"\n- 02", 0o600)
	j := openJournal(t, path)
	if got := j.Open(); len(got) != 2 {
		t.Fatalf("%q", got)
	}
	if err := j.Done(t.Context(), []byte{1, 0xff}); err != nil {
		t.Fatal(err)
	}
	if got := openJournal(t, path).Open(); len(got) != 1 || got[0].Label != "b" {
		t.Errorf("%q", got)
	}
}

func TestJournalRefusesWhatIsNone(t *testing.T) {
	for _, content := range []string{"hello\n", "+ zz \"a\"\n", "+ 01 a\n", "* 01 \"a\"\n", "+\n", "\n", "-\n"} {
		_, err := OpenJournal(writeFile(t, "+ 01 \"a\"\n"+content, 0o600))
		if err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%q: %v", content, err)
		}
	}
	if _, err := OpenJournal(filepath.Join(t.TempDir(), "none", "journal")); err == nil {
		t.Error("opened in a folder that doesn't exist")
	}
}

func TestJournalForManyWorkers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := openJournal(t, path)
	var work sync.WaitGroup
	for i := range 8 {
		work.Go(func() {
			for k := range 20 {
				id := []byte{byte(i), byte(k)}
				if j.Intend(t.Context(), id, "x") != nil || k%2 == 0 && j.Done(t.Context(), id) != nil {
					t.Error("not written")
				}
			}
		})
	}
	work.Wait()
	if n := len(openJournal(t, path).Open()); n != 80 {
		t.Errorf("%d open, want 80", n)
	}
}

func FuzzJournal(f *testing.F) {
	f.Add("+ 01ff \"a\"\n- 01ff\n")
	f.Add("+ 01 \"a b\"\n+")
	f.Fuzz(func(t *testing.T, content string) {
		path := writeFile(t, content, 0o600)
		j, err := OpenJournal(path)
		if err != nil {
			return
		}
		defer j.Close()
		if err := j.Intend(t.Context(), []byte("id"), "label"); err != nil {
			t.Fatal(err)
		}
		again, err := OpenJournal(path)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if fmt.Sprint(again.Open()) != fmt.Sprint(j.Open()) {
			t.Errorf("%q: %q, then %q", content, j.Open(), again.Open())
		}
	})
}
