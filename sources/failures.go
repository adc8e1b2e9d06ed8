package sources

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"keymill/pipeline"
)

// formulaStarts are the characters with which a cell becomes a formula in a
// spreadsheet (OWASP, "CSV Injection").
const formulaStarts = "=+-@\t\r"

// FailuresWriter writes devices as a CSV that is a manifest again: a column for
// each attribute under the attribute's name, and beside them keymill_state,
// keymill_reason, keymill_lot and keymill_row, which the reading ignores. Cells
// that a spreadsheet would take for formulas get an apostrophe, which the
// reading of a file with these columns removes.
type FailuresWriter struct {
	csv    *csv.Writer
	names  []string
	record []string
}

// NewFailuresWriter returns a writer to w. Nothing is written before the first
// record.
func NewFailuresWriter(w io.Writer) *FailuresWriter {
	return &FailuresWriter{csv: csv.NewWriter(w)}
}

// Write adds a record. All records must have the same attributes in the same
// order, as those of one lot do.
func (f *FailuresWriter) Write(rec *pipeline.Record) error {
	if f.names == nil {
		if err := f.writeHeader(rec); err != nil {
			return err
		}
	}
	if len(rec.Attrs) != len(f.names) {
		return fmt.Errorf("device in row %d has %d attributes, the lot has %d", rec.Row, len(rec.Attrs), len(f.names))
	}
	f.record = f.record[:0]
	for i, a := range rec.Attrs {
		if a.Name != f.names[i] {
			return fmt.Errorf("device in row %d has the attribute %s in place of %s", rec.Row, a.Name, f.names[i])
		}
		f.record = append(f.record, neutralise(a.Value))
	}
	f.record = append(f.record, string(rec.State), neutralise(rec.Reason), neutralise(rec.Lot), strconv.Itoa(rec.Row))
	return f.csv.Write(f.record)
}

func (f *FailuresWriter) writeHeader(rec *pipeline.Record) error {
	if len(rec.Attrs) == 0 {
		return errors.New("device without attributes")
	}
	var header []string
	for _, a := range rec.Attrs {
		f.names = append(f.names, a.Name)
		header = append(header, neutralise(a.Name))
	}
	return f.csv.Write(append(header, ownState, ownReason, ownLot, ownRow))
}

// Flush writes what is buffered and returns the first error of any write.
func (f *FailuresWriter) Flush() error {
	f.csv.Flush()
	return f.csv.Error()
}

// neutralise makes a cell harmless to spreadsheets; restore is its inverse. The
// apostrophe itself is guarded too, so that the inverse is exact.
func neutralise(v string) string {
	if v != "" && (v[0] == '\'' || strings.IndexByte(formulaStarts, v[0]) >= 0) {
		return "'" + v
	}
	return v
}

func restore(v string) string {
	if len(v) > 1 && v[0] == '\'' && (v[1] == '\'' || strings.IndexByte(formulaStarts, v[1]) >= 0) {
		return v[1:]
	}
	return v
}
