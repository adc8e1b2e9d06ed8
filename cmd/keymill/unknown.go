package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/say"
	"keymill/pipeline"
)

// unknownVerb refuses arguments where a verb is expected, naming the nearest.
func unknownVerb(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var verbs []string
	for _, child := range cmd.Commands() {
		if child.IsAvailableCommand() {
			verbs = append(verbs, child.Name())
		}
	}
	return fmt.Errorf("unknown verb %q for %q%s", args[0], cmd.CommandPath(), say.DidYouMean(say.Nearest(args[0], verbs)))
}

// strict makes cobra's own verbs refuse what they don't know, too: they would
// show their help and end with 0.
func strict(root *cobra.Command) {
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "completion":
			cmd.Args = unknownVerb
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		case "help":
			cmd.Args = func(_ *cobra.Command, args []string) error {
				found, rest, err := root.Find(args)
				if err == nil && len(rest) > 0 && found.HasSubCommands() {
					err = unknownVerb(found, rest)
				}
				return err
			}
		}
	}
}

// flagProblem refuses what is no flag of a verb, naming the nearest. Where the
// verb is not known either, that comes first.
func flagProblem(cmd *cobra.Command, err error) error {
	if cmd.HasSubCommands() {
		if unknown := unknownVerb(cmd, cmd.Flags().Args()); unknown != nil {
			err = unknown
		}
	}
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
		var flags []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { flags = append(flags, "--"+f.Name) })
		err = fmt.Errorf("%w%s", err, say.DidYouMean(say.Nearest("--"+unknown.GetSpecifiedName(), flags)))
	}
	return fault.As(fault.Usage, pipeline.WithHint(err, "See `%s --help`.", cmd.CommandPath()))
}
