package controllers

import (
	"os"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
)

// Who has no internet must find every image and address that is used where nobody says
// another.
func TestEveryImageAndAddressIsInTheTable(t *testing.T) {
	b, err := os.ReadFile("../config/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(b), "\n## Without the internet\n")
	if !ok {
		t.Fatal("config/README.md has no such section")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	for _, want := range []string{
		DefaultRuntimeImage, DefaultCUDARuntimeImage, DefaultJudgeImage, contract.DefaultHubEndpoint,
		"--runtime-image", "--cuda-runtime-image", "--judge-image",
	} {
		if !strings.Contains(section, "`"+want+"`") {
			t.Errorf("it does not name %s", want)
		}
	}
	manager, err := os.ReadFile("../config/manager/manager.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(manager)) {
		if _, image, ok := strings.Cut(line, "image: "); ok && !strings.Contains(section, "`"+strings.TrimSpace(image)+"`") {
			t.Errorf("it does not name the manager's image %s", image)
		}
	}
}
