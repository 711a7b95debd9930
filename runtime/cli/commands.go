package cli

import "github.com/spf13/cobra"

// commands lists every subcommand; each lives in the file of its name.
func commands(_ *Env) []*cobra.Command {
	return []*cobra.Command{}
}
