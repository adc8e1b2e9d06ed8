package imaging

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// sampleWith makes a golden image and runs debugfs commands in place on its
// data partition.
func sampleWith(t testing.TB, commands ...string) *Golden {
	t.Helper()
	need(t, e2fsprogs, "mke2fs", "debugfs", "e2fsck")
	name := filepath.Join(t.TempDir(), "golden.sdimg")
	if err := Sample(t.Context(), name, SampleOptions{}); err != nil {
		t.Fatal(err)
	}
	onData(t, name, commands...)
	return openTest(t, name, GoldenOptions{})
}

func onData(t testing.TB, image string, commands ...string) {
	t.Helper()
	g := openTest(t, image, GoldenOptions{})
	data, err := g.Data()
	if err != nil {
		t.Fatal(err)
	}
	tools := tools{sampleTime}
	if err := tools.debugfs(t.Context(), fmt.Sprintf("%s?offset=%d", image, data.Offset), commands); err != nil {
		t.Fatal(err)
	}
}

// host writes a file for debugfs to take.
func host(t testing.TB, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "host")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// inject puts one content at a path and has the image judged at the place
// where the file must really be.
func inject(t *testing.T, g *Golden, target, real string, content []byte) *Overlay {
	t.Helper()
	p := planTest(t, g, Target{Path: target})
	o, err := p.Overlay(t.Context(), [][]byte{content})
	if err != nil {
		t.Fatal(err)
	}
	likeBase(t, p)
	place, err := parsePlace(target)
	if err != nil {
		t.Fatal(err)
	}
	part, err := g.partition(place.partition)
	if err != nil {
		t.Fatal(err)
	}
	judge(t, produce(t, g, o), part, judged{real, content, "0600"})
	return o
}

func TestParents(t *testing.T) {
	key := []byte("a private key")
	old := host(t, strings.Repeat("old key ", 1000))
	for name, test := range map[string]struct {
		commands     []string
		target, real string
	}{
		"are made":                   {nil, "/data/a/b/c/key", "/a/b/c/key"},
		"symbolic link":              {[]string{"mkdir /real", "symlink /link real"}, "/data/link/key", "/real/key"},
		"link to a link":             {[]string{"mkdir /real", "symlink /one real", "symlink /two /data/one"}, "/data/two/key", "/real/key"},
		"absolute link":              {[]string{"mkdir /real", "symlink /link /data/real"}, "/data/link/sub/key", "/real/sub/key"},
		"link upwards":               {[]string{"mkdir /x", "mkdir /real", "cd /x", "symlink up ../real"}, "/data/x/up/key", "/real/key"},
		"long link":                  {[]string{"mkdir /real", "symlink /link " + strings.Repeat("./", 50) + "real"}, "/data/link/key", "/real/key"},
		"blank in the name":          {nil, "/data/a b/the key", "/a b/the key"},
		"existing file is replaced":  {[]string{"cd /mender", "write " + old + " mender-agent.pem"}, agentPath, "/mender/mender-agent.pem"},
		"link at the end, replaced":  {[]string{"symlink /mender/mender-agent.pem /data/x"}, agentPath, "/mender/mender-agent.pem"},
		"another partition":          {nil, "partition:2:/etc/mender/key", "/etc/mender/key"},
		"another partition's folder": {nil, "partition:3:/lost+found/key", "/lost+found/key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inject(t, sampleWith(t, test.commands...), test.target, test.real, key)
		})
	}
}

func TestParentsMadeHaveMode0755(t *testing.T) {
	g := sampleWith(t)
	o := inject(t, g, "/data/new/key", "/new/key", []byte("key"))
	data, err := g.Data()
	if err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(t.TempDir(), "part")
	if err := copyPart(t.Context(), produce(t, g, o), part, data.Offset, data.Bytes); err != nil {
		t.Fatal(err)
	}
	if stat := tool(t, "debugfs", "-R", "stat /new", part); !strings.Contains(stat, "Mode:  0755") || !strings.Contains(stat, "User:     0") {
		t.Error(stat)
	}
}

func TestRefusedTargets(t *testing.T) {
	for name, test := range map[string]struct {
		commands []string
		targets  []string
		message  string
	}{
		"relative":                 {nil, []string{"mender/key"}, "is not on the data partition"},
		"root file system":         {nil, []string{"/etc/key"}, "is not on the data partition"},
		"a folder":                 {nil, []string{"/data/mender/"}, "names no file"},
		"dots":                     {nil, []string{"/data/../etc/key"}, "superfluous"},
		"quote":                    {nil, []string{`/data/a"b`}, "cannot be used"},
		"newline":                  {nil, []string{"/data/a\nrm /mender/device_type"}, "cannot be used"},
		"no such partition":        {nil, []string{"partition:9:/x"}, "there is no partition 9"},
		"partition without number": {nil, []string{"partition:data:/x"}, "names no partition"},
		"directory in the way":     {nil, []string{"/data/mender"}, "is there already"},
		"file among the parents":   {nil, []string{"/data/mender/device_type/key"}, "is not a directory"},
		"link out of the data":     {[]string{"symlink /out /etc/mender"}, []string{"/data/out/key"}, "not on this partition"},
		"link in a circle":         {[]string{"symlink /a b", "symlink /b a"}, []string{"/data/a/key"}, "too many symbolic links"},
		"twice the same":           {nil, []string{"/data/x", "/data/x"}, "the same file"},
		"the same through a link":  {[]string{"symlink /m mender"}, []string{"/data/m/x", "/data/mender/x"}, "the same file"},
		"device in the way":        {[]string{"mknod null c 1 3"}, []string{"/data/null"}, "not a file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var targets []Target
			for _, path := range test.targets {
				targets = append(targets, Target{Path: path})
			}
			work := t.TempDir()
			_, err := NewPlan(t.Context(), sampleWith(t, test.commands...), targets, PlanOptions{Now: planTime, WorkDir: work})
			if err == nil || !strings.Contains(err.Error(), test.message) {
				t.Errorf("got %v, want ..%s..", err, test.message)
			}
			empty(t, work)
		})
	}
}

func empty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A dirty journal that is replayed on the device would undo what is written
// now. debugfs does not care and exits 0.
func TestDirtyJournalIsReplayedFirst(t *testing.T) {
	g := sampleWith(t)
	data, err := g.Data()
	if err != nil {
		t.Fatal(err)
	}
	fs, err := openExt(g, data.Offset, data.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	n, err := fs.find("/mender/device_type", "")
	if err != nil {
		t.Fatal(err)
	}
	runs, err := fs.runs(n, 1)
	if err != nil || len(runs) != 1 {
		t.Fatal(runs, err)
	}
	replayed := "device_type=journal\n" // what the journal says that the block holds
	block := host(t, replayed+strings.Repeat("\x00", int(fs.sb.blockSize)-len(replayed)))
	onData(t, g.Path(), "jo", fmt.Sprintf("jw -b %d %s", runs[0].physical, block), "jc")
	g = openTest(t, g.Path(), GoldenOptions{})
	if fs, err = openExt(g, data.Offset, data.Bytes); err != nil || fs.sb.incompat&incompatRecover == 0 {
		t.Fatal("the journal is not dirty", err)
	}
	key := []byte("key")
	o := inject(t, g, agentPath, "/mender/mender-agent.pem", key)
	judge(t, produce(t, g, o), data, judged{"/mender/device_type", []byte(replayed[:n.size()]), "0644"})
}

func TestDamagedFileSystemIsRefused(t *testing.T) {
	g := sampleWith(t, "sif /mender mode 0") // needs a decision that e2fsck -p does not take
	_, err := NewPlan(t.Context(), g, []Target{{Path: agentPath}}, PlanOptions{Now: planTime, WorkDir: t.TempDir()})
	if err == nil {
		t.Fatal("accepted")
	}
	if hint, ok := errors.AsType[*Error](err); !ok || !strings.Contains(hint.Hint(), "e2fsck") {
		t.Errorf("%v has no hint", err)
	}
}

// debugfs exits 0 after errors, and after a failed cd it writes elsewhere.
func TestDebugfsErrorsAreSeen(t *testing.T) {
	g := sampleWith(t)
	data, err := g.Data()
	if err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(t.TempDir(), "part")
	if err := copyPart(t.Context(), g.Path(), part, data.Offset, data.Bytes); err != nil {
		t.Fatal(err)
	}
	tools := tools{planTime}
	for _, command := range []string{"cd /nowhere", "write /nonexistent x", "rm /nothing", "nonsense"} {
		if err := tools.debugfs(t.Context(), part, []string{command}); err == nil {
			t.Errorf("%s: no error", command)
		}
	}
}

func TestFullFileSystem(t *testing.T) {
	g := sampleWith(t)
	p := planTest(t, g, Target{Path: agentPath})
	if _, err := p.Prepare(t.Context(), []int64{g.Size()}); err == nil || len(p.Templates()) > 0 {
		t.Errorf("%v, %d templates", err, len(p.Templates()))
	}
	if _, err := p.Overlay(t.Context(), [][]byte{[]byte("key")}); err != nil {
		t.Error("the plan is spoilt:", err)
	}
}

func TestLengthsAroundBlocks(t *testing.T) {
	g := sample(t, SampleOptions{BlockSize: 1024})
	data, err := g.Data()
	if err != nil {
		t.Fatal(err)
	}
	p := planTest(t, g, Target{Path: agentPath})
	for _, length := range []int{0, 1, 1023, 1024, 1025, 2048, 2049, 12 * 1024, 12*1024 + 1, 300 * 1024} {
		content := bytes.Repeat([]byte("k"), length)
		o, err := p.Overlay(t.Context(), [][]byte{content})
		if err != nil {
			t.Fatal(length, err)
		}
		judge(t, produce(t, g, o), data, judged{"/mender/mender-agent.pem", content, "0600"})
	}
	if got := len(p.Templates()); got != 7 {
		t.Errorf("%d templates for 7 numbers of blocks", got)
	}
	likeBase(t, p)
}

// likeBase requires that the working copies show nothing of what was rendered.
func likeBase(t *testing.T, p *Plan) {
	t.Helper()
	for _, v := range p.volumes {
		base, err := os.ReadFile(v.base)
		if err != nil {
			t.Fatal(err)
		}
		work, err := os.ReadFile(filepath.Join(p.dir.path, fmt.Sprintf("work-%d", v.partition.Number)))
		if err != nil || !v.restored || !bytes.Equal(base, work) {
			t.Errorf("partition %d was not restored: %v", v.partition.Number, err)
		}
	}
}

func TestManyWorkersShareOneTemplate(t *testing.T) {
	g := sampleWith(t)
	p := planTest(t, g, Target{Path: agentPath})
	var group sync.WaitGroup
	for i := range 200 {
		group.Go(func() {
			content := bytes.Repeat([]byte{byte(i + 1)}, 100+i)
			o, err := p.Overlay(t.Context(), [][]byte{content})
			if err != nil {
				t.Error(err)
			} else if got, err := ReadContent(o.Template, 0, patched{g, o}); err != nil || !bytes.Equal(got, content) {
				t.Error("another worker's content", err)
			}
		})
	}
	group.Wait()
	if len(p.Templates()) != 1 {
		t.Errorf("%d templates", len(p.Templates()))
	}
}

// patched shows golden with an overlay.
type patched struct {
	golden  *Golden
	overlay *Overlay
}

func (p patched) ReadAt(b []byte, off int64) (int, error) {
	n, err := p.golden.ReadAt(b, off)
	for _, e := range p.overlay.Extents() {
		overwrite([]Extent{{off, b}}, e.Offset, e.Data)
	}
	return n, err
}

func TestHashedDirectory(t *testing.T) {
	tree := t.TempDir()
	for i := range 500 {
		if err := os.WriteFile(filepath.Join(tree, fmt.Sprintf("one-of-many-names-%03d", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	need(t, e2fsprogs, "mke2fs", "debugfs", "e2fsck")
	script := `mke2fs -q -F -t ext4 -b 1024 -d "$0" "$1"; e2fsck -fyD "$1" >/dev/null; test $? -le 1`
	g := sample(t, SampleOptions{Mkfs: []string{"sh", "-c", script, tree}})
	inject(t, g, "/data/mender-agent.pem", "/mender-agent.pem", []byte("key"))
}

// A station whose clock is behind the golden image's still makes clean images.
func TestTimeBeforeTheGoldenImage(t *testing.T) {
	g := sampleWith(t)
	p, err := NewPlan(t.Context(), g, []Target{{Path: agentPath}}, PlanOptions{Now: sampleTime.AddDate(-3, 0, 0), WorkDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	o, err := p.Overlay(t.Context(), [][]byte{[]byte("key")})
	if err != nil {
		t.Fatal(err)
	}
	data, err := g.Data()
	if err != nil {
		t.Fatal(err)
	}
	judge(t, produce(t, g, o), data, judged{"/mender/mender-agent.pem", []byte("key"), "0600"})
}

// Whoever is called off must not take the others with him.
func TestCancelledTemplate(t *testing.T) {
	g := sampleWith(t)
	p := planTest(t, g, Target{Path: agentPath})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Overlay(gone, [][]byte{[]byte("key")}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := p.Overlay(t.Context(), [][]byte{[]byte("key")}); err != nil {
		t.Error(err)
	}
	if _, err := NewPlan(gone, g, []Target{{Path: agentPath}}, PlanOptions{Now: planTime, WorkDir: t.TempDir()}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestNoContentTouchesTheDisk(t *testing.T) {
	g := sampleWith(t)
	work := t.TempDir()
	p, err := NewPlan(t.Context(), g, []Target{{Path: agentPath}}, PlanOptions{Now: planTime, WorkDir: work})
	if err != nil {
		t.Fatal(err)
	}
	secret := []byte("-----BEGIN PRIVATE KEY-----")
	if _, err := p.Overlay(t.Context(), [][]byte{secret}); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(work, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Mode().Perm()&0o077 != 0 && path != work {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
		if d.IsDir() {
			return nil
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, secret) {
			t.Errorf("%s holds the key", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	empty(t, work)
}

// A killed process leaves its working folder; one that lives keeps its own.
func TestFoldersOfTheDeadAreRemoved(t *testing.T) {
	g, work := sampleWith(t), t.TempDir()
	options := PlanOptions{Now: planTime, WorkDir: work}
	dead, err := NewPlan(t.Context(), g, []Target{{Path: agentPath}}, options)
	if err != nil {
		t.Fatal(err)
	}
	if err := dead.dir.lock.Close(); err != nil { // as the kernel does for the killed
		t.Fatal(err)
	}
	alive, err := NewPlan(t.Context(), g, []Target{{Path: agentPath}}, options)
	if err != nil {
		t.Fatal(err)
	}
	third, err := NewPlan(t.Context(), g, []Target{{Path: agentPath}}, options)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dead.dir.path); !errors.Is(err, os.ErrNotExist) {
		t.Error("the dead process's folder is still there")
	}
	if _, err := alive.Overlay(t.Context(), [][]byte{[]byte("key")}); err != nil {
		t.Error("the living plan lost its folder:", err)
	}
	if err := errors.Join(alive.Close(), third.Close()); err != nil {
		t.Error(err)
	}
	empty(t, work)
}

func TestSameLotMakesTheSameBytes(t *testing.T) {
	g := sampleWith(t)
	var codes [2][]byte
	for i := range codes {
		p := planTest(t, g, Target{Path: agentPath})
		template, err := p.Prepare(t.Context(), []int64{119})
		if err != nil {
			t.Fatal(err)
		}
		if codes[i], err = template.MarshalBinary(); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(codes[0], codes[1]) {
		t.Error("two plans made different templates")
	}
}

func TestMenderArtifactAgrees(t *testing.T) {
	need(t, "mender-artifact", "mender-artifact")
	for _, table := range []string{TableMBR, TableGPT} {
		g := sample(t, SampleOptions{Table: table})
		p := planTest(t, g, Target{Path: agentPath})
		key := []byte("-----BEGIN PRIVATE KEY-----\n")
		o, err := p.Overlay(t.Context(), [][]byte{key})
		if err != nil {
			t.Fatal(err)
		}
		if got := tool(t, "mender-artifact", "cat", produce(t, g, o)+":"+agentPath); got != string(key) {
			t.Errorf("%s: mender-artifact reads %q", table, got)
		}
	}
}
