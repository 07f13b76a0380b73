// Package wire translates between the QStash HTTP API and the nouns of the server. It is the only place where names of the
// wire are spelled: headers, query parameters, JSON fields, path words, and the units they use.
//
// Reading: [ParseDestination] and [ParseSettings] read what a publish, an enqueue, a schedule or a batch item says;
// [ParseLogFilter], [ParseDeadFilter] and [ParseCancelFilter] read lists and bulk calls; [BatchReader] reads a batch item by
// item. Every refusal is a [posthaste.Error] of CodeInvalid (or CodeTooLarge) that names the header, parameter or field.
//
// Writing: the Append functions append the JSON of an answer to a buffer. They apply the redaction a message asks for, so
// whoever shows a message through them cannot leak what was to stay hidden.
//
// Everything accepted as text is valid UTF-8 without NUL and other control characters, so that any store can keep it. Bodies
// are bytes and pass unchanged. Nothing here looks up a name, judges an address, or knows a limit of a plan.
package wire
