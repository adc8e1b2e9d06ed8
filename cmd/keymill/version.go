package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// packaged is the package's version; .ci/package has the linker set it.
var packaged string

// buildVersion is the package's or the module's version, or "devel" with the commit.
func buildVersion() string {
	if packaged != "" {
		return packaged
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}

// binaryHash is the SHA-256 of the running program, for the evidence.
func binaryHash() string {
	path, err := os.Executable()
	if err != nil {
		return ""
	}
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return ""
	}
	return hex.EncodeToString(hash.Sum(nil))
}

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
			}{buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH, binaryHash()}
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
	return writeJSON(a.out, v)
}

// writeJSON writes a value as indented JSON.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
