package reports

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"

	"keymill/pipeline"
)

// Encrypt writes the bundle in dir to a new file (0600) as a tar archive that
// only the recipients ("age1...") can read. The bundle itself stays as it is.
// The file appears under its name only when it is complete.
func Encrypt(ctx context.Context, dir, file string, recipients []string) error {
	to, err := parseRecipients(recipients)
	if err != nil {
		return err
	}
	out, err := os.CreateTemp(filepath.Dir(file), ".encrypt-*")
	if err != nil {
		return storage(err)
	}
	defer os.Remove(out.Name())
	defer out.Close()
	sealed, err := age.Encrypt(out, to...)
	if err != nil {
		return err
	}
	if err := errors.Join(writeTar(ctx, sealed, dir), sealed.Close(), out.Sync()); err != nil {
		return storage(err)
	}
	if err := os.Link(out.Name(), file); err != nil {
		return storage(err)
	}
	return nil
}

func parseRecipients(recipients []string) ([]age.Recipient, error) {
	if len(recipients) == 0 {
		return nil, pipeline.WithHint(errors.New("nobody to encrypt for"), "give a recipient: age1...")
	}
	to, err := age.ParseRecipients(strings.NewReader(strings.Join(recipients, "\n")))
	if err != nil {
		return nil, pipeline.WithHint(fmt.Errorf("recipient: %w", err), "a recipient looks like age1...; age-keygen -y prints it")
	}
	return to, nil
}

// writeTar writes dir's files below its base name, by name and without times or
// owners: only what is in them counts.
func writeTar(ctx context.Context, w io.Writer, dir string) error {
	archive := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(filepath.Dir(dir), path)
		if err != nil {
			return err
		}
		return addToTar(archive, path, filepath.ToSlash(rel))
	})
	return errors.Join(err, archive.Close())
}

func addToTar(archive *tar.Writer, path, name string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: info.Size(), ModTime: time.Unix(0, 0).UTC(), Format: tar.FormatPAX}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(archive, f)
	return err
}
