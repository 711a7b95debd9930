package contract

import "runtime/debug"

// release is the version of a release, which hack/release.sh has the linker write here:
// builds for it know of no commit, so that the same one gives the same bytes anywhere.
var release string

// Version says what a program was built from, as far as the build knows: the release, the
// module's version, or the commit.
func Version() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (v == "" || v == "(devel)") {
			return s.Value
		}
	}
	return v
}
