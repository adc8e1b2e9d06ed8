package hsm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
)

// Maker is what sources of keys made in HSM tokens implement besides Source.
type Maker interface {
	// MadeBy returns the name of the HSM token that made a key (SPKI, DER):
	// "SERIAL/LABEL". It is asked once for each key.
	MadeBy(public []byte) string
}

// Name returns how evidence names the token of an origin: "SERIAL/LABEL", or ""
// where no token is involved.
func (o Origin) Name() string {
	if o.TokenSerial == "" && o.TokenLabel == "" {
		return ""
	}
	return o.TokenSerial + "/" + o.TokenLabel
}

// OpenSpread is Open for several tokens, one a Config. Keys are spread over
// them, each getting as many as its sessions make. A token that is gone is taken
// out, which the log says, and the others go on; the source is gone with the
// last one. What a token can't do (a *RefusedError) refuses all of them:
// the keys of a lot are made in one way.
func OpenSpread(ctx context.Context, mode Mode, alg Algorithm, cfgs ...Config) (Source, error) {
	if len(cfgs) == 1 {
		return Open(ctx, mode, alg, cfgs[0])
	}
	s := &spread{alg: alg, makers: map[string]string{}, log: slog.New(slog.DiscardHandler)}
	var problems []error
	for i := range cfgs {
		s.log = cfgs[i].log()
		source, err := Open(ctx, mode, alg, cfgs[i])
		if _, isGone := errors.AsType[*GoneError](err); isGone {
			problems = append(problems, err)
			s.log.Warn("an HSM token can't be used; going on with the others", "error", err, "hint", Hint(err))
			continue
		}
		if err == nil {
			err = s.add(source)
		}
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	if len(s.members) == 0 {
		if len(problems) == 0 {
			return nil, refused("name one by keys.hsm", "no HSM token is named")
		}
		return nil, problems[0]
	}
	return s, nil
}

// spread is a source of keys from several tokens.
type spread struct {
	alg     Algorithm
	members []*member
	log     *slog.Logger

	mu     sync.Mutex        // guards makers and the members' fields
	makers map[string]string // by SPKI, until asked for
}

type member struct {
	source   Source
	name     string
	room     int // calls that keep it busy
	underway int
	gone     error // why it was taken out; nil while it works
}

// add takes a token in, unless it is there already.
func (s *spread) add(source Source) error {
	name := source.Origin().Name()
	for _, m := range s.members {
		if m.name == name {
			return errors.Join(refused("name each token once; serial= tells tokens of one label apart", "two entries of keys.hsm name the token %s", name), source.Close())
		}
	}
	s.members = append(s.members, &member{source: source, name: name, room: max(source.AtOnce(), 1)})
	return nil
}

// pick returns the token with the smallest share of its callers under way, nil
// where all are gone.
func (s *spread) pick() *member {
	s.mu.Lock()
	defer s.mu.Unlock()
	var best *member
	for _, m := range s.members {
		if m.gone == nil && (best == nil || m.underway*best.room < best.underway*m.room) {
			best = m
		}
	}
	if best != nil {
		best.underway++
	}
	return best
}

// left counts a caller out, and the token too if err says that it is gone.
func (s *spread) left(m *member, err error) (gone bool) {
	_, gone = errors.AsType[*GoneError](err)
	s.mu.Lock()
	defer s.mu.Unlock()
	m.underway--
	if !gone || m.gone != nil {
		return gone
	}
	m.gone = err
	others := 0
	for _, other := range s.members {
		if other.gone == nil {
			others++
		}
	}
	s.log.Warn("an HSM token is taken out", "token", m.name, "others", others, "error", err, "hint", Hint(err))
	return true
}

// Generate implements Source: a key that a token can't make any more is made by another.
func (s *spread) Generate(ctx context.Context, label string) (private, public []byte, err error) {
	for {
		m := s.pick()
		if m == nil {
			return nil, nil, s.allGone()
		}
		private, public, err = m.source.Generate(ctx, label)
		if gone := s.left(m, err); gone {
			continue
		}
		if err == nil {
			s.mu.Lock()
			s.makers[string(public)] = m.name
			s.mu.Unlock()
		}
		return private, public, err
	}
}

func (s *spread) allGone() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.members[len(s.members)-1].gone
	return gone(Hint(last), "all %d HSM tokens are gone: %w", len(s.members), last)
}

// MadeBy implements Maker.
func (s *spread) MadeBy(public []byte) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := s.makers[string(public)]
	delete(s.makers, string(public))
	return name
}

// AtOnce implements Source.
func (s *spread) AtOnce() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, m := range s.members {
		if m.gone == nil {
			n += m.source.AtOnce()
		}
	}
	return max(n, 1)
}

// Load implements Source: the sum over the tokens.
func (s *spread) Load() Load {
	var sum Load
	for _, m := range s.members {
		l := m.source.Load()
		sum.Sessions += l.Sessions
		sum.Keys += l.Keys
		sum.Span = max(sum.Span, l.Span)
		sum.Busy += l.Busy
		sum.Starved += l.Starved
	}
	return sum
}

// Origin implements Source: the first token's, with the others in it.
func (s *spread) Origin() Origin {
	o := s.members[0].source.Origin()
	for _, m := range s.members[1:] {
		o.Others = append(o.Others, m.source.Origin())
	}
	return o
}

// URI implements Locator.
func (s *spread) URI(public []byte) (string, error) {
	err := fmt.Errorf("keys of kind %s don't stay in a token here", s.alg)
	for _, m := range s.members {
		if locator, ok := m.source.(Locator); ok {
			var uri string
			if uri, err = locator.URI(public); err == nil {
				return uri, nil
			}
		}
	}
	return "", err
}

// Close implements Source. A token that is gone can't be closed properly.
func (s *spread) Close() error {
	var problems []error
	for _, m := range s.members {
		if err := m.source.Close(); err != nil && m.gone == nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}
