package wire

import "strings"

// HasCron reports whether a publish names a cron expression, and so asks for a schedule.
func HasCron(in Input) bool {
	if len(in.Header[HeaderCron]) > 0 {
		return true
	}
	for _, p := range in.Query {
		if strings.EqualFold(p.Name, HeaderCron) {
			return true
		}
	}
	return false
}
