package main

import (
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/pipeline"
)

// everyVerb yields a command and all below it.
func everyVerb(root *cobra.Command) iter.Seq[*cobra.Command] {
	return func(yield func(*cobra.Command) bool) {
		walkVerbs(root, yield)
	}
}

func walkVerbs(cmd *cobra.Command, yield func(*cobra.Command) bool) bool {
	if !yield(cmd) {
		return false
	}
	for _, child := range cmd.Commands() {
		if !walkVerbs(child, yield) {
			return false
		}
	}
	return true
}

func (a *app) manCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "man DIR",
		Hidden:  true,
		Short:   "Write the manual pages of all verbs, for packages",
		Example: "  keymill man share/man/man1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for verb := range everyVerb(cmd.Root()) {
				if verb.Hidden || verb.Name() == "help" {
					continue
				}
				path := filepath.Join(args[0], manName(verb)+".1")
				if err := files.Write(path, func(w io.Writer) error { return writeMan(w, verb) }); err != nil {
					return fault.As(fault.Storage, pipeline.WithHint(fmt.Errorf("%s: %w", path, err), "Name a folder that exists and can be written to."))
				}
				if err := os.Chmod(path, 0o644); err != nil {
					return fault.As(fault.Storage, err)
				}
			}
			return nil
		},
	}
}

func manName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// writeMan writes a verb's help as a manual page in man(7). It has no date, so
// that the same program makes the same page.
func writeMan(w io.Writer, cmd *cobra.Command) error {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %s 1 \"\" keymill \"keymill's manual\"\n.ad l\n.nh\n", strings.ToUpper(roff(manName(cmd))))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(manName(cmd)), roff(cmd.Short))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n", roff(cmd.UseLine()))
	long, codes, _ := strings.Cut(cmd.Long, "Exit codes:")
	if long == "" {
		long = cmd.Short
	}
	b.WriteString(".SH DESCRIPTION\n" + roffText(long))
	if cmd.HasAvailableSubCommands() {
		b.WriteString(".SH VERBS\n")
		for _, child := range cmd.Commands() {
			if child.IsAvailableCommand() {
				fmt.Fprintf(&b, ".TP\n.BR %s (1)\n%s\n", roff(manName(child)), roff(child.Short))
			}
		}
	}
	cmd.InitDefaultHelpFlag()
	b.WriteString(".SH OPTIONS\n")
	flags := func(f *pflag.Flag) {
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		kind, usage := pflag.UnquoteUsage(f)
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(strings.TrimSpace(name+" "+kind)), roff(usage))
	}
	cmd.NonInheritedFlags().VisitAll(flags)
	cmd.InheritedFlags().VisitAll(flags)
	b.WriteString(".SH EXAMPLES\n.EX\n" + roff(strings.TrimRight(cmd.Example, "\n")) + "\n.EE\n")
	if codes != "" {
		b.WriteString(".SH EXIT STATUS\n.EX\n" + roff(strings.Trim(codes, "\n")) + "\n.EE\n")
	}
	if cmd.HasParent() {
		fmt.Fprintf(&b, ".SH SEE ALSO\n.BR %s (1)\n", roff(manName(cmd.Parent())))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// roff escapes what man(7) would take for its own.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}

// roffText keeps paragraphs, and shows indented lines as they are.
func roffText(text string) string {
	var b strings.Builder
	for paragraph := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		if strings.HasPrefix(paragraph, " ") || strings.HasPrefix(paragraph, "\t") || strings.Contains(paragraph, "\n  ") {
			b.WriteString(".PP\n.EX\n" + roff(paragraph) + "\n.EE\n")
			continue
		}
		b.WriteString(".PP\n" + roff(paragraph) + "\n")
	}
	return b.String()
}
