package config

import "strings"

// Environ are environment variables, NAME=value each; the last of a name counts.
type Environ []string

// Get returns a variable's value, "" if it is not set.
func (e Environ) Get(name string) string {
	value := ""
	for _, pair := range e {
		if n, v, ok := strings.Cut(pair, "="); ok && n == name {
			value = v
		}
	}
	return value
}
