package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

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
	return fmt.Errorf("unknown verb %q for %q%s", args[0], cmd.CommandPath(), didYouMean(nearest(args[0], verbs)))
}

// flagProblem refuses what is no flag of a verb, naming the nearest.
func flagProblem(cmd *cobra.Command, err error) error {
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
		var flags []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { flags = append(flags, "--"+f.Name) })
		err = fmt.Errorf("%w%s", err, didYouMean(nearest("--"+unknown.GetSpecifiedName(), flags)))
	}
	return withCode(exitUsage, pipeline.WithHint(err, "See `%s --help`.", cmd.CommandPath()))
}
