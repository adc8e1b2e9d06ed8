package reports

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// memoryTree keeps all hashes as tlog wants them: the judge.
type memoryTree []tlog.Hash

func (m memoryTree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = m[x]
	}
	return out, nil
}

func judge(t *testing.T, n int64) (memoryTree, []tlog.Hash) {
	t.Helper()
	var m memoryTree
	var leaves []tlog.Hash
	for i := range n {
		data := []byte(fmt.Sprint(i))
		leaves = append(leaves, tlog.RecordHash(data))
		hashes, err := tlog.StoredHashes(i, data, m)
		if err != nil {
			t.Fatal(err)
		}
		m = append(m, hashes...)
	}
	return m, leaves
}

func TestFrontierAgreesWithTlog(t *testing.T) {
	m, leaves := judge(t, 140)
	var f frontier
	if got, want := f.root(), tlog.Hash(sha256.Sum256(nil)); got != want {
		t.Errorf("empty tree: %v", got)
	}
	for i, leaf := range leaves {
		f.push(node{start: f.end(), hash: leaf})
		want, err := tlog.TreeHash(int64(i+1), m)
		if err != nil {
			t.Fatal(err)
		}
		if f.root() != want {
			t.Fatalf("root of %d leaves differs", i+1)
		}
	}
}

// TestInclusionFromSubtrees proves every leaf of trees of every size while all
// other leaves are only known as the fewest subtrees.
func TestInclusionFromSubtrees(t *testing.T) {
	m, leaves := judge(t, 70)
	for size := int64(1); size <= 70; size++ {
		root, err := tlog.TreeHash(size, m)
		if err != nil {
			t.Fatal(err)
		}
		for index := range size {
			left, right := frontier{}, frontier{start: index + 1}
			for _, leaf := range leaves[:index] {
				left.push(node{start: left.end(), hash: leaf})
			}
			for _, leaf := range leaves[index+1 : size] {
				right.push(node{start: right.end(), hash: leaf})
			}
			p, err := newInclusion(index, size)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range slices.Concat(left.nodes, []node{{index, 0, leaves[index]}}, right.nodes) {
				if err := p.add(n); err != nil {
					t.Fatal(err)
				}
			}
			got, err := p.proof()
			if err != nil {
				t.Fatalf("leaf %d of %d: %v", index, size, err)
			}
			if err := tlog.CheckRecord(got, size, root, index, leaves[index]); err != nil {
				t.Fatalf("leaf %d of %d: %v", index, size, err)
			}
		}
	}
}

func TestFrontierRefuses(t *testing.T) {
	var f frontier
	for _, n := range []node{{start: 1}, {start: 0, level: 63}, {start: 0, level: -1}} {
		if err := f.add(n); err == nil {
			t.Errorf("took %+v", n)
		}
	}
	f.push(node{start: f.end()})
	if err := f.add(node{start: 1, level: 1}); err == nil {
		t.Error("took a subtree that is not aligned")
	}
}
