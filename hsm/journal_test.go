package hsm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
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
		if err := j.Intend(t.Context(), JournalEntry{[]byte{byte(i), 0xff}, label, "pkcs11:token=a"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Done(t.Context(), []byte{0, 0xff}); err != nil {
		t.Fatal(err)
	}
	want := `[{"\x01\xff" "with blanks\nand \"quotes\"" "pkcs11:token=a"} {"\x02\xff" "" "pkcs11:token=a"}]`
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

// A journal that somebody works with is not tidied up behind them, and what
// they write at the same time is all there.
func TestJournalOfSeveralProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	first := openJournal(t, path)
	if err := first.Intend(t.Context(), JournalEntry{ID: []byte("a")}); err != nil {
		t.Fatal(err)
	}
	second := openJournal(t, path)
	for _, j := range []*FileJournal{second, first, second} {
		id := []byte{byte(len(j.Open()))}
		if err := j.Intend(t.Context(), JournalEntry{ID: id}); err != nil {
			t.Fatal(err)
		}
		if err := j.Done(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := OpenJournalAlone(path); !errors.Is(err, ErrJournalInUse) {
		t.Errorf("got %v while others have it open", err)
	}
	first.Close()
	second.Close()
	alone, err := OpenJournalAlone(path)
	if err != nil || len(alone.Open()) != 1 {
		t.Fatalf("%v, %q", err, alone.Open())
	}
	if err := alone.Done(t.Context(), []byte("a")); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenJournalAlone(path); !errors.Is(err, ErrJournalInUse) {
		t.Errorf("got %v while somebody is alone with it", err)
	}
	alone.Close()
	openJournal(t, path)
	if info, err := os.Stat(path); err != nil || info.Size() != 0 {
		t.Errorf("%d bytes of a journal that is over and done with, %v", info.Size(), err)
	}
}

// Many workers share the disk's syncs; a sync that failed is no durable entry.
func TestJournalSyncsForAllThatWait(t *testing.T) {
	j := openJournal(t, filepath.Join(t.TempDir(), "journal"))
	j.syncing.Lock() // as if the disk were busy
	var work sync.WaitGroup
	for i := range 50 {
		work.Go(func() {
			if err := j.Intend(t.Context(), JournalEntry{ID: []byte{byte(i), 1}}); err != nil {
				t.Error(err)
			}
		})
	}
	for len(j.Open()) < 50 {
		runtime.Gosched()
	}
	if err := j.file.Sync(); err != nil {
		t.Fatal(err)
	}
	j.durable = 50
	j.file.Close() // whoever syncs by itself now fails
	j.syncing.Unlock()
	work.Wait()
	if err := j.sync(51); err == nil {
		t.Error("an entry is durable on a disk that is gone")
	}
	if err := j.sync(50); err == nil {
		t.Error("a failed sync is forgotten")
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
				if j.Intend(t.Context(), JournalEntry{id, "x", ""}) != nil || k%2 == 0 && j.Done(t.Context(), id) != nil {
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
		if err := j.Intend(t.Context(), JournalEntry{[]byte("id"), "label", "token"}); err != nil {
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
