package storetest

// Mirror is the state of a store in maps.
type Mirror = mirror

// NewMirror returns the state of an empty store.
var NewMirror = newMirror
