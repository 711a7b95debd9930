package cli

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/pflag"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/source"
	"github.com/transformersquared/operator/runtime/train/dataset"
	"github.com/transformersquared/operator/runtime/train/reward"
)

// registerDataset adds the flags that name a data set and a reward.
func registerDataset(flags *pflag.FlagSet, spec *contract.DatasetSpec, kind, python *string) {
	flags.StringVar(&spec.Path, "dataset", "",
		"file, or where it is (http(s)://…, hf://…, s3://…, oci://…): JSON objects, one a line or in one array, gzip or not (required)")
	flags.StringVar(&spec.Format, "format", "", "one of "+strings.Join(dataset.Formats(), ", ")+" (required)")
	flags.StringVar(&spec.Digest, "dataset-digest", "", "sha256:… that the file must have")
	flags.StringVar(kind, "reward", "", "one of "+strings.Join(reward.Kinds(), ", ")+"; without it, the one that fits the format")
	registerPython(flags, python)
}

// loadDataset reads the data set that the flags name and opens its judge, which
// the caller closes. *kind becomes the reward that fits the format where none
// was named.
func loadDataset(ctx context.Context, env *Env, python string, spec *contract.DatasetSpec, kind *string) (*dataset.Set, reward.Judge, error) {
	if spec.Path == "" || spec.Format == "" {
		return nil, nil, usagef("--dataset and --format are needed")
	}
	from, err := source.Parse(spec.Path, env.Getenv)
	if err != nil {
		return nil, nil, &UsageError{Err: err}
	}
	if spec.Path, spec.HuggingFace, spec.S3, spec.OCI = from.Path, from.HuggingFace, from.S3, from.OCI; from.HTTP != nil {
		spec.URL = from.HTTP.URL
	}
	if *kind == "" {
		*kind = dataset.DefaultReward(spec.Format)
	}
	programs, err := env.programs(python)
	if err != nil {
		return nil, nil, err
	}
	judge, err := reward.New(*kind, programs)
	if err != nil {
		return nil, nil, &UsageError{Err: err}
	}
	set, err := dataset.Load(ctx, *spec, judge)
	if err != nil {
		return nil, nil, errors.Join(err, judge.Close())
	}
	return set, judge, nil
}
