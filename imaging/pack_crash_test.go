package imaging

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A pack that was cut off at any byte of its last batch keeps all before it,
// loses nothing that was durable, and keeps no bytes of the cut key.
func TestPackCutAnywhere(t *testing.T) {
	p, tmpl, path := newPack(t)
	kept := mustAppend(t, p, tmpl, 1)
	last := mustAppend(t, p, tmpl, 2)
	p.Close()
	whole, _ := os.ReadFile(path)
	for cut := last.Offset; cut < last.Offset+last.Length; cut += 1 + cut%37 {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		p := reopen(t, nil, path)
		wantEntry(t, p.Read, kept, 1)
		ref := mustAppend(t, p, tmpl, 3)
		if ref.Offset != last.Offset {
			t.Fatalf("cut at %d: went on at %d", cut, ref.Offset)
		}
		wantEntry(t, p.Read, ref, 3)
		p.Close()
		if data, _ := os.ReadFile(path); bytes.Contains(data, handKey(2)[:20]) {
			t.Fatalf("cut at %d: the torn key is still there", cut)
		}
	}
}

// What reached the disk of the last batch may have gaps, too.
func TestPackTornBatch(t *testing.T) {
	p, tmpl, path := newPack(t)
	kept := mustAppend(t, p, tmpl, 1)
	p.Close()
	tail := kept.Offset + kept.Length
	var buf []byte
	for n := range 3 {
		b := newBatch(tail + int64(len(buf)))
		if _, err := b.add(record{kind: recordEntry, template: packHeaderSize, key: entryKey(n)}, func(dst []byte) ([]byte, error) {
			return appendSlots(dst, handOverlay(t, tmpl, n).Slots)
		}); err != nil {
			t.Fatal(err)
		}
		buf = append(buf, b.buf...)
	}
	seal(buf, tail)
	clear(buf[:recordHeaderSize]) // the first sector was never written
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(buf, tail); err != nil {
		t.Fatal(err)
	}
	f.Close()
	list, damage := entries(t, reopen(t, nil, path))
	if len(list) != 1 || damage > 0 {
		t.Fatalf("%d entries, %d damaged regions", len(list), damage)
	}
	if info, _ := os.Stat(path); info.Size() != tail {
		t.Fatalf("the torn batch is still there: %d bytes, not %d", info.Size(), tail)
	}
}

// Damage among durable records is no torn tail: nothing behind it may be cut off.
func TestPackDamage(t *testing.T) {
	for name, c := range map[string]struct {
		at      int64 // in the second of four entries
		damage  int
		entries int
	}{
		"magic":            {0, 1, 3},
		"length":           {5, 1, 3},
		"header checksum":  {68, 1, 3},
		"body":             {recordHeaderSize + 100, 0, 4},
		"checksum of body": {recordHeaderSize, 0, 4},
	} {
		t.Run(name, func(t *testing.T) {
			p, tmpl, path := newPack(t)
			var refs []Ref
			for n := range 4 {
				refs = append(refs, mustAppend(t, p, tmpl, n))
			}
			p.Close()
			data, _ := os.ReadFile(path)
			data[refs[1].Offset+c.at] ^= 0x40
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			p = reopen(t, nil, path)
			list, damage := entries(t, p)
			if len(list) != c.entries || damage != c.damage {
				t.Fatalf("%d entries, %d damaged regions", len(list), damage)
			}
			if _, _, err := p.Read(refs[1]); !errors.Is(err, ErrPackDamaged) {
				t.Fatalf("read the damaged entry: %v", err)
			}
			for _, n := range []int{0, 2, 3} {
				wantEntry(t, p.Read, refs[n], n)
			}
			if c.entries == 4 {
				if !list[1].Damaged || list[0].Damaged {
					t.Fatalf("%+v", list)
				}
				if err := p.Destroy(refs[1]); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestPackInterruptedDestroy(t *testing.T) {
	for name, c := range map[string]struct {
		tear func(p *Pack, ref Ref) error
		want Entry
	}{
		"marked, not wiped": {
			func(p *Pack, ref Ref) error {
				_, err := p.f.WriteAt([]byte{stateDestroyed}, ref.Offset+recordStateAt)
				return err
			},
			Entry{Destroyed: true},
		},
		"wiped, not marked": {
			func(p *Pack, ref Ref) error {
				return zero(p.f, ref.Offset+recordHeaderSize, ref.Length-recordHeaderSize)
			},
			Entry{Damaged: true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, tmpl, path := newPack(t)
			ref := mustAppend(t, p, tmpl, 1)
			next := mustAppend(t, p, tmpl, 2)
			if err := c.tear(p, ref); err != nil {
				t.Fatal(err)
			}
			p = reopen(t, p, path)
			list, _ := entries(t, p)
			c.want.Key, c.want.Ref = entryKey(1), ref
			if len(list) != 2 || list[0] != c.want {
				t.Fatalf("%+v", list)
			}
			wantEntry(t, p.Read, next, 2)
			if data, _ := os.ReadFile(path); bytes.Contains(data, handKey(1)[:20]) {
				t.Fatal("the key is still there")
			}
		})
	}
}

// crashHelper, in the environment, makes the test binary the process that is
// killed.
const crashHelper = "KEYMILL_TEST_CRASH"

func TestPackKilled(t *testing.T) {
	if path := os.Getenv(crashHelper); path != "" {
		appendForever(t, path)
	}
	p, _, path := newPack(t)
	p.Close()
	acked := make(map[Ref]int)
	base := 0
	for range 8 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestPackKilled$")
		cmd.Env = append(os.Environ(), crashHelper+"="+path, fmt.Sprintf("%s_BASE=%d", crashHelper, base))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for stop := 50 + rand.IntN(400); lines.Scan(); stop-- {
			if stop == 0 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			var ref Ref
			var n int
			if _, err := fmt.Sscanf(lines.Text(), "acked %d %d %d\n", &n, &ref.Offset, &ref.Length); err == nil {
				acked[ref] = n
				base = max(base, n+1000)
			}
		}
		_ = cmd.Wait() // it was killed
		p := reopen(t, nil, path)
		for ref, n := range acked {
			wantEntry(t, p.Read, ref, n)
		}
		list, damage := entries(t, p)
		if len(list) < len(acked) || damage > 0 {
			t.Fatalf("%d of %d entries, %d damaged regions", len(list), len(acked), damage)
		}
		p.Close()
	}
	if len(acked) < 400 {
		t.Fatalf("only %d entries", len(acked))
	}
}

// appendForever appends with 32 goroutines and tells what is durable.
func appendForever(t *testing.T, path string) {
	p, err := OpenPack(path)
	if err != nil {
		t.Fatal(err)
	}
	sum, size := p.Golden()
	tmpl := handTemplate(sum, size)
	base, err := strconv.Atoi(os.Getenv(crashHelper + "_BASE"))
	if err != nil {
		t.Fatal(err)
	}
	var next, out sync.Mutex
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for {
				next.Lock()
				base++
				n := base
				next.Unlock()
				ref := mustAppend(t, p, tmpl, n)
				out.Lock()
				fmt.Printf("acked %d %d %d\n", n, ref.Offset, ref.Length)
				out.Unlock()
			}
		})
	}
	wg.Wait()
}

func TestPackOnAFullDisk(t *testing.T) {
	dir := smallDisk(t, 1<<20)
	path := filepath.Join(dir, "lot.pack")
	golden := [32]byte{1}
	p, err := CreatePack(path, golden, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	tmpl := handTemplate(golden, 1<<20)
	var refs []Ref
	for err == nil {
		var ref Ref
		if ref, err = p.Append(t.Context(), entryKey(len(refs)), handOverlay(t, tmpl, len(refs))); err == nil {
			refs = append(refs, ref)
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("not recognised: %v", err)
	}
	if _, again := p.Append(t.Context(), entryKey(1), handOverlay(t, tmpl, 1)); !errors.Is(again, syscall.ENOSPC) {
		t.Fatalf("went on: %v", again)
	}
	p = reopen(t, p, path)
	for n, ref := range refs {
		wantEntry(t, p.Read, ref, n)
	}
	if err := p.Destroy(refs[0]); err != nil {
		t.Fatalf("a full disk must not keep keys: %v", err)
	}
}

// smallDisk mounts a tmpfs of so many bytes.
func smallDisk(t testing.TB, bytes int64) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", bytes)); err != nil {
		missing(t, "needs to mount a tmpfs (root): %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}
