package cli_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/checkpoint/checkpointtest"
	"github.com/transformersquared/operator/runtime/contract"
)

// TestOutputsMayBePipes: a flag and a variable that name files are given pipes,
// which get what is written and are not replaced.
func TestOutputsMayBePipes(t *testing.T) {
	origin, dir := t.TempDir(), t.TempDir()
	checkpointtest.Write(t, origin, checkpointtest.Tiny())
	spec, err := json.Marshal(contract.FetchSpec{Source: contract.Source{Path: origin}, DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	fetched, log := filepath.Join(dir, "fetched"), filepath.Join(dir, "termination-log")
	readers := map[string]*os.File{}
	for _, path := range []string{fetched, log} {
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		// Open for both, so that neither side waits for the other.
		if readers[path], err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
			t.Fatal(err)
		}
	}
	o := t2(t, map[string]string{contract.EnvSpec: string(spec), contract.EnvTerminationLog: log}, "", "fetch", "--fetched", fetched)
	if o.code != contract.ExitOK {
		t.Fatalf("status %d: %s", o.code, o.stderr)
	}
	for path, reader := range readers {
		if err := reader.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		var got contract.Termination
		if err := json.NewDecoder(reader).Decode(&got); err != nil || got.Model == nil {
			t.Errorf("through %s came %+v (%v)", filepath.Base(path), got, err)
		}
		if err := reader.Close(); err != nil {
			t.Error(err)
		}
		if info, err := os.Lstat(path); err != nil || info.Mode()&fs.ModeNamedPipe == 0 {
			t.Errorf("%s is no pipe any more (%v)", filepath.Base(path), err)
		}
	}
}
