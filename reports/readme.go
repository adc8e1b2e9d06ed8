package reports

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	_ "embed" // for the text
	"text/template"
)

//go:embed readme.tmpl.txt
var readmeText string

// readme returns the text that tells a bundle's reader what is in it and how
// to check it, with keymill and with stock tools.
func (e *export) readme() ([]byte, error) {
	return readme(e.summary, e.opt.Station, e.opt.Signer.Public(), e.formats)
}

// readme is that of a lot whose bundle has the given formats and is signed by key.
func readme(s *Summary, station string, key crypto.PublicKey, formats []format) ([]byte, error) {
	t, err := template.New("readme").Parse(readmeText)
	if err != nil {
		return nil, err
	}
	id, err := KeyID(key)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, f := range formats {
		if f.name != "jsonl" { // which is listed with the evidence
			files = append(files, f.files...)
		}
	}
	openssl := "openssl dgst -sha256 -verify STATION.pem -signature statement.sig statement.pae"
	if _, ok := key.(ed25519.PublicKey); ok {
		openssl = "openssl pkeyutl -verify -pubin -inkey STATION.pem -rawin -in statement.pae -sigfile statement.sig"
	}
	var b bytes.Buffer
	err = t.Execute(&b, map[string]any{
		"Lot": s.Lot.Name, "Station": station, "KeyID": id,
		"Time": stamp(s.Time), "Formats": files, "Openssl": openssl, "PredicateType": PredicateType,
	})
	return b.Bytes(), err
}
