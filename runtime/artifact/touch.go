package artifact

import (
	"os"
	"time"
)

// Touch says that an artifact which was there already has come out of a run, as if it had
// been published now: a collection of the volume leaves alone what is young. It is called
// before the artifact is looked at, so that one which is then there stays. A volume that
// takes no times, or nothing from this process, is no reason to fail.
func Touch(dir string) {
	now := time.Now()
	_ = os.Chtimes(dir, now, now)
}
