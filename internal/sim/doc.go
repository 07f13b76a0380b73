// Package sim holds a simulation of the whole server: seeded random histories of API calls, failures of destinations, outages
// of the store, crashes, restarts and leaps of the clock, each in a bubble of virtual time, with deliveries going through a
// virtual network. A checker that knows only what destinations saw and what the API says then holds the server to its promises:
//
//  1. What was accepted ends DELIVERED, FAILED and in the dead letter queue, or CANCELED, and was attempted as its log says.
//  2. After a confirmed cancel of a message that is not in flight there is no attempt of it, and after one of a message in
//     flight none that follows, no callback, no dead letter.
//  3. Queues keep their order and their parallelism, callbacks included; flow keys keep parallelism, rate and the order of
//     those who wait; nothing waits that may start.
//  4. A tick fires once, and none is missed while the server is up.
//  5. Every counter of the API is true whenever nothing moves.
//  6. Signatures, headers, bodies, callbacks, retries and deduplication are as documented.
//
// POSTHASTE_HISTORIES sets how many histories are run and POSTHASTE_FIRST_SEED with which seed they begin; make sim runs many.
// POSTHASTE_SEED runs a single one again, and POSTHASTE_OPS only some of its steps, as a failure prints them. A seed repeats
// what is planned; which goroutine runs first is not in its hands, so a failure may come once in several runs only.
package sim
