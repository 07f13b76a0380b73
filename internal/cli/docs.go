package cli

import (
	"github.com/posthaste/posthaste/internal/config"
)

// SettingsMarkdown returns the table of settings for the documentation.
func SettingsMarkdown() string {
	s := serveSettings{Listen: ":8080"}
	s.settings, _ = presetDefaults("standard", false)
	s.Data = defaultData
	return config.Markdown(config.Describe(&s))
}
