package reports

import (
	"bytes"
	"crypto/ed25519"
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
	var files []string
	for _, f := range e.formats {
		if f.name != "jsonl" { // which is listed with the evidence
			files = append(files, f.files...)
		}
	}
	openssl := "openssl dgst -sha256 -verify STATION.pem -signature statement.sig statement.pae"
	if _, ok := e.opt.Signer.Public().(ed25519.PublicKey); ok {
		openssl = "openssl pkeyutl -verify -pubin -inkey STATION.pem -rawin -in statement.pae -sigfile statement.sig"
	}
	var b bytes.Buffer
	err = t.Execute(&b, map[string]any{
		"Lot": e.summary.Lot.Name, "Station": e.opt.Station, "KeyID": id,
		"Time": stamp(e.summary.Time), "Formats": files, "Openssl": openssl, "PredicateType": PredicateType,
	})
	return b.Bytes(), err
}
