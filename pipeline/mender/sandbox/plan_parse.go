package sandbox

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"keymill/pipeline"
)

// ParsePlan reads a fault plan: one rule a line, the first that applies to a
// call decides. # begins a comment. A rule is
//
//	[after N requests | after TIME] [P % of requests | every N requests]
//	[on CALL, CALL..] WHAT [for N requests | for TIME | once]
//
// and WHAT is one of
//
//	answer STATUS [after storing] [retry after N s]
//	cut [after storing]            the connection ends without an answer
//	stall TIME [after storing]     the same, after a while
//	truncate                       the answer's body ends too soon
//	slow TIME                      the answer's body takes that long
//	orphan                         500, and a device without an auth set
//	unavailable                    the service's own 503, nothing stored
//	revoke                         401, and all tokens are dead
//
// Times are a number and ms, s, min or h. Calls are those of the management API:
// preauthorize, get, list, search, count, limit, delete, delete-auth-set,
// get-status, put-status, user, delete-token, inventory-get, inventory-search,
// inventory-tags, inventory-group, statistics. For example:
//
//	after 200 requests answer 503 for 20 s
//	5 % of requests on preauthorize, get cut after storing
//	every 50 requests answer 429 retry after 2 s
//
// Errors name line and column, and carry a hint (pipeline.Hint).
func ParsePlan(text string) (Plan, error) {
	var plan Plan
	for n, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		p := &planParser{words: splitWords(line), end: len(strings.TrimRightFunc(line, unicode.IsSpace)) + 1}
		if len(p.words) == 0 {
			continue
		}
		rule, err := p.rule()
		if err != nil {
			return nil, pipeline.WithHint(fmt.Errorf("fault plan, line %d, column %d: %w", n+1, p.column(), err),
				"a rule reads: after 200 requests 5 %% of requests on preauthorize answer 503 for 20 s")
		}
		plan = append(plan, rule)
	}
	return plan, nil
}

// word is a number, a sign, or a run of letters and hyphens.
type word struct {
	text   string
	column int // from 1, in bytes
}

// splitWords cuts a line into words; "20s" and "5%" are two each.
func splitWords(line string) []word {
	var words []word
	kindOf := func(r rune) int {
		switch {
		case unicode.IsSpace(r):
			return 0
		case r >= '0' && r <= '9' || r == '.':
			return 1
		case unicode.IsLetter(r) || r == '-':
			return 2
		}
		return 3 // each sign stands alone
	}
	last := 0
	for i, r := range line {
		kind := kindOf(r)
		if kind != 0 && (kind != last || kind == 3) {
			words = append(words, word{column: i + 1})
		}
		if kind != 0 {
			words[len(words)-1].text += string(r)
		}
		last = kind
	}
	return words
}

// planParser reads one line.
type planParser struct {
	words []word
	next  int
	end   int // column behind the line
}

func (p *planParser) peek() string {
	if p.next < len(p.words) {
		return p.words[p.next].text
	}
	return ""
}

func (p *planParser) column() int {
	if p.next < len(p.words) {
		return p.words[p.next].column
	}
	return p.end
}

// take reads the words if they come next.
func (p *planParser) take(words ...string) bool {
	for i, w := range words {
		if p.next+i >= len(p.words) || p.words[p.next+i].text != w {
			return false
		}
	}
	p.next += len(words)
	return true
}

func (p *planParser) found() string {
	if p.next >= len(p.words) {
		return "the end of the line"
	}
	return strconv.Quote(p.peek())
}

func (p *planParser) want(what string) error {
	return fmt.Errorf("%s expected, found %s", what, p.found())
}

func (p *planParser) rule() (Rule, error) {
	var r Rule
	for _, part := range []func(*Rule) error{p.begin, p.share, p.ops, p.what, p.extent} {
		if err := part(&r); err != nil {
			return Rule{}, err
		}
	}
	if p.next < len(p.words) {
		return Rule{}, p.want("the end of the rule")
	}
	return r, nil
}

func (p *planParser) begin(r *Rule) (err error) {
	if p.take("after") {
		r.AfterCalls, r.AfterTime, err = p.callsOrTime()
	}
	return err
}

func (p *planParser) share(r *Rule) (err error) {
	if p.take("every") {
		if r.Every, err = p.whole(); err == nil {
			err = p.requests()
		}
		return err
	}
	if c := p.peek(); c == "" || c[0] < '0' || c[0] > '9' {
		return nil
	}
	at := p.next
	percent, err := p.number()
	if err != nil {
		return err
	}
	if percent <= 0 || percent > 100 {
		p.next = at
		return p.want("a share above 0 and up to 100 %")
	}
	r.Share = percent / 100
	if !p.take("%") || !p.take("of") {
		return p.want(`"% of requests"`)
	}
	return p.requests()
}

// plannable is what a rule can be about.
func plannable() []Op {
	return []Op{OpPreauthorize, OpGet, OpList, OpSearch, OpCount, OpLimit, OpDelete, OpDeleteSet, OpGetStatus, OpPutStatus,
		OpUser, OpDeleteToken, OpInventoryGet, OpInventorySearch, OpInventoryTags, OpInventoryGroup, OpStatistics}
}

func (p *planParser) ops(r *Rule) error {
	if !p.take("on") {
		return nil
	}
	for {
		op := Op(p.peek())
		if !slices.Contains(plannable(), op) {
			return p.want("the name of a call, as preauthorize or get,")
		}
		p.next++
		r.Ops = append(r.Ops, op)
		if !p.take(",") {
			return nil
		}
	}
}

func (p *planParser) what(r *Rule) (err error) {
	stored := func(before, after Fault) {
		r.Fault = before
		if p.take("after", "storing") {
			r.Fault = after
		}
	}
	switch {
	case p.take("answer"):
		if r.Status, err = p.status(); err != nil {
			return err
		}
		if stored(FaultAnswer, FaultAnswerStored); p.take("retry", "after") {
			r.RetryAfter, err = p.seconds()
		}
	case p.take("cut"):
		stored(FaultResetBefore, FaultResetAfter)
	case p.take("stall"):
		if r.Delay, err = p.time(); err == nil {
			stored(FaultStallBefore, FaultStallAfter)
		}
	case p.take("slow"):
		r.Fault = FaultSlow
		r.Delay, err = p.time()
	case p.take("truncate"):
		r.Fault = FaultTruncate
	case p.take("orphan"):
		r.Fault = FaultOrphan500
	case p.take("unavailable"):
		r.Fault = FaultUnavailable
	case p.take("revoke"):
		r.Fault = FaultRevoke
	default:
		return p.want("answer, cut, stall, slow, truncate, orphan, unavailable or revoke")
	}
	return err
}

func (p *planParser) extent(r *Rule) (err error) {
	switch {
	case p.take("once"):
		r.Calls = 1
	case p.take("for"):
		r.Calls, r.Time, err = p.callsOrTime()
	}
	return err
}

// callsOrTime reads "N requests" or a time.
func (p *planParser) callsOrTime() (int, time.Duration, error) {
	at := p.next
	if n, err := p.whole(); err == nil && p.requests() == nil {
		return n, 0, nil
	}
	p.next = at
	d, err := p.time()
	return 0, d, err
}

func (p *planParser) requests() error {
	if p.take("requests") || p.take("request") {
		return nil
	}
	return p.want(`"requests"`)
}

func (p *planParser) number() (float64, error) {
	n, err := strconv.ParseFloat(p.peek(), 64)
	if err != nil || p.peek()[0] > '9' { // ParseFloat also takes "inf"
		return 0, p.want("a number")
	}
	p.next++
	return n, nil
}

// maxCount keeps counts far from overflow.
const maxCount = 1_000_000_000

func (p *planParser) whole() (int, error) {
	n, err := strconv.ParseUint(p.peek(), 10, 32)
	if err != nil || n < 1 || n > maxCount {
		return 0, p.want("a whole number from 1 to 1000000000")
	}
	p.next++
	return int(n), nil
}

func (p *planParser) status() (int, error) {
	n, err := strconv.ParseUint(p.peek(), 10, 32)
	if err != nil || n < 400 || n > 599 {
		return 0, p.want("an HTTP status from 400 to 599")
	}
	p.next++
	return int(n), nil
}

// maxTime is the longest time a rule can have.
const maxTime = 1000 * time.Hour

func (p *planParser) time() (time.Duration, error) {
	at := p.next
	n, err := p.number()
	if err != nil {
		return 0, err
	}
	var unit time.Duration
	switch p.peek() {
	case "ms":
		unit = time.Millisecond
	case "s":
		unit = time.Second
	case "min":
		unit = time.Minute
	case "h":
		unit = time.Hour
	default:
		return 0, p.want("requests or a unit (ms, s, min, h)")
	}
	p.next++
	d := time.Duration(math.Round(n * float64(unit/time.Millisecond)))
	if n*float64(unit) > float64(maxTime) || d < 1 {
		p.next = at
		return 0, p.want("a time from 1 ms to 1000 h")
	}
	return d * time.Millisecond, nil
}

func (p *planParser) seconds() (int, error) {
	at := p.next
	d, err := p.time()
	if err == nil && d%time.Second != 0 {
		p.next = at
		return 0, p.want("whole seconds")
	}
	return int(d / time.Second), err
}
