package config

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"keymill/cmd/keymill/internal/fault"
)

// ParseAge reads an age in days (90d) or as a Go duration; -1 for none.
func ParseAge(text string) (time.Duration, error) {
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
		return 0, fault.Usagef("retention.older_than is %q; it is a number of days, such as 90d", text)
	}
	return age, nil
}
