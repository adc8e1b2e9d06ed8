package main

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"keymill/pipeline"
	"keymill/sources"
)

// exampleConfig has every setting with its meaning. `go generate` makes it from
// the comments of Config.
//
//go:generate go test -count=1 -run ^TestConfigFiles$ . -update
//go:embed init.yaml
var exampleConfig []byte

// schemaFile is what keymill.yaml names for editors.
const schemaFile = "keymill.schema.json"

func (a *app) initCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "init [DIR]",
		Short:   "Write a commented keymill.yaml, its schema and a manifest template (CSV and XLSX)",
		Long:    "Init never replaces a file: it writes those that are missing, and says which.",
		Example: "  keymill init\n  keymill init line-3",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir := "."
			if len(args) > 0 {
				dir = args[0]
			}
			return a.init(dir)
		},
	}
}

func (a *app) init(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return withCode(exitStorage, err)
	}
	files := []struct {
		name  string
		write func(io.Writer) error
	}{
		{configFile, func(w io.Writer) error { _, err := w.Write(exampleConfig); return err }},
		{schemaFile, func(w io.Writer) error { _, err := w.Write(configSchema); return err }},
		{"manifest.csv", sources.TemplateCSV},
		{"manifest.xlsx", sources.TemplateXLSX},
	}
	for _, file := range files {
		path := filepath.Join(dir, file.name)
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			a.printf("kept   %s\n", path)
			continue
		}
		if err := writeFile(path, file.write); err != nil {
			return withCode(exitStorage, pipeline.WithHint(fmt.Errorf("%s: %w", path, err), "Choose a folder that can be written to."))
		}
		a.printf("wrote  %s\n", path)
	}
	a.printf("Next: set server and image.golden in %s, fill the manifest, then `keymill check %s`.\n",
		filepath.Join(dir, configFile), filepath.Join(dir, "manifest.csv"))
	return nil
}
