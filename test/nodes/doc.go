// Package nodes tests several servers over one PostgreSQL database: they share the work, and none of it is lost, repeated without
// need or put out of order when servers are killed, stopped and continued and the database crashes.
package nodes
