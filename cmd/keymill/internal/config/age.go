package config

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"keymill/cmd/keymill/internal/fault"
)

// ParseAge reads an age in days (90d) or as a Go duration; -1 for none.
func ParseAge(text string) (time.Duration, error) { return parseAge("retention.older_than", text) }

// ShelfFor is how long devices may lie unused before their first boot; 0 where
// nothing is said about it.
func (s *ServerConfig) ShelfFor() time.Duration {
	d, err := parseAge("server.shelf_life", s.ShelfLife)
	if err != nil {
		return 0 // it was checked when the configuration was read
	}
	return max(d, 0)
}

// parseAge reads the age that a setting names.
func parseAge(setting, text string) (time.Duration, error) {
	if text == "" {
		return -1, nil
	}
	age, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		n, err = strconv.Atoi(days)
		age = time.Duration(n) * 24 * time.Hour
		if n > 100_000 {
			err = errors.New("too long")
		}
	}
	if err != nil || age < 0 {
		return 0, fault.Usagef("%s is %q; it is a number of days, such as 90d", setting, text)
	}
	return age, nil
}
