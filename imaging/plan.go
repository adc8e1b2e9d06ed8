package imaging

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// PlanOptions say how a plan is made.
type PlanOptions struct {
	// Now is the time that all timestamps in the images get, whole seconds: the
	// lot's creation, so that the same lot makes the same bytes again.
	Now time.Time
	// WorkDir is where temporary copies of partitions lie, in a folder of their
	// own with mode 0700. Empty: the system's temporary folder. Close removes them;
	// those of a killed process the next plan removes.
	WorkDir string
}

// Plan makes overlays for one golden image and one list of targets. It is safe
// for use by many goroutines.
type Plan struct {
	golden  *Golden
	slots   []string // paths of the targets whose content differs, in order
	volumes []*volume
	tools   tools
	dir     *workDir
	boot    BootCheck

	turn chan struct{} // taken by whoever makes a template

	templates atomic.Pointer[[]*Template] // replaced, never changed

	mu     sync.Mutex
	making map[string]*making // guarded by mu; by shape
}

// making is a template that somebody makes while others wait.
type making struct {
	done     chan struct{}
	template *Template
	err      error
}

// volume is a partition that gets files.
type volume struct {
	partition *Partition
	fs        filesystem
	base      string // a copy of the partition, repaired
	repaired  []Span // where base differs from golden
	files     []volumeFile
	restored  bool // the working copy is like base; guarded by Plan.turn
}

// volumeFile is a target with its path in the partition.
type volumeFile struct {
	Target
	path string
	slot int // index of its content, -1 if that is the same for all devices
}

// filesystem puts files into one kind of file system. Contents are those of
// all the volume's files; a directory's is nil.
type filesystem interface {
	// prepare repairs the copy of the partition in base, so that it can be
	// written, and checks the targets against it.
	prepare(ctx context.Context, base string) error
	// lengths returns which lengths share a template with the given one.
	lengths(length int64) (least, most int64)
	// render puts contents into work, a copy of base, and has it judged.
	render(ctx context.Context, work, scratch string, contents [][]byte) error
	// slot finds out where the content of file i lies in work, with offsets in
	// the partition, and requires that it is there as it was rendered.
	slot(work *os.File, i int, content []byte) (Slot, error)
}

// NewPlan checks the targets against the golden image: the partitions exist
// and can be written, parents are or can become directories. It copies and
// repairs the partitions concerned, whose journals may need a replay.
func NewPlan(ctx context.Context, g *Golden, targets []Target, opt PlanOptions) (*Plan, error) {
	if len(targets) == 0 {
		return nil, refuse("List at least one file to inject.", "nothing is to be put into the image")
	}
	now := opt.Now.Truncate(time.Second)
	if now.Unix() <= 0 {
		return nil, errors.New("imaging: PlanOptions.Now is not set")
	}
	p := &Plan{golden: g, tools: tools{now}, turn: make(chan struct{}, 1), making: map[string]*making{}}
	p.templates.Store(&[]*Template{})
	var err error
	if p.dir, err = makeWorkDir(opt.WorkDir); err != nil {
		return nil, err
	}
	if err := p.open(ctx, targets); err != nil {
		return nil, errors.Join(err, p.dir.remove())
	}
	return p, nil
}

// open sorts the targets by partition and prepares each.
func (p *Plan) open(ctx context.Context, targets []Target) error {
	byNumber := map[int]*volume{}
	for _, target := range targets {
		if err := target.check(); err != nil {
			return err
		}
		place, err := parsePlace(target.Path)
		if err != nil {
			return err
		}
		part, err := p.golden.partition(place.partition)
		if err != nil {
			return err
		}
		v := byNumber[part.Number]
		if v == nil {
			v = &volume{partition: part}
			byNumber[part.Number] = v
			p.volumes = append(p.volumes, v)
		}
		file := volumeFile{target, place.path, -1}
		if target.ownContent() {
			file.slot = len(p.slots)
			p.slots = append(p.slots, target.Path)
		}
		v.files = append(v.files, file)
	}
	for _, v := range p.volumes {
		if err := p.prepare(ctx, v); err != nil {
			return fmt.Errorf("partition %d: %w", v.partition.Number, err)
		}
	}
	var err error
	if p.boot, err = p.golden.bootCheck(targets); err != nil {
		return err
	}
	return p.golden.Unchanged()
}

// Boot says whether a booted device would find the files that are put into the
// Mender client's folder.
func (p *Plan) Boot() BootCheck { return p.boot }

func (p *Plan) prepare(ctx context.Context, v *volume) (err error) {
	mount := ""
	var covered []string
	if data, err := p.golden.Data(); err == nil && data.Number == v.partition.Number {
		mount = dataMount
	} else {
		covered = p.golden.covered(v.partition, err == nil)
	}
	if v.fs, err = newFilesystem(&p.tools, v.partition, mount, covered, v.files); err != nil {
		return err
	}
	v.base = filepath.Join(p.dir.path, fmt.Sprintf("base-%d", v.partition.Number))
	if err := copyPart(ctx, p.golden.path, v.base, v.partition.Offset, v.partition.Bytes); err != nil {
		return fmt.Errorf("copy the partition: %w", err)
	}
	if err := v.fs.prepare(ctx, v.base); err != nil {
		return err
	}
	r, err := openRendered(p.golden.path, v.base, v.partition)
	if err != nil {
		return err
	}
	v.repaired, err = r.diff(ctx)
	return errors.Join(err, r.close())
}

// copyPart copies a part of one file into a new one, sparsely.
func copyPart(ctx context.Context, from, to string, offset, size int64) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(copySparse(ctx, dst, src, offset, size), dst.Close())
}

// Overlay returns what puts contents into the golden image, one for each target
// whose content differs between devices, in the targets' order. The first contents of some lengths make a template,
// which takes a second; further ones take microseconds.
func (p *Plan) Overlay(ctx context.Context, contents [][]byte) (*Overlay, error) {
	for _, t := range *p.templates.Load() {
		if t.Fits(contents) {
			return t.Fill(contents)
		}
	}
	lengths := make([]int64, len(contents))
	for i, c := range contents {
		lengths[i] = int64(len(c))
	}
	t, err := p.Prepare(ctx, lengths)
	if err != nil {
		return nil, err
	}
	return t.Fill(contents)
}

// Prepare makes the template for contents of these lengths, in bytes, or
// returns the one that is there.
func (p *Plan) Prepare(ctx context.Context, lengths []int64) (*Template, error) {
	if len(lengths) != len(p.slots) {
		return nil, fmt.Errorf("the plan has %d files whose content differs, not %d", len(p.slots), len(lengths))
	}
	shapes := p.shapes(lengths)
	key := fmt.Sprint(shapes)
	for {
		m, mine := p.claim(key)
		if mine {
			m.template, m.err = p.makeTemplate(ctx, shapes)
			p.finish(key, m)
			return m.template, m.err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-m.done:
		}
		// Whoever made it may have been called off; we were not.
		if !errors.Is(m.err, context.Canceled) && !errors.Is(m.err, context.DeadlineExceeded) {
			return m.template, m.err
		}
	}
}

func (p *Plan) claim(key string) (m *making, mine bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m, ok := p.making[key]; ok {
		return m, false
	}
	m = &making{done: make(chan struct{})}
	p.making[key] = m
	return m, true
}

// finish publishes a template; a failure is forgotten, so that a later call
// tries again.
func (p *Plan) finish(key string, m *making) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m.err != nil {
		delete(p.making, key)
	} else {
		all := append([]*Template{m.template}, *p.templates.Load()...)
		p.templates.Store(&all)
	}
	close(m.done)
}

// Templates returns the templates made so far.
func (p *Plan) Templates() []*Template { return *p.templates.Load() }

// Close removes the plan's temporary files. The templates stay usable.
func (p *Plan) Close() error { return p.dir.remove() }
