package reports

import (
	"bytes"
	"io/fs"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
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
	l, key := newLedger(t), stationKey("a")
	l.fill("lot-0", 4)
	exportLot(t, l, "lot-0", signedOptions(l, key))
	l.fill("lot-1", 24)
	dir, _ := exportLot(t, l, "lot-1", signedOptions(l, key))
	l.fill("lot-2", 24)
	otherDir, _ := exportLot(t, l, "lot-2", signedOptions(l, key))
	good, other := load(t, dir), load(t, otherDir)
	trust := trusted(key)
	trust.Since = [][]byte{good["log/line-3/previous"]}
	wantValid(t, verify(t, dir, trust))

	names := slices.Sorted(mapsKeys(good))
	kinds := slices.Sorted(mapsKeys(mutations))
	seed := uint64(time.Now().UnixNano())
	rng := mrand.New(mrand.NewPCG(seed, 1))
	rounds := 10_000
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
	l, key := newLedger(t), stationKey("a")
	l.fill("lot-1", 10)
	dir, _ := exportLot(t, l, "lot-1", signedOptions(l, key, "csv"))
	for name, data := range load(t, dir) {
		path := filepath.Join(dir, name)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		wantProblem(t, verify(t, dir, trusted(key)), filepath.ToSlash(name)+": is missing")
		if err := os.Symlink("/dev/null", path); err != nil {
			t.Fatal(err)
		}
		if verify(t, dir, trusted(key)).OK() {
			t.Errorf("%s is a symbolic link", name)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "log", "more.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, verify(t, dir, trusted(key)), "log/more.txt: was not there")
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
