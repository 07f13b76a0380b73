// Package telemetry makes what an operator looks at: the log, the metrics and the profiles.
//
// It knows no other package of the server and keeps nothing global. Packages that have something to count declare the
// few methods of [Metrics] they need as an interface of their own; these take plain values, so that nobody else needs
// the metrics library.
package telemetry
