package crashfs

import (
	"bytes"
	"slices"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// What the kernel asks for (linux/fuse.h).

// Lookup implements fuse.RawFileSystem, as the methods below.
func (f *FS) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.enter(""); s != fuse.OK {
		return s
	}
	n := f.nodes[h.NodeId].kids[name]
	if n == nil {
		return fuse.ENOENT
	}
	return f.entry(n, out)
}

// GetAttr implements fuse.RawFileSystem.
func (f *FS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.attr(f.nodes[in.NodeId], &out.Attr)
	return f.enter("")
}

// SetAttr implements fuse.RawFileSystem.
func (f *FS) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[in.NodeId]
	if s := f.enter("write"); s != fuse.OK {
		return s
	}
	if in.Valid&fuse.FATTR_MODE != 0 {
		n.mode = n.mode&syscall.S_IFMT | in.Mode&0o7777
	}
	if in.Valid&fuse.FATTR_SIZE != 0 {
		old := len(n.data)
		if size := int(in.Size); size < old {
			n.data = n.data[:size:size]
		} else {
			n.data = append(n.data, make([]byte, size-old)...)
		}
		n.writes = append(n.writes, span{min(old, len(n.data)), max(old, len(n.data))})
	}
	f.attr(n, &out.Attr)
	return fuse.OK
}

func (f *FS) add(dir uint64, name string, mode uint32, out *fuse.EntryOut) fuse.Status {
	if s := f.enter("create"); s != fuse.OK {
		return s
	}
	d := f.nodes[dir]
	if d.kids[name] != nil {
		return fuse.Status(syscall.EEXIST)
	}
	n := f.node(mode)
	f.name(part{d, name, n})
	return f.entry(n, out)
}

// Mkdir implements fuse.RawFileSystem.
func (f *FS) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.add(in.NodeId, name, syscall.S_IFDIR|in.Mode&0o7777, out)
}

// Create implements fuse.RawFileSystem.
func (f *FS) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.add(in.NodeId, name, syscall.S_IFREG|in.Mode&0o7777, &out.EntryOut)
}

// Open implements fuse.RawFileSystem.
func (f *FS) Open(_ <-chan struct{}, in *fuse.OpenIn, _ *fuse.OpenOut) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[in.NodeId]
	if in.Flags&syscall.O_TRUNC == 0 {
		return f.enter("")
	}
	s := f.enter("write")
	if s == fuse.OK {
		n.writes = append(n.writes, span{0, len(n.data)})
		n.data = nil
	}
	return s
}

// Release implements fuse.RawFileSystem.
func (f *FS) Release(<-chan struct{}, *fuse.ReleaseIn) {}

// Flush implements fuse.RawFileSystem.
func (f *FS) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

// Read implements fuse.RawFileSystem.
func (f *FS) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.enter(""); s != fuse.OK {
		return nil, s
	}
	n := f.nodes[in.NodeId]
	from := min(int(in.Offset), len(n.data))
	return fuse.ReadResultData(buf[:copy(buf, n.data[from:])]), fuse.OK
}

// Write implements fuse.RawFileSystem.
func (f *FS) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.enter("write"); s != fuse.OK {
		return 0, s
	}
	n := f.nodes[in.NodeId]
	from, to := int(in.Offset), int(in.Offset)+len(data)
	if to > len(n.data) {
		n.data = append(n.data, make([]byte, to-len(n.data))...)
	}
	copy(n.data[from:], data)
	n.writes = append(n.writes, span{from, to})
	return uint32(len(data)), fuse.OK
}

// Fsync implements fuse.RawFileSystem.
func (f *FS) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[in.NodeId]
	if s := f.enter("sync"); s != fuse.OK {
		return s
	}
	n.synced, n.writes = bytes.Clone(n.data), nil
	if !f.strict {
		f.commitNames(nil)
	}
	return fuse.OK
}

// FsyncDir implements fuse.RawFileSystem.
func (f *FS) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.enter("sync")
	if s == fuse.OK {
		only := f.nodes[in.NodeId]
		if !f.strict {
			only = nil
		}
		f.commitNames(only)
	}
	return s
}

// Unlink implements fuse.RawFileSystem.
func (f *FS) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.enter("unlink"); s != fuse.OK {
		return s
	}
	d := f.nodes[h.NodeId]
	n := d.kids[name]
	if n == nil {
		return fuse.ENOENT
	}
	n.links--
	f.name(part{d, name, nil})
	return fuse.OK
}

// Rmdir implements fuse.RawFileSystem.
func (f *FS) Rmdir(c <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	f.mu.Lock()
	n := f.nodes[h.NodeId].kids[name]
	f.mu.Unlock()
	if n != nil && len(n.kids) > 0 {
		return fuse.Status(syscall.ENOTEMPTY)
	}
	return f.Unlink(c, h, name)
}

// Rename implements fuse.RawFileSystem.
func (f *FS) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.enter("rename"); s != fuse.OK {
		return s
	}
	if in.Flags != 0 {
		return fuse.EINVAL // as bindfs and sshfs do
	}
	d, d2 := f.nodes[in.NodeId], f.nodes[in.Newdir]
	n := d.kids[from]
	if n == nil {
		return fuse.ENOENT
	}
	if old := d2.kids[to]; old != nil {
		if len(old.kids) > 0 {
			return fuse.Status(syscall.ENOTEMPTY)
		}
		old.links--
	}
	f.name(part{d, from, nil}, part{d2, to, n})
	return fuse.OK
}

// Link implements fuse.RawFileSystem.
func (f *FS) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.enter("create"); s != fuse.OK {
		return s
	}
	d, n := f.nodes[in.NodeId], f.nodes[in.Oldnodeid]
	if d.kids[name] != nil {
		return fuse.Status(syscall.EEXIST)
	}
	n.links++
	f.name(part{d, name, n})
	return f.entry(n, out)
}

// OpenDir implements fuse.RawFileSystem.
func (f *FS) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.OK }

// ReadDir implements fuse.RawFileSystem.
func (f *FS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.enter(""); s != fuse.OK {
		return s
	}
	d := f.nodes[in.NodeId]
	var names []string
	for name := range d.kids {
		names = append(names, name)
	}
	slices.Sort(names)
	for i := int(in.Offset); i < len(names); i++ {
		n := d.kids[names[i]]
		if !out.AddDirEntry(fuse.DirEntry{Mode: n.mode, Name: names[i], Ino: n.id, Off: uint64(i + 1)}) {
			break
		}
	}
	return fuse.OK
}

// StatFs implements fuse.RawFileSystem.
func (f *FS) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Bsize, out.Frsize, out.Blocks, out.Bfree, out.Bavail, out.NameLen = 4096, 4096, 1<<28, 1<<28, 1<<28, 255
	return fuse.OK
}

// Lseek implements fuse.RawFileSystem: it knows no holes.
func (f *FS) Lseek(<-chan struct{}, *fuse.LseekIn, *fuse.LseekOut) fuse.Status { return fuse.ENOSYS }

// CopyFileRange implements fuse.RawFileSystem.
func (f *FS) CopyFileRange(<-chan struct{}, *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS
}
