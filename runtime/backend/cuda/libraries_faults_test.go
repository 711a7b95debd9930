//go:build cuda

package cuda

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/cuda/cumath"
)

// Where the exercise looks for libraries, and that it must have them.
const (
	envPath     = "LD_LIBRARY_PATH"
	withBLAS    = EnvCuBLAS + "=always"
	withSolver  = EnvCuSOLVER + "=always"
	soBLAS      = "libcublas.so.12"
	soSolver    = "libcusolver.so.11"
	soDriver    = "libcuda.so.1"
	notFinished = "error:"
)

// needsStandIns skips on a device, where libraries cannot be told to fail.
func needsStandIns(t *testing.T) {
	t.Helper()
	if !onSoftware(t) {
		t.Skip("the driver and its libraries are a device's, which cannot be told to fail")
	}
}

// TestEveryCallOfTheLibrariesMayFail lets each call of cuBLAS and cuSOLVER fail, and wants
// the error to name it.
func TestEveryCallOfTheLibrariesMayFail(t *testing.T) {
	needsStandIns(t)
	for _, entry := range slices.Concat(cumath.BLASEntries(), cumath.SolverEntries()) {
		t.Run(entry, func(t *testing.T) {
			const internal = "14" // Of cuBLAS; cuSOLVER has no such status, and its number is told.
			output, failed := run(t, envFail+"="+entry+":1:"+internal, withBLAS, withSolver)
			_, told, _ := strings.Cut(output, notFinished)
			if !failed || !strings.Contains(told, entry) || strings.Contains(output, "panic") || strings.Contains(output, "SIG") {
				t.Errorf("want an error that names %s, got:\n%s", entry, output)
			}
		})
	}
	for failure, want := range map[string]string{
		"cublasCreate_v2:1:3":              backend.ErrDeviceMemory.Error(),
		"cublasCreate_v2:1:8":              backend.ErrDeviceUnsupported.Error(),
		"cublasCreate_v2:1:1":              "CUBLAS_STATUS_NOT_INITIALIZED; it may need a newer driver",
		"cublasGemmEx:2:13":                backend.ErrDeviceLost.Error(),
		"cublasGemmEx:3:7":                 "CUBLAS_STATUS_INVALID_VALUE",
		"cublasGemmEx:1:99":                "status 99",
		"cusolverDnDgesvdj:1:2":            backend.ErrDeviceMemory.Error(),
		"cusolverDnDgesvdj:1:6":            backend.ErrDeviceLost.Error(),
		"cusolverDnDgesvdj_bufferSize:1:3": "CUSOLVER_STATUS_INVALID_VALUE",
		"cuLaunchKernel:1:719:sticky":      backend.ErrDeviceLost.Error(),
	} {
		if output, failed := run(t, envFail+"="+failure, withBLAS, withSolver); !failed || !strings.Contains(output, want) {
			t.Errorf("%s: want an error with %q, got:\n%s", failure, want, output)
		}
	}
}

// folder makes a folder with links, and returns what LD_LIBRARY_PATH is with it, the
// driver's folder, and no other.
func folder(t *testing.T, links map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, to := range links {
		if err := os.Symlink(inPath(t, to), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return envPath + "=" + dir + string(os.PathListSeparator) + filepath.Dir(inPath(t, soDriver))
}

// inPath finds a library as the dynamic loader does.
func inPath(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range filepath.SplitList(os.Getenv(envPath)) {
		path, err := filepath.Abs(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Fatalf("%s is in no folder of %s: hack/softcuda/build.sh makes it", name, envPath)
	return ""
}

// TestLibrariesAreFoundByTheirNames offers libraries of several major versions, of one, of
// none, and one that lacks what is called.
func TestLibrariesAreFoundByTheirNames(t *testing.T) {
	needsStandIns(t)
	for name, c := range map[string]struct {
		links map[string]string
		env   []string
		want  []string
		fails bool
	}{
		"cuBLAS 13":          {map[string]string{"libcublas.so.13": soBLAS}, []string{withBLAS}, []string{"cuBLAS: cuBLAS 12.4.5 (libcublas.so.13): products"}, false},
		"cuBLAS 12":          {map[string]string{soBLAS: soBLAS}, []string{EnvCuBLAS + "=Training"}, []string{"(libcublas.so.12): backward products"}, false},
		"cuBLAS 11":          {map[string]string{"libcublas.so.11": soBLAS}, []string{EnvCuBLAS + "=auto"}, []string{"(libcublas.so.11): backward products"}, false},
		"the newest of two":  {map[string]string{"libcublas.so.11": soBLAS, "libcublas.so.13": soBLAS}, []string{withBLAS}, []string{"(libcublas.so.13)"}, false},
		"one that lacks all": {map[string]string{"libcublas.so.13": soSolver, soBLAS: soBLAS}, []string{withBLAS}, []string{"(libcublas.so.12)"}, false},
		"only such": {map[string]string{"libcublas.so.13": soSolver}, []string{withBLAS},
			[]string{"libcublas.so.13: it has no cublasGetProperty", "libcublas.so.12: cannot open", "libcublas.so.11: cannot open"}, true},
		"no cuBLAS": {nil, []string{withBLAS}, []string{"cuBLAS: not found", "libcublas.so.13: cannot open", "libcublas.so.12: cannot open",
			"libcublas.so.11: cannot open", "LD_LIBRARY_PATH", "--cublas never", EnvCuBLAS}, true},
		"cuBLAS if it is there":   {nil, []string{EnvCuBLAS + "=auto"}, []string{"cuBLAS: not used (cuBLAS: not found", "libcublas.so.13: cannot open", "our own kernels"}, false},
		"cuBLAS unasked":          {map[string]string{soBLAS: soBLAS}, nil, []string{"cuBLAS: not used: all products", "cuSOLVER: not used"}, false},
		"cuSOLVER 12":             {map[string]string{"libcusolver.so.12": soSolver}, []string{withSolver}, []string{"cuSOLVER 11.6.1 (libcusolver.so.12): decomposing"}, false},
		"cuSOLVER 11":             {map[string]string{soSolver: soSolver}, []string{EnvCuSOLVER + "=auto"}, []string{"(libcusolver.so.11): decomposing"}, false},
		"no cuSOLVER":             {nil, []string{withSolver}, []string{"libcusolver.so.12: cannot open", "libcusolver.so.11: cannot open", "--cusolver never"}, true},
		"cuSOLVER if it is there": {nil, []string{EnvCuSOLVER + "=auto"}, []string{"cuSOLVER: not used ("}, false},
		"a driver too old for it": {map[string]string{soBLAS: soBLAS}, []string{EnvCuBLAS + "=auto", envFail + "=cublasCreate_v2:1:1"},
			[]string{"cuBLAS: not used (cublasCreate_v2 of cuBLAS (libcublas.so.12): CUBLAS_STATUS_NOT_INITIALIZED): all products are our own"}, false},
		"a use that is none": {nil, []string{EnvCuBLAS + "=perhaps"}, []string{EnvCuBLAS, `"perhaps" is none of never, training, always, auto`}, true},
		"a use of the other": {nil, []string{EnvCuSOLVER + "=training"}, []string{"cuSOLVER is used for [never always auto]"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			output, failed := run(t, append(c.env, folder(t, c.links))...)
			if failed != c.fails || failed && !strings.Contains(output, backend.ErrLibrary.Error()) {
				t.Fatalf("failed: %v, want %v:\n%s", failed, c.fails, output)
			}
			for _, want := range c.want {
				if !strings.Contains(output, want) {
					t.Errorf("want %q in:\n%s", want, output)
				}
			}
		})
	}
}
