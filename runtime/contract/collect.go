package contract

import (
	"strings"
	"time"
)

// CollectSpec tells `t2 collect` what of a volume is referred to. All else that has the
// names which the runtime gives is removed, unless it is young.
type CollectSpec struct {
	DataDir string `json:"dataDir"`
	// Keep are the names of what is referred to, by KeepName: of artifacts, of whatever
	// kind, and of runs.
	Keep []string `json:"keep"`
	// Time is when Keep was made. What has been written, or found by a run to be there
	// already, less than GraceSeconds before, or since, stays.
	Time         time.Time `json:"time"`
	GraceSeconds int64     `json:"graceSeconds"`
	// DryRun removes nothing, and says what would be.
	DryRun bool `json:"dryRun,omitempty"`
}

// KeepDigits is the length of names in CollectSpec.Keep: that of a RunID. So many digits
// of an artifact's digest tell it from any other of a volume; two that begin alike would
// both stay.
const KeepDigits = 16

// KeepName is what CollectSpec.Keep calls an artifact, by its digest, or a run, by its
// RunID; false for what is neither.
func KeepName(of string) (string, bool) {
	if ValidDigest(of) {
		return strings.TrimPrefix(of, DigestPrefix)[:KeepDigits], true
	}
	return of, ValidRunID(of)
}

// ValidRunID reports whether s is a RunID as the operator makes them: KeepDigits lower-case
// hex digits.
func ValidRunID(s string) bool {
	return len(s) == KeepDigits && strings.Trim(s, "0123456789abcdef") == ""
}

// CollectResult is what a collection came to.
type CollectResult struct {
	// Removed things of FreedBytes together.
	Removed    int   `json:"removed"`
	FreedBytes int64 `json:"freedBytes"`
	// Usage is what is there now, by kind: one of the Dir constants, or UsageOther.
	Usage []VolumeUsage `json:"usage"`
	// CapacityBytes is the size of the file system, AvailableBytes what is free of it.
	CapacityBytes  int64 `json:"capacityBytes"`
	AvailableBytes int64 `json:"availableBytes"`
}

// UsageOther is what a volume holds that the runtime has not put there.
const UsageOther = "other"

// VolumeUsage is what a kind takes of a volume.
type VolumeUsage struct {
	Kind string `json:"kind"`
	// Count of artifacts, runs or, of UsageOther, files and folders.
	Count     int   `json:"count"`
	SizeBytes int64 `json:"sizeBytes"`
}
