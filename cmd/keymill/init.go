package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/pipeline"
	"keymill/sources"
)

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
		return fault.As(fault.Storage, err)
	}
	missing := []struct {
		name  string
		write func(io.Writer) error
	}{
		{config.File, func(w io.Writer) error { _, err := w.Write(config.Example); return err }},
		{config.SchemaFile, func(w io.Writer) error { _, err := w.Write(config.Schema); return err }},
		{"manifest.csv", sources.TemplateCSV},
		{"manifest.xlsx", sources.TemplateXLSX},
	}
	for _, file := range missing {
		path := filepath.Join(dir, file.name)
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			a.printf("kept   %s\n", path)
			continue
		}
		if err := files.Write(path, file.write); err != nil {
			return fault.As(fault.Storage, pipeline.WithHint(fmt.Errorf("%s: %w", path, err), "Choose a folder that can be written to."))
		}
		a.printf("wrote  %s\n", path)
	}
	a.printf("Next: set server and image.golden in %s, fill the manifest, then `keymill check %s`.\n",
		filepath.Join(dir, config.File), filepath.Join(dir, "manifest.csv"))
	return nil
}
