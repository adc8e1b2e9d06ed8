package reports

import (
	"bytes"
	"crypto"
	"encoding/json"
	"io/fs"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// bundle is a bundle's files in memory.
type bundle map[string][]byte

func load(t testing.TB, dir string) bundle {
	t.Helper()
	b := bundle{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		b[rel], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// mutation is one thing that can happen to a bundle; it returns the new content
// of the file and whether anything changed.
type mutation func(rng *mrand.Rand, data, other []byte) []byte

var mutations = map[string]mutation{
	"change a bit": func(rng *mrand.Rand, d, _ []byte) []byte {
		if len(d) > 0 {
			d[rng.IntN(len(d))] ^= 1 << rng.IntN(8)
		}
		return d
	},
	"change a byte": func(rng *mrand.Rand, d, _ []byte) []byte {
		if len(d) > 0 {
			d[rng.IntN(len(d))] = byte(rng.IntN(256))
		}
		return d
	},
	"insert a byte": func(rng *mrand.Rand, d, _ []byte) []byte {
		return slices.Insert(d, rng.IntN(len(d)+1), " \n\t0aA\""[rng.IntN(7)])
	},
	"remove bytes": func(rng *mrand.Rand, d, _ []byte) []byte {
		i := rng.IntN(len(d) + 1)
		return slices.Delete(d, i, min(len(d), i+1+rng.IntN(9)))
	},
	"truncate": func(rng *mrand.Rand, d, _ []byte) []byte { return d[:rng.IntN(len(d)+1)] },
	"empty":    func(_ *mrand.Rand, d, _ []byte) []byte { return d[:0] },
	"remove a line": func(rng *mrand.Rand, d, _ []byte) []byte {
		l := bytes.SplitAfter(d, []byte("\n"))
		i := rng.IntN(len(l))
		return bytes.Join(slices.Delete(l, i, i+1), nil)
	},
	"repeat a line": func(rng *mrand.Rand, d, _ []byte) []byte {
		l := bytes.SplitAfter(d, []byte("\n"))
		return bytes.Join(slices.Insert(l, rng.IntN(len(l)), l[rng.IntN(len(l))]), nil)
	},
	"swap lines": func(rng *mrand.Rand, d, _ []byte) []byte {
		l := bytes.SplitAfter(d, []byte("\n"))
		i, j := rng.IntN(len(l)), rng.IntN(len(l))
		l[i], l[j] = l[j], l[i]
		return bytes.Join(l, nil)
	},
	"replay another lot's file": func(_ *mrand.Rand, _, other []byte) []byte { return other },
}

// TestEveryMutationIsNoticed changes a bundle at random, 10,000 times, and
// wants each change to be found.
func TestEveryMutationIsNoticed(t *testing.T) {
	key := stationKey("a")
	b, dir := honest(t, key)
	b.fill("lot-2", 24)
	otherDir, _ := exportLot(t, b, "lot-2", Options{Signer: key, Station: "line-3", Journal: b})
	mutate(t, dir, otherDir, trusted(key), 10_000)
}

// TestEveryMutationOfTheFirstFormatIsNoticed does the same to an old bundle.
func TestEveryMutationOfTheFirstFormatIsNoticed(t *testing.T) {
	key, err := ParsePublicKey(readFile(t, "testdata/first-format/station.pem"))
	if err != nil {
		t.Fatal(err)
	}
	dir := copyBundle(t, "testdata/first-format/closed")
	mutate(t, dir, "testdata/first-format/open", Trust{Keys: []PublicKey{key}}, 2_000)
}

func mutate(t *testing.T, dir, otherDir string, trust Trust, rounds int) {
	good, other := load(t, dir), load(t, otherDir)
	wantValid(t, verify(t, dir, trust))
	names := slices.Sorted(mapsKeys(good))
	kinds := slices.Sorted(mapsKeys(mutations))
	seed := uint64(time.Now().UnixNano())
	rng := mrand.New(mrand.NewPCG(seed, 1))
	if testing.Short() {
		rounds = 500
	}
	missed := 0
	for i := 0; i < rounds; {
		name, kind := names[rng.IntN(len(names))], kinds[rng.IntN(len(kinds))]
		path := filepath.Join(dir, name)
		changed := mutations[kind](rng, bytes.Clone(good[name]), bytes.Clone(other[name]))
		if bytes.Equal(changed, good[name]) {
			continue
		}
		i++
		rewrite(t, path, changed)
		if verify(t, dir, trust).OK() {
			missed++
			t.Errorf("seed %d, round %d: %s in %s was not noticed", seed, i, kind, name)
		}
		rewrite(t, path, good[name])
		if missed > 5 {
			break
		}
	}
	wantValid(t, verify(t, dir, trust))
	t.Logf("%d mutations of %d files, %d missed", rounds, len(names), missed)
}

// TestEveryStructuredMutationIsNoticed changes what files mean, 500 times: it takes
// lines as JSON, changes, removes or adds a member, makes hashes and sizes agree,
// and signs with a key of its own under the station's name.
func TestEveryStructuredMutationIsNoticed(t *testing.T) {
	key := stationKey("a")
	_, dir := honest(t, key, "csv")
	good := load(t, dir)
	seed := uint64(time.Now().UnixNano())
	rng := mrand.New(mrand.NewPCG(seed, 2))
	for i := range 500 {
		bad := copyBundle(t, dir)
		name := []string{fileStatement, fileEvents, fileDevices, "log/line-3/leaves.jsonl"}[rng.IntN(4)]
		if name == fileStatement {
			st, _, err := openStatement(t.Context(), good[name], trusted(key).Keys)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := json.Marshal(st.Predicate)
			if err != nil {
				t.Fatal(err)
			}
			p := restructure(rng, raw)
			f := openForge(t, bad, key)
			if json.Unmarshal(p, &f.st.Predicate) != nil {
				continue
			}
			envelope, err := signStatement(t.Context(), f.st, stationKey("thief"))
			if err != nil {
				t.Fatal(err)
			}
			envelope = bytes.Replace(envelope, []byte(keyIDOf(t, stationKey("thief"))), []byte(keyIDOf(t, key)), 1)
			f.write(name, envelope)
		} else {
			lines := bytes.Split(bytes.TrimSuffix(good[name], []byte("\n")), []byte("\n"))
			j := rng.IntN(len(lines))
			lines[j] = restructure(rng, lines[j])
			rewrite(t, filepath.Join(bad, name), append(bytes.Join(lines, []byte("\n")), '\n'))
			if rng.IntN(2) == 0 { // with everything that does not need the key
				resignBy(t, bad, key, stationKey("thief"), nil)
			}
		}
		if bytes.Equal(readFile(t, filepath.Join(bad, name)), good[name]) {
			continue
		}
		if verify(t, bad, trusted(key)).OK() {
			t.Fatalf("seed %d, round %d: a change in %s was not noticed", seed, i, name)
		}
	}
}

func keyIDOf(t testing.TB, key crypto.Signer) string {
	t.Helper()
	id, err := KeyID(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// restructure changes one member of a JSON object.
func restructure(rng *mrand.Rand, raw []byte) []byte {
	var m map[string]any
	if json.Unmarshal(raw, &m) != nil {
		return raw
	}
	names := slices.Sorted(mapsKeys(m))
	name := names[rng.IntN(len(names))]
	switch v := m[name].(type) {
	case string:
		m[name] = v + "x"
	case float64:
		m[name] = v + 1
	case bool:
		m[name] = !v
	default:
		delete(m, name)
	}
	switch rng.IntN(4) {
	case 0:
		delete(m, name)
	case 1:
		m["more"] = "than there was"
	}
	out, err := json.Marshal(m)
	if err != nil {
		return raw
	}
	return out
}

// rewrite makes a file anew: truncating one makes ext4 write it out at once.
func rewrite(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestFilesThatComeAndGo covers what single-file mutations don't.
func TestFilesThatComeAndGo(t *testing.T) {
	key := stationKey("a")
	_, dir := honest(t, key, "csv")
	for name, data := range load(t, dir) {
		path := filepath.Join(dir, name)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		wantProblem(t, verify(t, dir, trusted(key)), filepath.ToSlash(name)+": is missing")
		for what, put := range map[string]func() error{
			"a link":   func() error { return os.Symlink("/dev/null", path) },
			"a pipe":   func() error { return unix.Mkfifo(path, 0o600) },
			"a folder": func() error { return os.Mkdir(path, 0o700) },
		} {
			if err := put(); err != nil {
				t.Fatal(err)
			}
			if verify(t, dir, trusted(key)).OK() {
				t.Errorf("%s is %s", name, what)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, make := range map[string]func(path string) error{
		"log/more.txt: was not there":               func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"log/line-3/lot/checkpoint.cosigned.x: was": func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"empty: is an empty folder":                 func(path string) error { return os.Mkdir(path, 0o700) },
		"log/line-3/epoch.2: is an empty folder":    func(path string) error { return os.Mkdir(path, 0o700) },
		"pipe: is not a regular file":               func(path string) error { return unix.Mkfifo(path, 0o600) },
		"link: is not a regular file":               func(path string) error { return os.Symlink("devices.csv", path) },
	} {
		file, _, _ := strings.Cut(name, ":")
		path := filepath.Join(dir, file)
		if err := make(path); err != nil {
			t.Fatal(err)
		}
		wantProblem(t, verify(t, dir, trusted(key)), name)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	wantValid(t, verify(t, link, trusted(key)))
}

// TestHostileNamesAndSizes: what a bundle brings is shown escaped, and a huge file
// is refused without being read.
func TestHostileNamesAndSizes(t *testing.T) {
	key := stationKey("a")
	_, dir := honest(t, key, "csv")
	evil := "x\n\x1b[8mThe evidence is valid.\u202e"
	if err := os.WriteFile(filepath.Join(dir, evil), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := verify(t, dir, trusted(key))
	wantProblem(t, r, `x\n\x1b[8mThe evidence is valid.\u202e`)
	for _, p := range r.Problems {
		if strings.ContainsFunc(p.String(), func(c rune) bool { return c < 0x20 || c == 0x202e }) {
			t.Errorf("shown as it is: %q", p)
		}
	}
	if err := os.Remove(filepath.Join(dir, evil)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{fileDevices, fileStatement, "log/line-3/checkpoint", fileSums} {
		bad := copyBundle(t, dir)
		if err := os.Truncate(filepath.Join(bad, name), 4<<30); err != nil {
			t.Fatal(err)
		}
		r := verify(t, bad, trusted(key))
		if r.OK() || r.Files == 0 && name != fileStatement {
			t.Errorf("%s of 4 GiB: %+v", name, r)
		}
	}
	old, err := ParsePublicKey(readFile(t, "testdata/first-format/station.pem"))
	if err != nil {
		t.Fatal(err)
	}
	bad := copyBundle(t, "testdata/first-format/closed")
	if err := os.Truncate(filepath.Join(bad, fileDevices), 4<<30); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, verify(t, bad, Trust{Keys: []PublicKey{old}}), "sparse file")
	for in, want := range map[string]string{"ünïcödé 測試": "ünïcödé 測試", "a\x7f\x9b\xff": `a\x7f\x9b\xff`, "tab\there": `tab\there`, "": ""} {
		if got := Printable(in); got != want {
			t.Errorf("%q is shown as %q", in, got)
		}
	}
}

func mapsKeys[V any](m map[string]V) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}
