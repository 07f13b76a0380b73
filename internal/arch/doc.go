// Package arch holds no code. Its tests hold the tree to its architecture: which package may import which, what the pure
// packages must not touch, where the names of the wire are spelled, and what the public packages may show.
//
// The tables in them are a statement of intent. A change that needs another line there is a change of the architecture,
// and deserves to be argued for as one.
package arch
