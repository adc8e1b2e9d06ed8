package main

import (
	_ "embed" // of the help's pages
	"strings"

	"github.com/spf13/cobra"
)

//go:embed move-a-lot.txt
var moveALot string

// topics are pages of the help that belong to no verb.
func topics() []*cobra.Command {
	return []*cobra.Command{{
		Use:   "move-a-lot",
		Short: "How a lot, its pack and its key come onto another machine",
		Long:  strings.TrimSpace(moveALot),
	}}
}
