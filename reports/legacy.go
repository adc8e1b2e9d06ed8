package reports

import (
	"context"
	"slices"
	"time"
)

// The first format: one log for all lots of a station, in which other lots'
// events are subtrees that nobody can look into. A station that holds the key can
// hide events of the lot itself in them.

// checkpoints verifies the signed heads and gathers what the logs must contain.
func (v *verifier) checkpoints(context.Context) error {
	v.wants = map[string][]want{}
	for _, head := range v.st.Predicate.Logs {
		if head.Origin != Origin(head.Station) {
			return flawed(fileStatement, "the log of station %q cannot be %s", head.Station, head.Origin)
		}
		if err := v.checkpoint(head); err != nil {
			return err
		}
	}
	for _, head := range v.trust.seen {
		root, err := parseRoot(head.Root)
		if err != nil {
			return err
		}
		v.wants[head.Origin] = append(v.wants[head.Origin], want{size: head.Size, root: root, what: "the checkpoint that was cosigned last"})
	}
	for _, signed := range v.trust.Since {
		c, err := openCheckpoint(signed, v.trust.Keys, nil)
		if err != nil {
			return flawed("", "the earlier checkpoint: %v", err)
		}
		if !slices.ContainsFunc(v.st.Predicate.Logs, func(h LogHead) bool { return h.Origin == c.origin }) {
			return flawed("", "the earlier checkpoint is of %s, whose log is not in this bundle", c.origin)
		}
		v.want(c, "the earlier checkpoint")
	}
	return nil
}

func (v *verifier) want(c *checkpoint, what string) {
	v.wants[c.origin] = append(v.wants[c.origin], want{size: c.size, root: c.root, what: what})
}

func (v *verifier) checkpoint(head LogHead) error {
	name := logFile(head.Station, nameCheckpoint)
	signed, err := v.read(name, maxCheckpoint)
	if err != nil {
		return err
	}
	c, err := openCheckpoint(signed, v.trust.of(head.Station), nil)
	if err != nil {
		return flawed(name, "%v", err)
	}
	if c.note.Text != head.text() {
		return flawed(name, "is not the head that the statement names")
	}
	v.want(c, "the checkpoint")
	if err := v.cosigned(head, signed, time.Time{}); err != nil {
		return err
	}
	if err := v.timestamp(head, signed, time.Time{}); err != nil {
		return err
	}
	name = logFile(head.Station, namePrevious)
	if !v.names(name) {
		return nil
	}
	if signed, err = v.read(name, maxCheckpoint); err != nil {
		return err
	}
	previous, err := openCheckpoint(signed, v.trust.of(head.Station), nil)
	if err != nil {
		return flawed(name, "%v", err)
	}
	if previous.origin != head.Origin || previous.size >= head.Size {
		return flawed(name, "is not an earlier checkpoint of this log")
	}
	v.want(previous, "the previous checkpoint")
	return nil
}
