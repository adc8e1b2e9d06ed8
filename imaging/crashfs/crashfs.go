// Package crashfs is a file system in memory that knows what was fsync'ed, for
// tests of power cuts: after a number of changes it fails everything, and then comes
// up with what was durable, and with a random share of what was not.
package crashfs

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// sector is what a disk writes as a whole, in bytes.
const sector = 512

// node is a file or a folder.
type node struct {
	id     uint64
	mode   uint32
	links  uint32
	data   []byte           // of a file, as programs see it
	kids   map[string]*node // of a folder, as programs see it
	synced []byte           // what a power cut leaves for certain
	names  map[string]*node // of a folder, what a power cut leaves for certain
	writes []span           // changes of data since the last sync, in order
}

type span struct{ from, to int }

// change is a name that was changed and is not durable yet; two of a rename go
// together.
type change struct{ parts []part }

type part struct {
	dir  *node
	name string
	to   *node // nil: removed
}

// FS is a mounted file system. Its methods may be called by many goroutines.
type FS struct {
	fuse.RawFileSystem
	server *fuse.Server
	// Strict makes names durable by a sync of their folder only, as POSIX allows;
	// otherwise any sync makes all names durable that were changed before it, as ext4
	// does with its journal.
	strict bool

	mu      sync.Mutex // guards what follows
	nodes   map[uint64]*node
	root    *node
	pending []change
	changes int // since Mount or PowerUp
	cutAt   int // 0: never
	off     bool
	fail    map[string]syscall.Errno // by kind of call: write, sync
}

// Mount mounts an empty file system on the folder dir.
func Mount(dir string, strict bool) (*FS, error) {
	f := &FS{RawFileSystem: fuse.NewDefaultRawFileSystem(), strict: strict, nodes: map[uint64]*node{}, fail: map[string]syscall.Errno{}}
	f.root = f.node(syscall.S_IFDIR | 0o755)
	server, err := fuse.NewServer(f, dir, &fuse.MountOptions{FsName: "crashfs", Name: "crashfs", DirectMount: true, MaxWrite: 1 << 20, DisableReadDirPlus: true})
	if err != nil {
		return nil, err
	}
	f.server = server
	go server.Serve()
	return f, server.WaitMount()
}

// Unmount unmounts it.
func (f *FS) Unmount() error { return f.server.Unmount() }

// CutAfter cuts the power before the n-th change from now on; 0: never.
func (f *FS) CutAfter(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changes, f.cutAt = 0, n
}

// Cut reports whether the power was cut, and how many changes there were.
func (f *FS) Cut() (cut bool, changes int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.off, f.changes
}

// Fail lets calls of a kind ("write" or "sync") fail; 0: no more.
func (f *FS) Fail(kind string, err syscall.Errno) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail[kind] = err
}

// PowerUp brings back what a power cut leaves: all that was durable, and of the rest
// each sector and each name with a chance of one half, as rnd has it. All files must
// be closed.
func (f *FS) PowerUp(rnd *rand.Rand) {
	f.mu.Lock()
	defer f.mu.Unlock()
	lost := map[part]bool{} // a later change of a name doesn't survive an earlier one
	for _, c := range f.pending {
		survives := rnd.IntN(2) == 0
		for _, p := range c.parts {
			survives = survives && !lost[part{dir: p.dir, name: p.name}]
		}
		for _, p := range c.parts {
			if !survives {
				lost[part{dir: p.dir, name: p.name}] = true
				continue
			}
			p.commit()
		}
	}
	f.pending = nil
	for _, n := range f.nodes {
		if n.kids != nil {
			n.kids = maps.Clone(n.names)
			continue
		}
		n.tear(rnd)
	}
	for _, n := range f.nodes {
		if n.kids == nil {
			n.links = 0
		}
	}
	for _, n := range f.nodes {
		for _, kid := range n.kids {
			if kid.kids == nil {
				kid.links++
			}
		}
	}
	f.off, f.cutAt, f.changes = false, 0, 0
}

// tear makes of a file what a power cut leaves.
func (n *node) tear(rnd *rand.Rand) {
	after := bytes.Clone(n.synced)
	if len(n.writes) > 0 && rnd.IntN(2) == 0 && len(after) != len(n.data) { // the length may be out before the bytes
		grown := make([]byte, len(n.data))
		copy(grown, after)
		after = grown
	}
	for _, w := range n.writes {
		for at := w.from / sector * sector; at < w.to; at += sector {
			if end := min(at+sector, len(n.data), len(after)); at < end && rnd.IntN(2) == 0 {
				copy(after[at:end], n.data[at:end])
			}
		}
	}
	n.data, n.synced, n.writes = after, bytes.Clone(after), nil
}

func (p part) commit() {
	if p.to == nil {
		delete(p.dir.names, p.name)
	} else {
		p.dir.names[p.name] = p.to
	}
}

func (f *FS) node(mode uint32) *node {
	n := &node{id: uint64(len(f.nodes) + 1), mode: mode, links: 1}
	if mode&syscall.S_IFMT == syscall.S_IFDIR {
		n.kids, n.names = map[string]*node{}, map[string]*node{}
	}
	f.nodes[n.id] = n
	return n
}

// enter counts a change, and says whether the power is on.
func (f *FS) enter(kind string) fuse.Status {
	if kind != "" && !f.off {
		if f.changes++; f.cutAt > 0 && f.changes >= f.cutAt {
			f.off = true
		}
	}
	if f.off {
		return fuse.EIO
	}
	return fuse.Status(f.fail[kind])
}

func (f *FS) attr(n *node, a *fuse.Attr) {
	a.Ino, a.Mode, a.Nlink, a.Size = n.id, n.mode, n.links, uint64(len(n.data))
	a.Blocks, a.Blksize = uint64((len(n.data)+511)/512), 4096
	a.SetTimes(nil, &time.Time{}, nil)
}

func (f *FS) entry(n *node, out *fuse.EntryOut) fuse.Status {
	out.NodeId, out.Generation = n.id, 1
	f.attr(n, &out.Attr)
	return fuse.OK
}

// name changes names; they become durable together.
func (f *FS) name(parts ...part) {
	for _, p := range parts {
		if p.to == nil {
			delete(p.dir.kids, p.name)
		} else {
			p.dir.kids[p.name] = p.to
		}
	}
	f.pending = append(f.pending, change{parts})
}

// commitNames makes names durable: all, or those of one folder.
func (f *FS) commitNames(only *node) {
	f.pending = slices.DeleteFunc(f.pending, func(c change) bool {
		if only != nil && !slices.ContainsFunc(c.parts, func(p part) bool { return p.dir == only }) {
			return false
		}
		for _, p := range c.parts {
			p.commit()
		}
		return true
	})
}
