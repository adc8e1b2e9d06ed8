package dropfolder

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
)

// dropFolder is where batch finds manifests and puts what became of them:
//
//	in/           dropped manifests
//	work/LOT/     the manifest of a lot that is under way or unfinished
//	done/LOT/     the manifest of a closed lot, and its report
//	refused/      refused manifests, each with NAME.problems.txt and .json
//	.keymill/     lock, pending notifications, time of the last success
//
// A manifest moves by rename, so it is in one place at any time. Everything
// that follows from it can be done again, so a crash anywhere costs nothing.
type dropFolder struct {
	root string
	seen map[string]look // the last look at in/
	odd  map[string]bool // by name: what in in/ looks like a manifest, but is no plain file
}

// look is what a file looked like, and since when.
type look struct {
	size  int64
	mtime time.Time
	since time.Time
}

// dropped is a manifest and the lot that it stands for.
type dropped struct {
	path, lot string
}

func (d dropped) name() string { return filepath.Base(d.path) }

func openDropFolder(root string) (*dropFolder, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	f := &dropFolder{root: root, seen: map[string]look{}, odd: map[string]bool{}}
	return f, files.MakeDirs(f.in(), f.path("work"), f.path("done"), f.path("refused"), f.state("outbox"))
}

func (f *dropFolder) path(name ...string) string {
	return filepath.Join(append([]string{f.root}, name...)...)
}

func (f *dropFolder) in() string { return f.path("in") }

func (f *dropFolder) state(name string) string { return f.path(".keymill", name) }

// isManifest reports whether a name in the drop folder is one to take. Hidden
// names are how rsync and others call what they are still writing.
func isManifest(name string) bool {
	ext := strings.ToLower(filepath.Ext(name))
	return !strings.HasPrefix(name, ".") && !strings.HasPrefix(name, "~$") && (ext == ".csv" || ext == ".xlsx")
}

// unfinished lists the manifests in work/, by lot.
func (f *dropFolder) unfinished() ([]dropped, error) {
	lots, err := os.ReadDir(f.path("work"))
	if err != nil {
		return nil, fault.StorageOutage(err)
	}
	var list []dropped
	for _, lot := range lots {
		if !lot.IsDir() {
			continue
		}
		files, err := os.ReadDir(f.path("work", lot.Name()))
		if err != nil {
			return nil, fault.StorageOutage(err)
		}
		for _, file := range files {
			if isManifest(file.Name()) {
				list = append(list, dropped{f.path("work", lot.Name(), file.Name()), lot.Name()})
			}
		}
	}
	return list, nil
}

// look looks at in/ and returns, by name, the manifests that have looked the
// same for at least settle and that nobody writes to, and how many others there are.
func (f *dropFolder) look(now time.Time, settle time.Duration) (ready []dropped, unsettled int, err error) {
	entries, err := os.ReadDir(f.in())
	if err != nil {
		return nil, 0, fault.StorageOutage(err)
	}
	seen, odd := map[string]look{}, map[string]bool{}
	for _, entry := range entries {
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) || !isManifest(entry.Name()) {
			continue
		}
		if err != nil {
			return nil, 0, fault.StorageOutage(err)
		}
		if !info.Mode().IsRegular() {
			odd[entry.Name()] = true
			continue
		}
		was, known := f.seen[entry.Name()]
		if !known || was.size != info.Size() || !was.mtime.Equal(info.ModTime()) {
			was = look{info.Size(), info.ModTime(), now}
		}
		seen[entry.Name()] = was
		path := f.path("in", entry.Name())
		if now.Sub(was.since) < settle || beingWritten(path, now.Sub(was.mtime).Abs()) {
			unsettled++
			continue
		}
		ready = append(ready, dropped{path, files.LotName(entry.Name())})
	}
	f.seen, f.odd = seen, odd
	slices.SortStableFunc(ready, func(a, b dropped) int { return strings.Compare(a.name(), b.name()) })
	return ready, unsettled, nil
}

// finish moves a manifest and a copy of its lot's report to done/LOT.
func (f *dropFolder) finish(d dropped, report string) (string, error) {
	done := f.path("done", d.lot)
	err := files.InOrder(
		func() error { return f.putReport(d.lot, report) },
		func() error { return files.Move(d.path, filepath.Join(done, d.name())) })
	if err != nil {
		return "", fault.StorageOutage(fmt.Errorf("lot %s is closed, but not put away: %w", d.lot, err))
	}
	f.leave(d)
	return done, nil
}

// putReport copies a lot's report to done/LOT, if there is one.
func (f *dropFolder) putReport(lot, report string) error {
	done := f.path("done", lot)
	part := filepath.Join(done, ".report.part")
	final := filepath.Join(done, "report")
	steps := []func() error{func() error { return files.MakeDirs(done) }}
	if files.Exists(report) {
		steps = append(steps,
			func() error { return os.RemoveAll(part) },
			func() error { return files.CopyTree(part, report) },
			func() error { return os.RemoveAll(final) },
			func() error { return os.Rename(part, final) })
	}
	return files.InOrder(steps...)
}

// leave removes a lot's folder in work/ once it is empty; a folder that is left
// over harms nobody.
func (f *dropFolder) leave(d dropped) { os.Remove(f.path("work", d.lot)) }

// refusedAs returns where a refused manifest goes. An older one of the same name
// keeps its place.
func (f *dropFolder) refusedAs(d dropped) string {
	ext := filepath.Ext(d.name())
	base := strings.TrimSuffix(d.name(), ext)
	target := f.path("refused", d.name())
	for n := 2; files.Exists(target); n++ {
		target = f.path("refused", fmt.Sprintf("%s.%d%s", base, n, ext))
	}
	return target
}

// refuse moves a manifest there, after writing beside its new place what is
// wrong with it.
func (f *dropFolder) refuse(d dropped, text, json func(io.Writer) error) (string, error) {
	target := f.refusedAs(d)
	err := files.InOrder(
		func() error { return files.Write(target+".problems.txt", text) },
		func() error { return files.Write(target+".problems.json", json) },
		func() error { return files.Move(d.path, target) })
	if err != nil {
		return "", fault.StorageOutage(fmt.Errorf("refused manifest %s: %w", d.name(), err))
	}
	f.leave(d)
	return target, nil
}

// countManifests returns how many manifests lie in one of the folders.
func countManifests(dir string) int {
	n := 0
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	for _, entry := range entries {
		if isManifest(entry.Name()) && entry.Type().IsRegular() {
			n++
		}
	}
	return n
}

// succeeded notes that a batch ended with nothing left over.
func (f *dropFolder) succeeded() error {
	return files.Write(f.state("last-success"), func(w io.Writer) error {
		_, err := fmt.Fprintln(w, time.Now().UTC().Format(time.RFC3339))
		return err
	})
}

// lastSuccess returns when that was, zero for never.
func (f *dropFolder) lastSuccess() time.Time {
	info, err := os.Stat(f.state("last-success"))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}
