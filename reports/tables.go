package reports

import (
	"context"

	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"keymill/pipeline"
)

// tables makes everything again that an export makes of the devices and the
// events: tables, pages, README.txt, the images' sums. They must be the same to
// the byte. It is called when everything that they are made from was verified.
func (v *verifier) tables(ctx context.Context) error {
	s, err := v.summary()
	if err != nil {
		return err
	}
	temp, err := os.MkdirTemp("", "keymill-verify-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	out := &bundleDir{dir: temp, discard: true}
	chosen := slices.DeleteFunc(formats(), func(f format) bool { return !v.names(f.files[0]) })
	text, err := readme(s, v.st.Predicate.Station, v.key.Key, chosen)
	if err != nil {
		return err
	}
	if err := out.write(fileReadme, text); err != nil {
		return err
	}
	if err := v.failures(s); err != nil {
		return err
	}
	if err := v.remake(ctx, out, s, append(slices.Clone(chosen), format{"images", []string{fileImages}, openImageSums})); err != nil {
		return err
	}
	return v.sameFiles(out.list())
}

// summary returns what the formats show of the lot as a whole, from the statement.
func (v *verifier) summary() (*Summary, error) {
	p, a := v.st.Predicate, agreement{v: v}
	s := &Summary{Totals: p.Totals, Balance: p.Balance, Identity: p.Columns.Identity, Attributes: p.Columns.Attributes,
		Stats: v.stats, Logs: p.Logs, KeyID: v.report.Key}
	s.Lot = pipeline.Lot{Name: p.Lot, Devices: p.Devices, Station: p.Line, Server: p.Server, ManifestSHA256: a.subject("manifest"),
		GoldenSHA256: a.subject("golden"), InjectSHA256: p.Injection, Keys: p.Keys, Algorithm: p.Algorithm, Format: p.Format}
	var err error
	for _, one := range []struct {
		text string
		time *time.Time
	}{{p.Time, &s.Time}, {p.Planned, &s.Lot.Created}, {p.Closed, &s.Lot.Closed}} {
		if one.text == "" && one.time == &s.Lot.Closed {
			continue // open
		}
		if *one.time, err = time.Parse(timeForm, one.text); err != nil {
			return nil, flawed(fileStatement, "says a time %q", one.text)
		}
	}
	if err := nearTime(p.Time, v.last); err != nil {
		return nil, flawed(fileStatement, "says that the lot stands as of %s, its last event is of another time", p.Time)
	}
	return s, nil
}

// eachDevice yields the listed devices, which were verified, as the formats want
// them.
func (v *verifier) eachDevice(yield func(*pipeline.Record, error) bool) {
	for d, err := range v.listed {
		var r *pipeline.Record
		if err == nil {
			if r, err = v.record(d); err != nil {
				err = flawed(fileDevices, "row %d %v", d.Row, err)
			}
		}
		if !yield(r, err) || err != nil {
			return
		}
	}
}

// listed yields the lines of devices.jsonl.
func (v *verifier) listed(yield func(*deviceLine, error) bool) {
	lines, err := openLines(v.dir, fileDevices)
	if err != nil {
		yield(nil, err)
		return
	}
	defer lines.close()
	for {
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			return
		}
		var d *deviceLine
		if err == nil {
			d, err = parseDevice(line, false)
		}
		if !yield(d, err) || err != nil {
			return
		}
	}
}

// record returns a listed device as the formats want it.
func (v *verifier) record(d *deviceLine) (*pipeline.Record, error) {
	r := &pipeline.Record{State: d.State, Reason: d.Reason, PublicKey: d.PublicKey, Algorithm: d.Algorithm, Attempts: d.Attempts,
		KeysGenerated: d.KeysGenerated, KeysDestroyed: d.KeysDestroyed, Station: d.Station, Updated: d.Updated,
		Output: pipeline.Output{Name: d.OutputName, Bytes: d.OutputBytes, SHA256: d.OutputSHA256},
		Auth:   pipeline.AuthSet{DeviceID: d.ServerDeviceID, AuthSetID: d.AuthSetID, Status: d.AuthStatus, RequestID: d.RequestID, HTTPStatus: d.HTTPStatus}}
	r.Row = d.Row
	columns := v.st.Predicate.Columns
	for _, name := range columns.Identity {
		if value, ok := d.Identity[name]; ok {
			r.Identity = append(r.Identity, pipeline.Attr{Name: name, Value: value})
		}
	}
	for _, name := range slices.Concat(columns.Identity, columns.Attributes) {
		if value, ok := d.Attributes[name]; ok {
			r.Attrs = append(r.Attrs, pipeline.Attr{Name: name, Value: value})
		}
	}
	if len(r.Identity) != len(d.Identity) || len(r.Attrs) != len(d.Attributes) {
		return r, errors.New("has values that are in no column of the statement")
	}
	return r, nil
}

// failures gathers the devices that reports name first.
func (v *verifier) failures(s *Summary) error {
	algorithms := map[string]int{}
	for r, err := range v.eachDevice {
		if err != nil {
			return err
		}
		if r.Algorithm != "" {
			algorithms[r.Algorithm]++
		}
		s.failure(r)
	}
	s.algorithms(algorithms)
	return nil
}

// remake runs the formats over the listed devices.
func (v *verifier) remake(ctx context.Context, out *bundleDir, s *Summary, formats []format) error {
	work, within := errgroup.WithContext(ctx)
	var ins []chan<- []*pipeline.Record
	for _, f := range formats {
		if f.name == "jsonl" {
			continue // which everything is compared with
		}
		in := make(chan []*pipeline.Record, aheadBatches)
		ins = append(ins, in)
		work.Go(func() error {
			if err := f.write(within, out, s, in); err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
			return nil
		})
	}
	work.Go(func() error { return readAhead(within, v.eachDevice, ins...) })
	return work.Wait()
}

// sameFiles compares what was made again with what the statement names. Compressed
// files of another compiler's or packer's version, and of another revision, may differ.
func (v *verifier) sameFiles(files []File) error {
	p := v.st.Predicate
	var differ, same []string
	for _, f := range files {
		i := slices.IndexFunc(v.st.Subject, func(s statementSubject) bool { return s.Name == bundlePrefix+f.Name })
		switch packed := strings.HasSuffix(f.Name, ".xlsx") || strings.HasSuffix(f.Name, ".pdf"); {
		case i < 0:
			return flawed(f.Name, "is missing, though every signed export has it")
		case v.st.Subject[i].Digest["sha256"] == f.SHA256:
			same = append(same, f.Name)
		case p.Tables != tablesRevision || packed && !packedAlike(f.Name, p.MadeBy):
			differ = append(differ, f.Name)
		default:
			return flawed(f.Name, "does not show what devices.jsonl and the events say")
		}
	}
	v.report.ok("%s show what devices.jsonl and the events say", strings.Join(same, ", "))
	if len(differ) > 0 {
		v.report.remark("%s could not be compared with devices.jsonl: made by %s, which this program is not", strings.Join(differ, ", "), p.MadeBy)
	}
	return nil
}

// packedAlike says whether a compressed file of what madeBy names has the bytes that
// this program gives it: pages are packed by the compiler's library, workbooks by
// another, too.
func packedAlike(name, madeBy string) bool {
	if strings.HasSuffix(name, ".xlsx") {
		return strings.HasSuffix(madeBy, " "+packers())
	}
	return strings.Contains(madeBy+" ", " "+runtime.Version()+" ")
}
