package main

import (
	"runtime"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/build"
	"keymill/cmd/keymill/internal/say"
)

func (a *app) versionCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Show the program's version and build",
		Example: "  keymill version\n  keymill version --json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			build := struct {
				Version string `json:"version"`
				Go      string `json:"go"`
				OS      string `json:"os"`
				Arch    string `json:"arch"`
				SHA256  string `json:"sha256"`
			}{build.Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH, build.Hash()}
			if a.json {
				return a.writeJSON(build)
			}
			a.printf("keymill %s (%s %s/%s)\nsha256 of the program: %s\n", build.Version, build.Go, build.OS, build.Arch, build.SHA256)
			return nil
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) jsonFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.json, "json", false, "print the result as JSON")
}

func (a *app) writeJSON(v any) error {
	return say.JSON(a.out, v)
}
