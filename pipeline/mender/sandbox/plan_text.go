package sandbox

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// String returns the rule as ParsePlan reads it.
func (r Rule) String() string {
	var b strings.Builder
	switch {
	case r.AfterCalls > 0:
		fmt.Fprintf(&b, "after %d requests ", r.AfterCalls)
	case r.AfterTime > 0:
		fmt.Fprintf(&b, "after %s ", timeText(r.AfterTime))
	}
	switch {
	case r.Every > 0:
		fmt.Fprintf(&b, "every %d requests ", r.Every)
	case r.Share > 0:
		fmt.Fprintf(&b, "%s %% of requests ", percentText(r.Share))
	}
	for i, op := range r.Ops {
		fmt.Fprintf(&b, "%s %s", map[bool]string{true: "on", false: ","}[i == 0], op)
	}
	if len(r.Ops) > 0 {
		b.WriteByte(' ')
	}
	b.WriteString(r.whatText())
	switch {
	case r.Calls > 0:
		fmt.Fprintf(&b, " for %d requests", r.Calls)
	case r.Time > 0:
		fmt.Fprintf(&b, " for %s", timeText(r.Time))
	}
	return b.String()
}

func (r Rule) whatText() string {
	switch r.Fault {
	case FaultFail:
		return "answer 500"
	case FaultStored500:
		return "answer 500 after storing"
	case FaultAnswer, FaultAnswerStored:
		text := fmt.Sprintf("answer %d", r.Status)
		if r.Fault == FaultAnswerStored {
			text += " after storing"
		}
		if r.RetryAfter > 0 {
			text += fmt.Sprintf(" retry after %d s", r.RetryAfter)
		}
		return text
	case FaultResetBefore:
		return "cut"
	case FaultResetAfter:
		return "cut after storing"
	case FaultStallBefore:
		return "stall " + timeText(r.Delay)
	case FaultStallAfter:
		return "stall " + timeText(r.Delay) + " after storing"
	case FaultSlow:
		return "slow " + timeText(r.Delay)
	case FaultOrphan500:
		return "orphan"
	}
	return string(r.Fault)
}

// percentText rounds to 12 digits, within which a share and its percentage are
// the same number.
func percentText(share float64) string {
	rounded, err := strconv.ParseFloat(strconv.FormatFloat(share*100, 'g', 12, 64), 64)
	if err != nil {
		rounded = share * 100 // what FormatFloat wrote always parses
	}
	return strconv.FormatFloat(rounded, 'f', -1, 64)
}

// timeText writes a time in its largest unit that needs no fraction.
func timeText(d time.Duration) string {
	for _, unit := range [...]struct {
		of   time.Duration
		name string
	}{{time.Hour, "h"}, {time.Minute, "min"}, {time.Second, "s"}} {
		if d%unit.of == 0 {
			return strconv.FormatInt(int64(d/unit.of), 10) + " " + unit.name
		}
	}
	return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
}
