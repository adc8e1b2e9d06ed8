package reports

import (
	"crypto/sha256"
	"fmt"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// A node is one perfect subtree of an RFC 6962 Merkle tree: the leaves from
// start, 2^level of them, start being a multiple of that.
type node struct {
	start int64
	level int
	hash  tlog.Hash
}

// width returns the number of leaves below the node.
func (n node) width() int64 { return 1 << n.level }

// frontier is a tree that grows to the right: the perfect subtrees of a range
// of leaves, from left to right. Its memory is the logarithm of its size. The
// zero value is an empty tree that begins at leaf 0.
type frontier struct {
	start, size int64 // the range is [start, start+size)
	nodes       []node
}

// end returns the index of the first leaf that is not in the range.
func (f *frontier) end() int64 { return f.start + f.size }

// add appends a perfect subtree; it must begin where the range ends.
func (f *frontier) add(n node) error {
	if n.start != f.end() {
		return fmt.Errorf("a node begins at leaf %d, but leaf %d is next", n.start, f.end())
	}
	if n.level < 0 || n.level > 62 || n.start%n.width() != 0 {
		return fmt.Errorf("a node of level %d cannot begin at leaf %d", n.level, n.start)
	}
	f.push(n)
	return nil
}

func (f *frontier) push(n node) {
	f.size += n.width()
	for len(f.nodes) > 0 {
		left := f.nodes[len(f.nodes)-1]
		if left.level != n.level || left.start%(2*left.width()) != 0 {
			break
		}
		n = node{left.start, left.level + 1, tlog.NodeHash(left.hash, n.hash)}
		f.nodes = f.nodes[:len(f.nodes)-1]
	}
	f.nodes = append(f.nodes, n)
}

// root returns the hash of the range as RFC 6962, section 2.1 has it; that of
// an empty range is the hash of nothing. A range that does not begin at leaf 0
// must be a subtree of the larger tree.
func (f *frontier) root() tlog.Hash {
	if len(f.nodes) == 0 {
		return sha256.Sum256(nil)
	}
	h := f.nodes[len(f.nodes)-1].hash
	for i := len(f.nodes) - 2; i >= 0; i-- {
		h = tlog.NodeHash(f.nodes[i].hash, h)
	}
	return h
}

// inclusion gathers the inclusion proof of one leaf (RFC 6962, section 2.1.1)
// from nodes in any granularity that does not hide the leaf.
type inclusion struct {
	index    int64
	siblings []frontier // from the leaf's own sibling up
	ends     []int64    // where each of them must end
	seen     bool
}

// newInclusion prepares the proof of leaf index in a tree of size leaves.
func newInclusion(index, size int64) (*inclusion, error) {
	if index < 0 || index >= size {
		return nil, fmt.Errorf("leaf %d is not in a tree of %d", index, size)
	}
	p := &inclusion{index: index}
	p.split(0, size)
	return p, nil
}

// split descends to the leaf and notes the other half on the way up.
func (p *inclusion) split(lo, hi int64) {
	if hi-lo == 1 {
		return
	}
	k := lo + int64(1)<<(bits.Len64(uint64(hi-lo-1))-1)
	if p.index < k {
		p.split(lo, k)
		p.siblings, p.ends = append(p.siblings, frontier{start: k}), append(p.ends, hi)
	} else {
		p.split(k, hi)
		p.siblings, p.ends = append(p.siblings, frontier{start: lo}), append(p.ends, k)
	}
}

// add takes the tree's nodes from left to right.
func (p *inclusion) add(n node) error {
	if n.start <= p.index && p.index < n.start+n.width() {
		p.seen = n.level == 0
		return nil
	}
	for i := range p.siblings {
		if p.siblings[i].start <= n.start && n.start < p.ends[i] {
			return p.siblings[i].add(n)
		}
	}
	return nil
}

// proof returns the hashes from the leaf's sibling up to the root's child.
func (p *inclusion) proof() (tlog.RecordProof, error) {
	if !p.seen {
		return nil, fmt.Errorf("the log does not show leaf %d", p.index)
	}
	hashes := make(tlog.RecordProof, len(p.siblings))
	for i := range p.siblings {
		if p.siblings[i].end() != p.ends[i] {
			return nil, fmt.Errorf("the log ends at leaf %d, before %d", p.siblings[i].end(), p.ends[i])
		}
		hashes[i] = p.siblings[i].root()
	}
	return hashes, nil
}
