package controllers

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// namespaces is a flag: the names of namespaces, separated by commas.
type namespaces []string

func (n *namespaces) String() string {
	if n == nil {
		return ""
	}
	return strings.Join(*n, ",")
}

func (n *namespaces) Set(s string) error {
	var all []string
	if s != "" {
		for name := range strings.SplitSeq(s, ",") {
			name = strings.TrimSpace(name)
			if problems := validation.IsDNS1123Label(name); len(problems) > 0 {
				return fmt.Errorf("%q is not the name of a namespace: %s", name, strings.Join(problems, "; "))
			}
			if slices.Contains(all, name) {
				return fmt.Errorf("%q is named twice", name)
			}
			all = append(all, name)
		}
	}
	*n = all
	return nil
}
