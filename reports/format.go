package reports

import (
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
	open  func(dir string, s *Summary) (deviceWriter, error)
}

// A deviceWriter is given a lot's records by row, then closed once. Close
// makes the files complete and durable; Abort releases what is open after an
// error, and does nothing after Close.
type deviceWriter interface {
	Device(r *pipeline.Record) error
	Close() error
	Abort()
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
