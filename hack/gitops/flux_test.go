package gitops

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"sigs.k8s.io/yaml"
)

// Flux's own types take every field, and what refers to one another is there.
func TestFluxKnowsEveryField(t *testing.T) {
	sources, kustomizations := map[string]bool{}, map[string]*kustomizev1.Kustomization{}
	var charts []*helmv2.HelmRelease
	for _, file := range []string{"cluster.yaml", "operator/helmrelease.yaml"} {
		content, err := os.ReadFile(filepath.Join("../../config/flux", file))
		if err != nil {
			t.Fatal(err)
		}
		for document := range strings.SplitSeq(string(content), "\n---\n") {
			var kind struct {
				Kind string `json:"kind"`
			}
			if err := yaml.Unmarshal([]byte(document), &kind); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			var object any
			switch kind.Kind {
			case sourcev1.GitRepositoryKind:
				object = &sourcev1.GitRepository{}
			case kustomizev1.KustomizationKind:
				object = &kustomizev1.Kustomization{}
			case helmv2.HelmReleaseKind:
				object = &helmv2.HelmRelease{}
			default:
				t.Fatalf("%s has a %q, of which this test knows nothing", file, kind.Kind)
			}
			if err := yaml.UnmarshalStrict([]byte(document), object); err != nil {
				t.Errorf("%s: %v", file, err)
			}
			switch object := object.(type) {
			case *sourcev1.GitRepository:
				sources[object.Name] = true
			case *kustomizev1.Kustomization:
				kustomizations[object.Name] = object
			case *helmv2.HelmRelease:
				charts = append(charts, object)
			}
		}
	}
	exists := func(path string) {
		if _, err := os.Stat(filepath.Join("../..", path)); err != nil {
			t.Errorf("Flux would find nothing: %v", err)
		}
	}
	for name, k := range kustomizations {
		exists(k.Spec.Path)
		if !sources[k.Spec.SourceRef.Name] || !k.Spec.Wait {
			t.Errorf("Kustomization %s has source %q and wait %v", name, k.Spec.SourceRef.Name, k.Spec.Wait)
		}
		for _, before := range k.Spec.DependsOn {
			if kustomizations[before.Name] == nil {
				t.Errorf("Kustomization %s depends on %s, which is not there", name, before.Name)
			}
		}
	}
	for _, release := range charts {
		exists(release.Spec.Chart.Spec.Chart + "/Chart.yaml")
		if !sources[release.Spec.Chart.Spec.SourceRef.Name] {
			t.Errorf("HelmRelease %s has source %q", release.Name, release.Spec.Chart.Spec.SourceRef.Name)
		}
	}
	if len(kustomizations) != 2 || len(charts) != 1 {
		t.Errorf("there are %d Kustomizations and %d HelmReleases", len(kustomizations), len(charts))
	}
}
