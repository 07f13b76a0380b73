// Package store is the contract between the rules of the server and the engines that keep its state.
//
// An engine loads what an operation names ([Op.Want]), runs the operation's pure decision ([Op.Decide]) on it inside the
// transaction, and saves what the decision changed. It compares no limit, no state and no time beyond what a key lookup
// needs; the rules are in package ledger, once, for every engine.
//
// # Guarantees of an engine
//
//  1. Do returns nil only after the operation's changes are durable. An error means that none of them is, except when the
//     code is unavailable and the store broke during the commit; then the submitter reads to find out.
//  2. Operations are atomic and serializable in the order in which Decide saw them. Each has a View.Now of its own, later
//     than that of every operation it can have seen; so the log tells the order of operations on one message, and ids sort
//     in the order of operations of one node.
//  3. An error from one Decide drops that operation's changes and no other's, although a commit carries many.
//  4. The rows an operation names are locked before anything is written, in this order: config (only when changed), quota,
//     tick, dedup, gates, slots, dead letters, tickets; each sorted by key.
//
// # Rules that operations keep
//
//  1. An operation that does not know a ticket's path or place reads the ticket without a lock, puts its Path into Want, and
//     Decide compares; if it moved, Decide returns [ErrStale], and the submitter reads and submits again.
//  2. A Waiting ticket belongs to the lock of the gate it is parked at: it is parked, moved and removed only by operations
//     that name that gate. A Claimed one belongs to its node and fence, a Delayed or Ready one to its row's lock. Cancel
//     alone may set the Cancel mark of a foreign claim, changing neither node nor fence.
//  3. Only due messages stand at gates. A delayed or retrying one stands in the due index and goes to its first gate when
//     it is ripe. At a queue the order is that of acceptance (or of ripening), at other gates that of priority and arrival.
//  4. A message waits at one gate at a time. The queue comes first; its slot is kept through retries until the message and
//     its callbacks are resolved. Then all flow keys, with tenant and host gates, are taken together or none.
//  5. While a gate has waiting tickets and room, the Due of its first one has come (it is "fresh"); while only its window is
//     shut, the Due of the first one is the window's end; otherwise it is zero. So a sweep over those that have come, by
//     any node and at any time, continues whatever a crash cut off.
//  6. A settlement applies only while its (node, epoch, fence) is that of the claim.
//  7. Deleting a queue raises its gate's Gen. A ticket or slot with another Gen gives nothing back and is never promoted.
//  8. No limit, no row: a plain message of an unlimited tenant touches no gate and no quota row.
package store
