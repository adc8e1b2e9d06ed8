package reports

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"keymill/pipeline"
)

// A format is one way to show a lot. To add one, write its file and add its
// line to formats.
type format struct {
	name  string // what --format calls it
	files []string
	open  func(out *bundleDir, s *Summary) (deviceWriter, error)
}

// A deviceWriter is given a lot's records by row, which it must not change:
// other formats work on them at the same time. Then it is closed once. Close
// makes the files complete and durable; Abort releases what is open after an
// error, and does nothing after Close.
type deviceWriter interface {
	Device(r *pipeline.Record) error
	Close() error
	Abort()
}

// write writes the format's files from the records that arrive on in.
func (f format) write(ctx context.Context, out *bundleDir, s *Summary, in <-chan []*pipeline.Record) error {
	w, err := f.open(out, s)
	if err != nil {
		return err
	}
	defer w.Abort()
	err = receive(ctx, in, func(r *pipeline.Record) error {
		if err := w.Device(r); err != nil {
			return fmt.Errorf("row %d: %w", r.Row, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return w.Close()
}

func formats() []format {
	return []format{
		{"csv", []string{"devices.csv"}, openCSV},
		{"jsonl", []string{"devices.jsonl"}, openJSONL},
		{"xlsx", []string{"devices.xlsx"}, openXLSX},
		{"html", []string{"report.html"}, openHTML},
		{"pdf", []string{"report.pdf"}, openPDF},
	}
}

// FormatNames returns the names that Options.Formats takes.
func FormatNames() []string {
	var names []string
	for _, f := range formats() {
		names = append(names, f.name)
	}
	return names
}

// chooseFormats returns the named formats in the registry's order.
func chooseFormats(names []string) ([]format, error) {
	all := formats()
	for _, name := range names {
		if !slices.Contains(FormatNames(), name) {
			return nil, pipeline.WithHint(fmt.Errorf("unknown export format %q", name),
				"known formats: %s", strings.Join(FormatNames(), ", "))
		}
	}
	if len(names) == 0 {
		return all, nil
	}
	return slices.DeleteFunc(all, func(f format) bool { return !slices.Contains(names, f.name) }), nil
}
