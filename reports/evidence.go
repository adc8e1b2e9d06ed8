package reports

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"strings"

	"keymill/pipeline"
)

// Names of a bundle's evidence. A station's log has a folder of its own.
const (
	fileStatement  = "statement.dsse.json"
	fileSums       = "SHA256SUMS"
	fileReadme     = "README.txt"
	fileDevices    = "devices.jsonl"
	fileEvents     = "events.jsonl"
	fileImages     = "images.sha256"
	folderLog      = "log"
	nameNodes      = "nodes"
	nameCheckpoint = "checkpoint"
	namePrevious   = "previous"            // in the first format
	nameTimestamp  = "checkpoint.tsr"      // RFC 3161, where an authority is configured
	nameCosigned   = "checkpoint.cosigned" // added after the export, not bound by the statement
)

func logFile(station, name string) string { return path.Join(folderLog, escapeName(station), name) }

// imageSums writes images.sha256: the released images in the form that
// sha256sum -c reads, so that they can be checked with stock tools.
type imageSums struct{ *outFile }

func openImageSums(out *bundleDir, _ *Summary) (deviceWriter, error) {
	f, err := out.create(fileImages)
	return imageSums{f}, err
}

func (w imageSums) Device(r *pipeline.Record) error {
	if r.State != pipeline.Released || r.Output.SHA256 == "" || r.Output.Name == "" {
		return nil
	}
	return sumLine(w, r.Output.SHA256, r.Output.Name)
}

// sumLine writes one line of a sha256sum file; names with a line feed or a
// backslash are escaped as sha256sum does it.
func sumLine(w io.Writer, sum, name string) error {
	mark := ""
	if strings.ContainsAny(name, "\\\n\r") {
		mark = `\`
		name = strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`).Replace(name)
	}
	_, err := fmt.Fprintf(w, "%s%s  %s\n", mark, sum, name)
	return err
}

// sums returns the content of SHA256SUMS for the files of a bundle.
func sums(files []File) []byte {
	var b bytes.Buffer
	for _, f := range files {
		if f.Name != fileSums && f.Name != fileStatement {
			_ = sumLine(&b, f.SHA256, f.Name) // a bytes.Buffer takes all
		}
	}
	return b.Bytes()
}

// seal writes the hashes of all files and the signed statement over them.
func (e *export) seal(ctx context.Context) error {
	readme, err := e.readme()
	if err != nil {
		return err
	}
	if err := e.out.write(fileReadme, readme); err != nil {
		return storage(err)
	}
	if err := e.out.write(fileSums, sums(e.out.list())); err != nil {
		return storage(err)
	}
	envelope, err := signStatement(ctx, e.statement(e.out.list()), e.opt.Signer)
	if err != nil {
		return err
	}
	return e.out.write(fileStatement, envelope)
}
