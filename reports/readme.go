package reports

import (
	"bytes"
	_ "embed" // for the text
	"text/template"
)

//go:embed readme.tmpl.txt
var readmeText string

// readme returns the text that tells a bundle's reader what is in it and how
// to check it, with keymill and with stock tools.
func (e *export) readme() ([]byte, error) {
	t, err := template.New("readme").Parse(readmeText)
	if err != nil {
		return nil, err
	}
	id, err := KeyID(e.opt.Signer.Public())
	if err != nil {
		return nil, err
	}
	var formats []string
	for _, f := range e.formats {
		formats = append(formats, f.files...)
	}
	var b bytes.Buffer
	err = t.Execute(&b, map[string]any{
		"Lot": e.summary.Lot.Name, "Station": e.opt.Station, "KeyID": id,
		"Time": stamp(e.summary.Time), "Formats": formats, "Logs": e.summary.Logs,
	})
	return b.Bytes(), err
}
