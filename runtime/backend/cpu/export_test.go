package cpu

// OpenPath opens a backend of a path, also of one that is emulated.
var OpenPath = newWithPath
