package sources

import (
	"strconv"
	"strings"
	"time"

	"github.com/xuri/excelize/v2"
)

// dateLayout returns a number format code as a layout of package time, for codes
// of numbers and separators only, such as yyyy-mm-dd hh:mm:ss. excelize formats
// all others: it takes 50 times as long, which matters where every row has a
// time of its own.
func dateLayout(code string) (layout string, ok bool) {
	var b strings.Builder
	hours := false
	code = strings.NewReplacer(`\-`, "-", `\.`, ".", `\/`, "/", `\ `, " ").Replace(strings.TrimSuffix(code, ";@"))
	for rest := code; rest != ""; {
		n := 1
		for n < len(rest) && rest[n] == rest[0] {
			n++
		}
		switch token := rest[:n]; token {
		case "yyyy":
			b.WriteString("2006")
		case "yy":
			b.WriteString("06")
		case "mm":
			if hours || strings.HasPrefix(rest[n:], ":ss") {
				b.WriteString("04")
			} else {
				b.WriteString("01")
			}
		case "dd":
			b.WriteString("02")
		case "hh":
			b.WriteString("15")
		case "ss":
			b.WriteString("05")
		case "-", "/", ".", ":", " ":
			b.WriteString(token)
		default:
			return "", false
		}
		if rest[0] != ':' { // mm behind hh: are minutes
			hours = rest[:n] == "hh"
		}
		rest = rest[n:]
	}
	return b.String(), true
}

// dateAs formats a date's number by a layout, as long as it is one of whole
// seconds: how others are rounded is excelize's.
func dateAs(value, layout string, date1904 bool) (string, bool) {
	n, err := strconv.ParseFloat(value, 64)
	if err != nil || n < 61 { // before March 1900 Excel's calendar has a day of its own
		return "", false
	}
	t, err := excelize.ExcelDateToTime(n, date1904)
	if err != nil {
		return "", false
	}
	whole := t.Round(time.Second)
	if d := t.Sub(whole); d > time.Millisecond || d < -time.Millisecond {
		return "", false
	}
	return whole.Format(layout), true
}
