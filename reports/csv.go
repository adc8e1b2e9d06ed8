package reports

import (
	"encoding/csv"

	"keymill/pipeline"
)

// csvWriter writes devices.csv (RFC 4180, UTF-8, comma): one header line, one
// line a device.
type csvWriter struct {
	file *outFile
	csv  *csv.Writer
	cols []column
	row  []string
}

func openCSV(out *bundleDir, s *Summary) (deviceWriter, error) {
	file, err := out.create("devices.csv")
	if err != nil {
		return nil, err
	}
	w := &csvWriter{file: file, csv: csv.NewWriter(file), cols: columns(s)}
	w.row = make([]string, len(w.cols))
	for i, c := range w.cols {
		w.row[i] = neutral(c.name)
	}
	return w, w.csv.Write(w.row)
}

func (w *csvWriter) Device(r *pipeline.Record) error {
	for i, c := range w.cols {
		w.row[i] = cellText(c.value(r))
	}
	return w.csv.Write(w.row)
}

func (w *csvWriter) Close() error {
	w.csv.Flush()
	if err := w.csv.Error(); err != nil {
		return err
	}
	return w.file.Close()
}

func (w *csvWriter) Abort() { w.file.Abort() }
