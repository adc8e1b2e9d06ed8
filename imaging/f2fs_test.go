package imaging

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// f2fsSample has placeholder files on an F2FS data partition.
func f2fsSample(t testing.TB, features string) *Golden {
	t.Helper()
	need(t, "f2fs-tools", "mkfs.f2fs", "sload.f2fs", "fsck.f2fs", "dump.f2fs")
	tree := t.TempDir()
	for name, length := range map[string]int{"mender/mender-agent.pem": 4096, "mender/large": 10_000, "mender/small": 100, "other/mender-agent.pem": 4096} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(tree, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(tree, name), bytes.Repeat([]byte("\n"), length), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	script := "set -e; mkfs.f2fs -q -f " + features + ` "$1" >/dev/null; sload.f2fs -f "$0" -t / "$1" >/dev/null`
	return sample(t, SampleOptions{Bytes: 288 << 20, Mkfs: []string{"sh", "-c", script, tree}})
}

func TestF2FSPlaceholder(t *testing.T) {
	for name, features := range map[string]string{"plain": "", "checksums": "-O extra_attr,inode_checksum", "all": "-O extra_attr,inode_checksum,inode_crtime,project_quota"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := f2fsSample(t, features)
			data, err := g.Data()
			if err != nil {
				t.Fatal(err)
			}
			p := planTest(t, g, Target{Path: agentPath, UID: 3}, Target{Path: "/data/mender/large", Mode: 0o640})
			for _, length := range []int{119, 1704, 4096, 0} {
				key, large := bytes.Repeat([]byte("k"), length), bytes.Repeat([]byte("l"), 2*length)
				o, err := p.Overlay(t.Context(), [][]byte{key, large})
				if err != nil {
					t.Fatal(err)
				}
				image := produce(t, g, o)
				checkContents(t, o.Template, image, key, large)
				judgeF2FS(t, image, data, key)
			}
			if _, err := p.Overlay(t.Context(), [][]byte{make([]byte, 4097), nil}); err == nil {
				t.Error("content longer than its placeholder was accepted")
			}
		})
	}
}

// judgeF2FS has fsck.f2fs look at everything, and dump.f2fs at the inode.
func judgeF2FS(t *testing.T, image string, p *Partition, key []byte) {
	t.Helper()
	part := filepath.Join(t.TempDir(), "part")
	if err := copyPart(t.Context(), image, part, p.Offset, p.Bytes); err != nil {
		t.Fatal(err)
	}
	if out := tool(t, "fsck.f2fs", "--dry-run", part); strings.Contains(out, "[Fail]") || strings.Contains(out, "ASSERT") {
		t.Error(out)
	}
	file, err := os.Open(part)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	f2fs, err := openF2FS(file, 0, p.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	n, err := f2fs.find("/mender/mender-agent.pem")
	if err != nil {
		t.Fatal(err)
	}
	dump := tool(t, "sh", "-c", `cd "$1" && echo y | dump.f2fs -i "$0" part`, strconv.Itoa(int(n.number)), filepath.Dir(part))
	for start, want := range map[string]string{"i_size": fmt.Sprintf(": %d]", len(key)), "i_uid": ": 3]", "i_mode": ": 33152]"} {
		if !strings.Contains(lineOf(dump, start), want) {
			t.Error(dump)
		}
	}
	found, err := filepath.Glob(filepath.Join(filepath.Dir(part), "lost_found", "*"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	if got, err := os.ReadFile(found[0]); err != nil || !bytes.Equal(got, key) {
		t.Errorf("dump.f2fs reads %d bytes, %v", len(got), err)
	}
}

func lineOf(text, start string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, start) {
			return line
		}
	}
	return ""
}

func TestF2FSRefusals(t *testing.T) {
	g := f2fsSample(t, "")
	for message, target := range map[string]Target{
		"that are there already":   {Path: "/data/mender/new"},
		"shorter than 4096":        {Path: "/data/mender/small"},
		"takes files' contents":    {Path: "/data/dir", Kind: TargetDirectory},
		"F2FS takes files' conten": {Path: agentPath, XAttrs: map[string]string{"user.x": "y"}},
	} {
		_, err := NewPlan(t.Context(), g, []Target{target}, PlanOptions{Now: planTime, WorkDir: t.TempDir()})
		if err == nil || !strings.Contains(err.Error(), message) {
			t.Errorf("%v, want ..%s..", err, message)
		} else if hint, ok := errors.AsType[*Error](err); !ok || hint.Hint() == "" {
			t.Errorf("%v has no hint", err)
		}
	}
}

// FuzzF2FS spoils a real file system in one place, and requires that the
// reader neither panics nor reads outside.
func FuzzF2FS(f *testing.F) {
	g := f2fsSample(f, "-O extra_attr,inode_checksum")
	data, err := g.Data()
	if err != nil {
		f.Fatal(err)
	}
	image := make([]byte, data.Bytes)
	if _, err := g.ReadAt(image, data.Offset); err != nil {
		f.Fatal(err)
	}
	f2fs, err := openF2FS(&bounded{b: image}, 0, data.Bytes)
	if err != nil {
		f.Fatal(err)
	}
	n, err := f2fs.find("/mender/mender-agent.pem")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(1024+60), []byte{0xff})
	f.Add(uint32(f2fs.nat*f2fsBlock+9*int64(n.number)), []byte("\x00\x07\x00\x00\x00\xff\xff\xff\xff"))
	f.Add(uint32(n.address*f2fsBlock+f2fsAddresses), []byte("\xff\xff"))
	f.Add(uint32(n.address*f2fsBlock+88), []byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, at uint32, b []byte) {
		if int64(at) >= data.Bytes {
			return
		}
		spoilt := spoiltReader{bounded{t, image}, int64(at), b}
		f2fs, err := openF2FS(&spoilt, 0, data.Bytes)
		if err != nil {
			return
		}
		if n, err := f2fs.find("/mender/mender-agent.pem"); err == nil {
			_, _ = f2fs.slot(n)
		}
	})
}

// spoiltReader shows other bytes in one place.
type spoiltReader struct {
	bounded
	at int64
	b  []byte
}

func (r *spoiltReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.bounded.ReadAt(p, off)
	overwrite([]Extent{{off, p}}, r.at, r.b)
	return n, err
}
