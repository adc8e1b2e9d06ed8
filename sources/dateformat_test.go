package sources

import (
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// TestDateLayouts compares the short way with excelize's own formatting.
func TestDateLayouts(t *testing.T) {
	codes := []string{"yyyy-mm-dd", "dd.mm.yyyy", "dd/mm/yy", "yyyy-mm-dd hh:mm:ss", "hh:mm", "mm/dd/yyyy hh:mm", "mm:ss", "yyyymmdd", `yyyy\-mm\-dd;@`, `dd\.mm\.yyyy\ hh:mm`}
	src, err := openWorkbook(write(t, "m.xlsx", parts{data: rowsAround(sn3), formats: codes}.zip(t)), Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	f := src.(*workbook).formats
	rapid.Check(t, func(t *rapid.T) {
		style := rapid.IntRange(1, len(codes)).Draw(t, "style")
		n := float64(rapid.IntRange(61, 80000).Draw(t, "day"))
		if rapid.Bool().Draw(t, "time") {
			n += float64(rapid.IntRange(0, 86399).Draw(t, "second")) / 86400
		}
		value := strconv.FormatFloat(n, 'g', 15, 64)
		if f.of(style).layout == "" {
			t.Fatalf("%s takes the long way", codes[style-1])
		}
		if short, ok := dateAs(value, f.of(style).layout, false); ok {
			if long := f.apply(formatted{style, value, false}); short != long {
				t.Fatalf("%s: %s is %q, by excelize %q", codes[style-1], value, short, long)
			}
		}
	})
	for _, code := range []string{"mmm-yy", "d.m.yyyy", "h:mm", "hh:mm AM/PM", "[h]:mm", "General", "yyyy\"x\"", "[$-407]dd/mm/yyyy", "0"} {
		if layout, ok := dateLayout(code); ok {
			t.Errorf("%s: %s", code, layout)
		}
	}
}
