package cli

import (
	"fmt"

	"github.com/spf13/pflag"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
)

// Flags that say whose signature a source must have.
const (
	flagCosignKey       = "cosign-key"
	flagModelSigningKey = "model-signing-key"
)

// maxKeyFile bounds a file of public keys, in bytes.
const maxKeyFile = 1 << 20

// verifyFlags are those flags.
type verifyFlags struct {
	cosign, modelSigning string
}

func (f *verifyFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.cosign, flagCosignKey, "", "take an artifact of a registry only if cosign signed it by a public key in `FILE` (PEM)")
	flags.StringVar(&f.modelSigning, flagModelSigningKey, "",
		"take a folder only if its "+contract.SignatureFile+" (OpenSSF model signing) is by a public key in `FILE` (PEM) and has its files")
}

// verification reads the keys; nil without flags.
func (f *verifyFlags) verification() (*contract.Verification, error) {
	var flag, path, method string
	switch {
	case f.cosign != "" && f.modelSigning != "":
		return nil, usagef("give one of --%s and --%s", flagCosignKey, flagModelSigningKey)
	case f.cosign != "":
		flag, path, method = flagCosignKey, f.cosign, contract.VerifyCosign
	case f.modelSigning != "":
		flag, path, method = flagModelSigningKey, f.modelSigning, contract.VerifyModelSigning
	default:
		return nil, nil
	}
	keys, err := artifact.ReadBounded(path, maxKeyFile)
	if err != nil {
		return nil, &UsageError{Err: fmt.Errorf("--%s: %w", flag, err)}
	}
	return &contract.Verification{Method: method, Keys: string(keys), From: path}, nil
}
