// Package posthaste holds the vocabulary of the server: the nouns, states, limits and error codes that every other package shares.
package posthaste
