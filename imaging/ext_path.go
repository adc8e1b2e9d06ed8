package imaging

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// maxLinks is how many symbolic links one path may go through.
const maxLinks = 40

// child returns the entry of a directory and its name, fs.ErrNotExist if there is
// none. The name is another one only where the directory ignores case: there the
// kernel would open that entry, and a second one beside it would be damage that
// e2fsck before 1.47.1 does not see.
func (f *extFS) child(dir *extInode, name string) (string, *extInode, error) {
	list, err := f.entries(dir)
	if err != nil {
		return "", nil, err
	}
	same := func(other string) bool { return other == name }
	if dir.flags()&flagCasefold != 0 {
		folded := foldName(name)
		same = func(other string) bool { return foldName(other) == folded }
	}
	for _, e := range list {
		if same(e.name) {
			n, err := f.inode(e.inode)
			return e.name, n, err
		}
	}
	return "", nil, fs.ErrNotExist
}

// foldName returns what names that differ only in case have in common (Unicode
// case folding of the decomposed name, as fs/unicode of the kernel has it).
func foldName(name string) string {
	return norm.NFD.String(cases.Fold().String(norm.NFD.String(name)))
}

// walk follows a path from the file system's root through symbolic links, the
// last part's not. mount is where the running device mounts the file system:
// absolute links below it stay inside. It returns the path without links, the
// inodes of its parts from the root on, and the names that do not exist yet.
func (f *extFS) walk(name, mount string) (real string, inodes []*extInode, missing []string, err error) {
	root, err := f.inode(rootInode)
	if err != nil {
		return "", nil, nil, err
	}
	var names []string
	inodes = []*extInode{root}
	rest := splitPath(name)
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case ".":
			continue
		case "..":
			if len(names) > 0 {
				names, inodes = names[:len(names)-1], inodes[:len(inodes)-1]
			}
			continue
		}
		dir := inodes[len(inodes)-1]
		if dir.kind() != modeDir {
			return "", nil, nil, fmt.Errorf("/%s is not a directory", path.Join(names...))
		}
		stored, next, err := f.child(dir, part)
		if errors.Is(err, fs.ErrNotExist) {
			missing = append([]string{part}, rest...)
			return "/" + path.Join(append(names, missing...)...), inodes, missing, nil
		}
		if err != nil {
			return "", nil, nil, err
		}
		if next.kind() != modeSymlink || len(rest) == 0 {
			names, inodes = append(names, stored), append(inodes, next)
			continue
		}
		if links++; links > maxLinks {
			return "", nil, nil, fmt.Errorf("%s goes through too many symbolic links", name)
		}
		target, absolute, err := f.readLink(next, mount)
		if err != nil {
			return "", nil, nil, fmt.Errorf("/%s: %w", path.Join(append(names, part)...), err)
		}
		if absolute {
			names, inodes = nil, inodes[:1]
		}
		rest = append(splitPath(target), rest...)
	}
	return "/" + path.Join(names...), inodes, nil, nil
}

func splitPath(p string) []string {
	return strings.FieldsFunc(p, func(r rune) bool { return r == '/' })
}

// readLink returns where a symbolic link leads, within the file system.
func (f *extFS) readLink(n *extInode, mount string) (target string, absolute bool, err error) {
	b, err := f.content(n, 65536)
	if err != nil {
		return "", false, err
	}
	target = string(b)
	if !strings.HasPrefix(target, "/") {
		return target, false, nil
	}
	if mount == "" || mount == "/" {
		return target, true, nil
	}
	if target != mount && !strings.HasPrefix(target, mount+"/") {
		return "", false, refuse("Name the file by the partition on which it really lies: partition:N:/..",
			"the symbolic link leads to %s, which is not on this partition", target)
	}
	return strings.TrimPrefix(target, mount), true, nil
}

// find returns the inode at a path, following links but the last part's.
func (f *extFS) find(name, mount string) (*extInode, error) {
	_, inodes, missing, err := f.walk(name, mount)
	if err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return inodes[len(inodes)-1], nil
}
