// A module of its own: it is there to show that the library that the product pins
// works with the software driver, and is no part of the product.
module vectoradd

go 1.26

require gorgonia.org/cu v0.9.6

require (
	github.com/google/uuid v1.1.1 // indirect
	github.com/pkg/errors v0.9.1 // indirect
)
