package source_test

import (
	"crypto"
	"crypto/elliptic"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/source"
)

// modelSigningProgram has testdata/signed/modelsigning written anew: the model of
// testdata/signed/model as OpenSSF's tool itself signs it.
// hack/golden/signatures.sh does it.
var modelSigningProgram = flag.String("model-signing", "", "`program`: write testdata/signed/modelsigning anew with this model-signing")

const modelSignatures = "testdata/signed/modelsigning"

// modelSigningCurves are the kinds of keys that the tool takes.
var modelSigningCurves = map[string]string{"p256": "prime256v1", "p384": "secp384r1", "p521": "secp521r1"}

// recordModelSigning lets the tool sign the model with a key of each kind, and keeps public
// keys and signatures.
func recordModelSigning(t *testing.T, program string) {
	t.Helper()
	if err := os.RemoveAll(modelSignatures); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(modelSignatures, 0o755); err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
	}
	for key, curve := range modelSigningCurves {
		private, public := filepath.Join(home, key), filepath.Join(modelSignatures, key+".pub")
		run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:"+curve, "-out", private)
		run("openssl", "pkey", "-in", private, "-pubout", "-out", public)
		run(program, "sign", "key", "--private-key", private, "--signature", filepath.Join(modelSignatures, key+".sig"), signedModel)
	}
}

func TestWhatModelSigningWrites(t *testing.T) {
	if *modelSigningProgram != "" {
		recordModelSigning(t, *modelSigningProgram)
	}
	stranger := elliptical(t, elliptic.P256(), crypto.SHA256)
	for key := range modelSigningCurves {
		public := string(load(t, filepath.Join(modelSignatures, key+".pub")))
		fetch := func(t *testing.T, keys string, change func(dir string)) (source.Fetched, error) {
			t.Helper()
			dir := t.TempDir()
			for name, b := range files(t, signedModel, "") {
				save(t, filepath.Join(dir, name), b)
			}
			save(t, filepath.Join(dir, contract.SignatureFile), load(t, filepath.Join(modelSignatures, key+".sig")))
			change(dir)
			return source.FetchModel(t.Context(), verifying(contract.Source{Path: dir}, t.TempDir(), contract.VerifyModelSigning, keys), source.Options{})
		}
		none := func(string) {}
		t.Run(key, func(t *testing.T) {
			for _, keys := range []string{public, stranger.public + public} {
				got, err := fetch(t, keys, none)
				if err != nil {
					t.Fatal(err)
				}
				if got.Verified == nil || got.Verified.Method != contract.VerifyModelSigning || got.Verified.KeyID == stranger.id {
					t.Errorf("it was verified: %+v", got.Verified)
				}
			}
			_, err := fetch(t, stranger.public, none)
			refused(t, err, contract.ReasonSignatureInvalid, contract.SignatureFile, stranger.id)
			for name := range files(t, signedModel, "") {
				_, err := fetch(t, public, func(dir string) {
					b := load(t, filepath.Join(dir, name))
					b[len(b)-1] ^= 1
					save(t, filepath.Join(dir, name), b)
				})
				refused(t, err, contract.ReasonSignatureInvalid, name)
			}
		})
	}
}
