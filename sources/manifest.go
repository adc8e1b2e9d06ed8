// Package sources reads manufacturing manifests (CSV and XLSX), the one input
// of a lot, and refuses them with all their problems at once: row, column,
// value and remedy. It reads a file twice: Check streams the whole file before
// anything is touched, Devices streams it again as normalised devices.
package sources

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"keymill/pipeline"
)

// Config says how a manifest is to be read. Its zero value guesses.
type Config struct {
	// Columns maps attribute names to header texts, compared without regard to
	// case and spaces; an empty text leaves the attribute to be guessed. Where no header has the text, one that is the
	// attribute's own name will do, so that failures.csv maps as its manifest
	// did. Headers that are not named here are guessed: "MAC address" becomes
	// mac, "S/N" serial, and any other its own text made safe ("Part.No" is
	// part_no). Headers beginning with keymill_ are ignored.
	Columns map[string]string
	// Identity lists the attributes that form the identity, the one that names
	// the device's files first. Default: mac, else serial.
	Identity []string
	// Unique lists attributes of which no two devices may have the same value,
	// in this file and among those of other lots that Held knows. nil: serial,
	// where there is one. Empty values are not compared.
	Unique []string
	// Required lists further attributes that no device may lack, such as those
	// that templates render. Those of Identity and Columns, mac and serial are
	// required anyway; other cells may be empty.
	Required []string
	// PublicKey is the attribute that holds the devices' public keys, if they have
	// made keys themselves. It is required then, and no two may be the same.
	PublicKey string
	// HeaderRow is the row with the column headers, as a spreadsheet counts; what
	// stands above it is not read. 0: the first row that is no comment.
	HeaderRow int
	// Expect is the control total: the number of devices. 0 means none.
	Expect int
	// Sheet names the sheet of a workbook. Default: the only visible one, or the
	// only visible one whose columns map.
	Sheet string
	// Taken tells which identities other lots of the ledger hold, and where
	// ("lot L, row 7"). It is called with 1 to 500 sums at a time, from the
	// goroutine that called Check. nil: not asked.
	Taken func(ctx context.Context, ids []pipeline.IdentitySum) (map[pipeline.IdentitySum]string, error)
	// Held tells which values of unique attributes devices of other lots have,
	// and where. It is called as Taken is. nil: not asked.
	Held func(ctx context.Context, values []pipeline.Attr) (map[pipeline.Attr]string, error)
}

// Manifest is an open manifest. It is used by one goroutine.
type Manifest struct {
	path   string
	cfg    Config
	src    source
	layout layout
	lot    string // what keymill_lot says, for our own failures.csv
	sha    string // of the bytes that Check accepted; empty before
}

// source is a format. open starts a pass over the file's rows.
type source interface {
	open() (rows, error)
	Close() error
}

// rows is one pass over a file. next returns io.EOF after the last row, and
// only when the file was read to a proper end; the row is valid until the next
// call. A *RefusedError means that the file cannot be read further.
type rows interface {
	next() (*rawRow, error)
	// findings returns what only the end of the file tells. Call it after EOF.
	findings(l *layout) []Problem
	// sum returns the SHA-256 of the file's bytes. Call it after EOF.
	sum() ([]byte, error)
	Close() error
}

// rawRow is one row as the file has it; rows without any value are left out.
type rawRow struct {
	number  int        // as a spreadsheet counts, from 1
	values  []string   // by column from the first; may be shorter than the header
	cells   []cellInfo // what a workbook says about the values; nil for CSV
	formats *formats   // of the workbook
	hidden  bool
	fault   *Problem // the row cannot be read; values are unusable
}

// Open recognises the format by its content, reads the header and maps the
// columns. It returns a *RefusedError for a file that is no manifest, any other
// error for one that cannot be read. What is wrong with single columns is left
// to Check, so that it is reported with everything else.
func Open(path string, cfg Config) (*Manifest, error) {
	src, err := openSource(path, cfg)
	if err != nil {
		return nil, err
	}
	m := &Manifest{path: path, cfg: cfg, src: src}
	if err := m.readHeader(); err != nil {
		return nil, errors.Join(err, src.Close())
	}
	return m, nil
}

func (m *Manifest) readHeader() error {
	pass, err := m.src.open()
	if err != nil {
		return err
	}
	defer pass.Close()
	sample, err := readSample(pass)
	if err != nil {
		return err
	}
	header, err := sample.header(m.cfg)
	if err != nil {
		return err
	}
	m.layout = newLayout(header, m.cfg)
	m.layout.above = sample.at
	sample.findMACs(&m.layout, m.cfg)
	return nil
}

// Columns returns how the manifest's columns are mapped, in the file's order.
func (m *Manifest) Columns() []Column { return m.layout.columns() }

// Identity returns the attributes that form the identity.
func (m *Manifest) Identity() []string { return m.layout.identityNames() }

// Close releases the file and whatever was unpacked.
func (m *Manifest) Close() error { return m.src.Close() }

// Check streams the whole manifest and hands every problem and warning to
// report. It returns a *RefusedError if there was a problem; other errors say
// that the file could not be read or that Taken failed.
func (m *Manifest) Check(ctx context.Context, report func(Problem)) (Summary, error) {
	m.sha = ""
	c := newChecker(&m.layout, m.cfg, report)
	sum, err := m.pass(ctx, c, func(pipeline.Device) bool { return true })
	if err == nil {
		err = c.finish(ctx)
	}
	if Refused(err) { // what ended the reading stands beside the other problems
		c.add(Problem{What: err.Error(), Remedy: pipeline.Hint(err)})
	}
	s := c.summary()
	s.SHA256 = sum
	m.lot = s.Lot
	if err != nil {
		return s, err
	}
	if s.Problems > 0 {
		return s, refuse(fmt.Sprintf("the manifest was refused: %s", plural(s.Problems, "problem")),
			"correct the file as each problem says, then run the same command again; nothing was changed")
	}
	m.sha = sum
	return s, nil
}

// Devices streams the devices of a manifest that Check accepted, normalised and
// in the file's order. It fails if the file's bytes are no longer those that
// were checked: before the first device where the file was changed in between,
// after the last where it is changed meanwhile.
func (m *Manifest) Devices(ctx context.Context) iter.Seq2[pipeline.Device, error] {
	return func(yield func(pipeline.Device, error) bool) {
		if err := m.devices(ctx, yield); err != nil {
			yield(pipeline.Device{}, err)
		}
	}
}

func (m *Manifest) devices(ctx context.Context, yield func(pipeline.Device, error) bool) error {
	if m.sha == "" {
		return errors.New("the manifest was not accepted by a check")
	}
	sum, err := hashFile(m.path)
	if err != nil {
		return err
	}
	if sum != m.sha {
		return errChanged(m.path)
	}
	stopped := false
	c := newChecker(&m.layout, Config{PublicKey: m.cfg.PublicKey}, nil)
	sum, err = m.pass(ctx, c, func(d pipeline.Device) bool {
		stopped = !yield(d, nil)
		return !stopped
	})
	if stopped {
		return nil
	}
	if err == nil && (sum != m.sha || c.problems > 0) {
		err = errChanged(m.path)
	}
	return err
}

// pass runs every row through the checker and yields the devices of those that
// are sound, until yield returns false. It returns the file's SHA-256.
func (m *Manifest) pass(ctx context.Context, c *checker, yield func(pipeline.Device) bool) (string, error) {
	pass, err := m.src.open()
	if err != nil {
		return "", err
	}
	defer pass.Close()
	for range m.layout.above {
		if _, err := pass.next(); err != nil {
			return "", errors.Join(errChanged(m.path), err)
		}
	}
	header, err := pass.next()
	if err != nil || !m.layout.sameHeader(header) {
		return "", errors.Join(errChanged(m.path), err)
	}
	c.header()
	if len(m.layout.identity) == 0 { // every row would be refused for the header's sake
		c.reportAll(pass.findings(&m.layout))
		return "", nil
	}
	for n := 0; ; n++ {
		if n%256 == 0 && ctx.Err() != nil {
			return "", ctx.Err()
		}
		r, err := pass.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", err
		}
		dev, ok, err := c.row(ctx, r)
		if err != nil {
			return "", err
		}
		if ok && !yield(dev) {
			return "", nil
		}
	}
	c.reportAll(pass.findings(&m.layout))
	sum, err := pass.sum()
	return hex.EncodeToString(sum), err
}

func errChanged(path string) error {
	return pipeline.WithHint(fmt.Errorf("%s changed since it was checked", path),
		"leave the manifest alone while keymill reads it, then run the same command again")
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
