package cli

import "github.com/spf13/cobra"

// commands lists every subcommand; each lives in the file of its name.
func commands(env *Env) []*cobra.Command {
	return []*cobra.Command{
		newFetchCommand(env),
		newDecomposeCommand(env),
		newImportCommand(env),
		newPublishCommand(env),
		newExportCommand(env),
		newInspectCommand(env),
		newTrainCommand(env),
		newAdaptCommand(env),
		newProbeCommand(env),
		newEvaluateCommand(env),
		newEvalCommand(env),
		newJudgeCommand(env),
		newGenerateCommand(env),
		newServeCommand(env),
		newExplainCommand(env),
		newDoctorCommand(env),
		newCollectCommand(env),
		newJudgeWorkerCommand(),
		newJudgeServerCommand(env),
	}
}
