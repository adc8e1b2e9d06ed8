package imaging

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"keymill/imaging/crashfs"
)

// powerFS mounts a file system whose power can be cut.
func powerFS(t *testing.T, strict bool) (*crashfs.FS, string) {
	t.Helper()
	dir := t.TempDir()
	f, err := crashfs.Mount(dir, strict)
	if err != nil {
		missing(t, "needs FUSE (root, or Debian's fuse3): %v", err)
	}
	t.Cleanup(func() {
		if err := f.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return f, dir
}

// acked is what was said to be durable before the cut.
type acked struct {
	created   bool
	entries   map[int]Ref
	destroyed map[int]bool
	trying    map[int]bool // their destruction had begun
	marks     int
	images    []int
}

// work makes a pack, fills it, marks and destroys entries and publishes images, until
// the power is cut.
func (a *acked) work(t *testing.T, dir string, g *handGolden, tmpl *Template) {
	pack := filepath.Join(dir, "lot.pack")
	p, err := CreatePack(pack, g.sum, g.size)
	if err != nil {
		return
	}
	defer p.Close()
	a.created = true
	for n := range 4 {
		ref, err := p.Append(t.Context(), entryKey(n), handOverlay(t, tmpl, n))
		if err != nil {
			return
		}
		a.entries[n] = ref
		if n == 1 {
			if p.Mark(t.Context(), Mark{Key: entryKey(n), Entry: ref, Unit: 1, Time: time.Unix(1, 0)}) != nil {
				return
			}
			a.marks = 1
		}
	}
	w, err := openBmapAt(t, g, dir)
	if err != nil {
		return
	}
	defer w.Close()
	for n := range 2 {
		if _, err := w.Write(t.Context(), handOverlay(t, tmpl, n), filepath.Join(dir, string(rune('a'+n))+".delta")); err != nil {
			return
		}
		a.images = append(a.images, n)
		a.trying[n] = true
		if p.Destroy(a.entries[n]) != nil {
			return
		}
		a.destroyed[n] = true
	}
}

func openBmapAt(t *testing.T, g *handGolden, dir string) (Writer, error) {
	return mustFormat(t, "bmap").Open(t.Context(), g, dir)
}

// check compares what came up with what was said to be durable.
func (a *acked) check(t *testing.T, dir string, g *handGolden, tmpl *Template) {
	pack := filepath.Join(dir, "lot.pack")
	p, err := OpenPack(pack)
	if !a.created && errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		t.Fatalf("the pack: %v", err)
	}
	defer p.Close()
	for n, ref := range a.entries {
		key, o, err := p.Read(ref)
		switch {
		case a.destroyed[n] && errors.Is(err, ErrDestroyed):
		case a.destroyed[n]:
			t.Errorf("entry %d came back: %v", n, err)
		case a.trying[n]: // destroyed or damaged; its image is out
		case err != nil || key != entryKey(n) || !bytes.Equal(o.Slots[0].Data[:20], handKey(n)[:20]):
			t.Errorf("entry %d is lost: %v", n, err)
		}
	}
	if got := marks(t, p); len(got) < a.marks {
		t.Errorf("%d marks of %d", len(got), a.marks)
	}
	if _, err := RemoveLeftovers(dir); err != nil {
		t.Errorf("leftovers: %v", err)
	}
	w, err := openBmapAt(t, g, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, n := range a.images {
		view, err := w.View(filepath.Join(dir, string(rune('a'+n))+".delta"))
		if err != nil {
			t.Errorf("image %d: %v", n, err)
			continue
		}
		content, err := ReadContent(tmpl, 0, view)
		if err != nil || !bytes.Equal(content, handKey(n)) {
			t.Errorf("image %d has another key, %v", n, err)
		}
		view.Close()
	}
	left, err := filepath.Glob(filepath.Join(dir, ".keymill-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	data := mustRead(t, pack)
	for n := range a.destroyed {
		if bytes.Contains(data, handKey(n)[:17]) {
			t.Errorf("key %d can be read from the pack", n)
		}
	}
}

// The power is cut at each change in turn, on a file system like ext4 and on one that
// keeps names only when their folder was synced: nothing that was said to be durable
// is lost, nothing that was destroyed comes back, and no leftover stays.
func TestPowerCuts(t *testing.T) {
	g, _ := smallGolden(t, t.TempDir())
	tmpl := midTemplate(g)
	for _, strict := range []bool{false, true} {
		f, root := powerFS(t, strict)
		for cut := 1; ; cut++ {
			dir := filepath.Join(root, time.Duration(cut).String())
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := syncDir(root); err != nil {
				t.Fatal(err)
			}
			a := &acked{entries: map[int]Ref{}, destroyed: map[int]bool{}, trying: map[int]bool{}}
			f.CutAfter(cut)
			a.work(t, dir, g, tmpl)
			off, changes := f.Cut()
			f.PowerUp(rand.New(rand.NewPCG(uint64(cut), 7)))
			a.check(t, dir, g, tmpl)
			if t.Failed() {
				t.Fatalf("strict %v, cut before change %d", strict, cut)
			}
			if !off {
				if changes < 30 || len(a.destroyed) != 2 {
					t.Fatalf("only %d changes, %+v", changes, a)
				}
				break
			}
		}
	}
}

// A disk that gives errors never lets an operation be taken for done.
func TestDiskErrors(t *testing.T) {
	g, _ := smallGolden(t, t.TempDir())
	tmpl := midTemplate(g)
	f, dir := powerFS(t, false)
	p, err := CreatePack(filepath.Join(dir, "lot.pack"), g.sum, g.size)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ref := mustAppend(t, p, tmpl, 1)
	medium := filepath.Join(dir, "medium")
	for _, kind := range []string{"write", "sync"} {
		for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
			m := openTestMedium(t, medium)
			f.Fail(kind, errno)
			_, err := m.Write(t.Context(), g, handOverlay(t, tmpl, 1), WriteMediumOptions{Marker: testMarker})
			failed := (*MediumError)(nil)
			if !errors.As(err, &failed) || failed.KeyLeft || !errors.Is(err, errno) {
				t.Errorf("%s fails with %v: %v", kind, errno, err)
			}
			f.Fail(kind, 0)
			// It fails when the key is on its way.
			_, err = m.Write(t.Context(), g, handOverlay(t, tmpl, 1), WriteMediumOptions{Marker: testMarker, Progress: func(p MediumProgress) {
				if p.Phase == "compare" && p.Done == p.Total {
					f.Fail(kind, errno)
				}
			}})
			f.Fail(kind, 0)
			if !errors.As(err, &failed) || !failed.KeyLeft {
				t.Errorf("%s fails with %v at the key: %v", kind, errno, err)
			}
			marker, found, err := markerOf(medium)
			if err != nil || !found || marker != testMarker {
				t.Errorf("the medium tells no unit: %v, %v", found, err)
			}
			if err := m.Wipe(tmpl); err != nil {
				t.Error(err)
			}
			wantUseless(t, medium, g, "wiped")
			m.Close()
		}
	}
	f.Fail("sync", syscall.EIO)
	if err := p.Destroy(ref); !errors.Is(err, syscall.EIO) {
		t.Errorf("destroyed without a sync: %v", err)
	}
	f.Fail("sync", 0)
}
