//go:build !amd64

package svd

// tiles returns what this processor can run, the fastest first.
func tiles() []tileFunc { return []tileFunc{plainTile} }
