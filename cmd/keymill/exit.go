package main

import (
	"fmt"
	"io"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/logs"
)

const exitCodesHelp = `Exit codes:
  0    done
  1    internal error
  2    usage or configuration
  3    manifest refused, nothing was changed
  4    finished, but some devices failed or conflict
  5    server refused or unreachable
  6    HSM
  7    image, disk or ledger
  8    audit evidence does not verify
  130  interrupted; the same command goes on from there`

// stdio is where a verb reads and writes: results to out, everything else to err.
type stdio struct {
	in  io.Reader
	out io.Writer
	err io.Writer
	// env are the settings and secrets of the environment; nil: the process's own.
	env []string
}

// report prints an error with its advice and returns its kind.
func report(stdio stdio, err error) fault.Kind {
	kind := fault.KindOf(err)
	switch {
	case err == nil || fault.IsTold(err):
		return kind
	case kind == fault.Interrupted:
		fmt.Fprintln(stdio.err, "keymill: interrupted; run the same command again to go on from here")
		return kind
	}
	fmt.Fprintln(stdio.err, logs.ErrorPriority(stdio.err)+"keymill:", err)
	if hint := fault.Hint(err); hint != "" {
		fmt.Fprintln(stdio.err, "  hint:", hint)
	}
	return kind
}
